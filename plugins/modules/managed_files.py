#!/usr/bin/python
# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: managed_files
short_description: All files of a role in one call
version_added: 0.1.0
description:
  - Brings a whole set of directories, files and symbolic links to the wanted state,
    and removes what is no longer wanted.
  - One call costs one round trip however many files there are. A looped M(ansible.builtin.copy) costs one each.
  - Paths are walked without following a link that an unprivileged user could have planted.
    Files are replaced in one rename.
extends_documentation_fragment:
  - cordon.agent_host.attributes
author: the cordon.agent_host authors (@cordon)
options:
  directories:
    description: Directories to have, in the order in which they are to be made.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      mode:
        description: Permission bits in octal, as a string.
        type: str
      owner:
        description: Name of the owner.
        type: str
        default: root
      group:
        description: Name of the group.
        type: str
        default: root
  files:
    description: Files to have. Their directory must exist or be listed in O(directories).
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      content:
        description: The whole text.
        type: str
        required: true
      mode:
        description: Permission bits in octal, as a string.
        type: str
      owner:
        description: Name of the owner.
        type: str
        default: root
      group:
        description: Name of the group.
        type: str
        default: root
  links:
    description: Symbolic links to have.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path of the link.
        type: path
        required: true
      target:
        description: What it points to.
        type: str
        required: true
  purge:
    description:
      - Directories of which entries that match a pattern and are not listed here are removed,
        directories with all that is in them.
    type: list
    elements: dict
    default: []
    suboptions:
      directory:
        description: Absolute path of the directory. Nothing happens where it does not exist.
        type: path
        required: true
      pattern:
        description: Shell pattern of names, for example V(cordon-*.conf).
        type: str
        required: true
"""

EXAMPLES = r"""
- name: Install the programs and their configuration
  cordon.agent_host.managed_files:
    directories:
      - {path: /etc/cordon, mode: "0755"}
    files:
      - path: /etc/cordon/manifest.json
        content: "{{ manifest | to_nice_json }}"
        mode: "0640"
    links:
      - {path: /usr/local/sbin/cordonctl, target: /usr/lib/cordon/cordonctl}
    purge:
      - {directory: /etc/cordon/agents, pattern: "*.conf"}
"""

RETURN = r"""
changed_paths:
  description: Paths that were, or in check mode would be, made, replaced, corrected or removed.
  returned: success
  type: list
  elements: str
  sample: [/etc/cordon/manifest.json]
"""

import fnmatch
import grp
import os
import pwd
from functools import partial
from typing import Any, Callable, Dict, List

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.cordon.agent_host.plugins.module_utils import _files


class Changes:
    """What differs, and how to show it."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.paths: List[str] = []
        self.diff: List[Dict[str, str]] = []

    def apply(self, path: str, before: _files.Entry, after: _files.Entry, act: Callable[[], None]) -> None:
        """Note a difference and act on it, unless this is a check."""
        self.paths.append(path)
        self.diff.append(
            {
                "before_header": path,
                "after_header": path,
                "before": _shown(before),
                "after": _shown(after, hide_text=before.text == after.text),
            }
            if before.text != after.text
            else {
                "before_header": path,
                "after_header": path,
                "before": _attributes(before),
                "after": _attributes(after),
            }
        )
        if not self.module.check_mode:
            act()


def _attributes(entry: _files.Entry) -> str:
    if entry.kind == "absent":
        return "absent\n"
    if entry.kind == "link":
        return f"link to {entry.text}\n"
    return f"{entry.kind} {entry.mode:04o} uid {entry.uid} gid {entry.gid}\n"


def _shown(entry: _files.Entry, hide_text: bool = False) -> str:
    text = entry.text if entry.kind == "file" and not hide_text else ""
    return _attributes(entry) + (text or "")


def _id(module: AnsibleModule, path: str, what: str, name: str) -> int:
    """Number of a user or group; -1 in check mode for one that an earlier task would have made."""
    try:
        return pwd.getpwnam(name).pw_uid if what == "owner" else grp.getgrnam(name).gr_gid
    except KeyError:
        if module.check_mode:
            return -1
        raise ValueError(f"{path}: {what} {name!r} does not exist on this host: create it first") from None


def _wanted(module: AnsibleModule, kind: str, spec: Dict[str, Any]) -> _files.Entry:
    default = "0755" if kind == "directory" else "0644"
    try:
        mode = int(spec["mode"] or default, 8)
    except ValueError:
        raise ValueError(
            f'{spec["path"]}: mode {spec["mode"]!r} is not octal: write for example "0640"'
        ) from None
    uid = _id(module, spec["path"], "owner", spec["owner"])
    gid = _id(module, spec["path"], "group", spec["group"])
    return _files.Entry(kind, mode, uid, gid, spec.get("content"))


def _parent(module: AnsibleModule, path: str) -> int:
    """Open the parent directory; -1 in check mode where an earlier step would have made it."""
    try:
        return _files.open_parent(path)
    except FileNotFoundError:
        if module.check_mode:
            return -1
        raise ValueError(f"{path}: its directory does not exist: list it under 'directories'") from None


def _ensure(changes: Changes, path: str, wanted: _files.Entry, act: Callable[[int, str], None]) -> None:
    parent = _parent(changes.module, path)
    try:
        name = _files.split(path)[1]
        before = _files.observe(parent, name) if parent >= 0 else _files.ABSENT
        if "directory" in (before.kind, wanted.kind) and before.kind not in ("absent", wanted.kind):
            raise ValueError(
                f"{path}: a {before.kind} stands there where a {wanted.kind} is wanted: move it away"
            )
        if before != wanted:
            changes.apply(path, before, wanted, lambda: act(parent, name))
    finally:
        if parent >= 0:
            os.close(parent)


def _owned(
    changes: Changes, kind: str, specs: List[Dict[str, Any]], write: Callable[..., None]
) -> None:
    """Directories and files: what has an owner and a mode."""
    for spec in specs:
        wanted = _wanted(changes.module, kind, spec)
        _ensure(changes, spec["path"], wanted, partial(write, wanted=wanted))


def _links(changes: Changes, specs: List[Dict[str, Any]]) -> None:
    for spec in specs:
        target = spec["target"]
        # A link has neither mode nor a meaningful owner: root made it, compare the target alone.
        wanted = _files.Entry("link", 0o777, 0, 0, target)
        _ensure(changes, spec["path"], wanted, partial(_files.make_link, target=target))


def _purge(changes: Changes, specs: List[Dict[str, Any]], listed: List[str]) -> None:
    for spec in specs:
        try:
            parent = _files.open_parent(spec["directory"] + "/x")
        except FileNotFoundError:
            continue
        try:
            _purge_directory(changes, spec, parent, set(listed))
        finally:
            os.close(parent)


def _purge_directory(changes: Changes, spec: Dict[str, str], parent: int, listed: set) -> None:
    for name in sorted(fnmatch.filter(os.listdir(parent), spec["pattern"])):
        path = f"{spec['directory']}/{name}"
        if path not in listed:
            before = _files.observe(parent, name)
            changes.apply(path, before, _files.ABSENT, partial(_files.remove, parent, name))


def _options() -> Dict[str, Any]:
    path = {"type": "path", "required": True}
    owned = {
        "path": path,
        "mode": {"type": "str"},
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str", "default": "root"},
    }
    return {
        "directories": {"type": "list", "elements": "dict", "default": [], "options": owned},
        "files": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {"content": {"type": "str", "required": True}, **owned},
        },
        "links": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {"path": path, "target": {"type": "str", "required": True}},
        },
        "purge": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {"directory": path, "pattern": {"type": "str", "required": True}},
        },
    }


def main() -> None:
    module = AnsibleModule(argument_spec=_options(), supports_check_mode=True)
    changes = Changes(module)
    wanted = module.params
    try:
        _owned(changes, "directory", wanted["directories"], _files.make_directory)
        _owned(changes, "file", wanted["files"], _files.write_file)
        _links(changes, wanted["links"])
        listed = [spec["path"] for kind in ("directories", "files", "links") for spec in wanted[kind]]
        _purge(changes, wanted["purge"], listed)
    except (ValueError, OSError, _files.UnsafePath) as error:
        module.fail_json(msg=f"managed_files: {error}", changed_paths=changes.paths)
    module.exit_json(changed=bool(changes.paths), changed_paths=changes.paths, diff=changes.diff)


if __name__ == "__main__":
    main()
