#!/usr/bin/python
# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: apparmor_profiles
short_description: All AppArmor profiles of the agents, in files and in the kernel, in one call
version_added: 0.1.0
description:
  - Brings the files and the kernel to the wanted set of profiles. Both are compared, so a profile that somebody
    edited, unloaded, replaced or put in complain is a change, and it is mended.
  - Compares with the kernel's own hash of the policy. An unchanged run starts no parser.
  - Compiles everything before it replaces anything, loads what differs in one call of the parser, and puts files and
    kernel back if that fails.
  - Touches only files and profiles whose name begins with C(cordon.). Such a one that is not listed is removed, but
    never while a process runs under it, because the kernel would set that process free.
extends_documentation_fragment:
  - cordon.agent_host.attributes
author: the cordon.agent_host authors (@cordon)
options:
  profiles:
    description:
      - Every profile to have, as P(cordon.agent_host.apparmor_profiles#filter) renders them. An empty list removes all.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the profile and of its file. It begins with C(cordon.).
        type: str
        required: true
      mode:
        description: Mode that the text asks for.
        type: str
        choices: [enforce, complain]
        required: true
      text:
        description: The whole file, with exactly one profile.
        type: str
        required: true
      agent:
        description: The agent that it belongs to. Only told in messages.
        type: str
  allow_unenforced:
    description:
      - Whether to go on where the kernel has no AppArmor, as in a container. The files are written, nothing is loaded,
        and RV(enforced) is V(false).
      - Otherwise such a host is an error.
    type: bool
    default: false
  directory:
    description: Where the files are. Debian's apparmor.service loads this directory at boot.
    type: path
    default: /etc/apparmor.d
  record:
    description: Where the module writes which policy hash and mode the kernel had after loading, for whoever verifies.
    type: path
    default: /etc/cordon/apparmor.json
"""

EXAMPLES = r"""
- name: Load the cages
  cordon.agent_host.apparmor_profiles:
    profiles: "{{ agent_host_agents | cordon.agent_host.agents | cordon.agent_host.apparmor_profiles }}"

- name: Take all cages away, once no agent runs
  cordon.agent_host.apparmor_profiles:
    profiles: []
"""

RETURN = r"""
enforced:
  description: Whether the kernel holds the profiles.
  returned: success
  type: bool
written:
  description: Files that were, or in check mode would be, written.
  returned: success
  type: list
  elements: str
  sample: [cordon.autopilot]
loaded:
  description: Why each profile was, or in check mode would be, loaded.
  returned: success
  type: dict
  sample: {cordon.autopilot: the kernel has it in complain}
removed:
  description: Profiles that were, or in check mode would be, removed from files and kernel.
  returned: success
  type: list
  elements: str
compared_by:
  description:
    - V(hash) where the kernel tells the hash of its policy, V(mode) where it tells the mode only, V(nothing) without
      AppArmor.
  returned: success
  type: str
  sample: hash
"""

import fcntl
import json
import os
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Mapping, Optional

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.cordon.agent_host.plugins.module_utils import _apparmor_host as host
from ansible_collections.cordon.agent_host.plugins.module_utils import _apparmor_plan as decide
from ansible_collections.cordon.agent_host.plugins.module_utils import _files

RECORD_MODE = 0o640


class State:
    """What is wanted, what is there, and what follows from both."""

    def __init__(self, module: AnsibleModule) -> None:
        self.wanted = [decide.Wanted(item["name"], item["mode"], item["text"]) for item in module.params["profiles"]]
        mistakes = decide.mistakes(self.wanted)
        if mistakes:
            raise host.Failed("; ".join(mistakes))
        self.directory: str = module.params["directory"]
        self.record: str = module.params["record"]
        self.kernel = host.kernel(module.run_command)
        if self.kernel is None and not module.params["allow_unenforced"]:
            raise host.Failed(
                "AppArmor cannot be had: %s. To go on without the cage, and have status and evidence say so, set"
                " agent_host_allow_unenforced: [apparmor]" % host.missing_because())
        self.files = host.files(self.directory)
        self.known = _read_record(self.record)
        self.plan = decide.plan(self.wanted, self.files, self.kernel, self.known.get("profiles", {}))
        self.overrides = host.overrides(self.directory, [profile.name for profile in self.wanted])

    def pick(self, names: List[str]) -> List[decide.Wanted]:
        """The wanted profiles of these names."""
        return [profile for profile in self.wanted if profile.name in names]

    @property
    def record_differs(self) -> bool:
        """Whether the record would be another with nothing loaded: a profile that is no longer wanted, for example."""
        return self.known != decide.new_record(self.wanted, self.kernel)

    @property
    def changed(self) -> bool:
        """Whether the host is not as it should be."""
        return self.plan.anything() or bool(self.overrides) or self.record_differs


def _read_record(path: str) -> Dict[str, Any]:
    """The last run's record; an unreadable or foreign one counts as none, and is replaced."""
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        return data if isinstance(data["profiles"], dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write_record(path: str, data: Mapping[str, Any]) -> None:
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    parent = _files.open_parent(path)
    try:
        text = json.dumps(data, indent=2, sort_keys=True) + "\n"
        _files.write_file(parent, os.path.basename(path), _files.Entry("file", RECORD_MODE, 0, 0, text))
    finally:
        os.close(parent)


@contextmanager
def _alone(directory: str) -> Iterator[None]:
    """Hold the policy directory: a second run at the same time waits for this one."""
    if not os.path.isdir(directory):
        yield
        return
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _refuse_live(state: State) -> None:
    found = host.live(state.plan.remove) if state.plan.remove else []
    if found:
        raise host.Failed(
            "cannot remove %s: still in use by %s, and the kernel would set such a process free: stop the agent, e.g."
            " systemctl stop cordon-NAME.slice, then run again" % (", ".join(state.plan.remove), "; ".join(found[:5])))


def _apply(module: AnsibleModule, state: State) -> None:
    parser = module.get_bin_path("apparmor_parser", opt_dirs=["/usr/sbin", "/sbin"])
    if state.kernel is not None and state.plan.load and not parser:
        raise host.Failed("apparmor_parser is not installed: install the package apparmor")
    changing = state.pick(state.plan.write + state.plan.load)
    if parser and changing:
        host.check(module.run_command, parser, module.tmpdir, changing)
    for path in state.overrides:
        os.unlink(path)
    host.write(state.directory, {profile.name: profile.text for profile in state.pick(state.plan.write)})
    kernel: Optional[decide.Kernel] = state.kernel
    if kernel is not None and parser and state.plan.load:
        kernel = _load(module, parser, state)
    _remove(state)
    _write_record(state.record, decide.new_record(state.wanted, kernel))


def _load(module: AnsibleModule, parser: str, state: State) -> Optional[decide.Kernel]:
    """Load what differs and read it back; put files and kernel back as they were if either fails."""
    try:
        host.load(module.run_command, parser, state.directory, state.pick(state.plan.load))
        kernel = host.kernel(module.run_command) or {}
        wrong = ["%s is %s" % (profile.name, kernel.get(profile.name, {}).get("mode") or "not loaded")
                 for profile in state.wanted if kernel.get(profile.name, {}).get("mode") != profile.mode]
        if wrong:
            raise host.Failed("the parser reported no error, but in the kernel %s" % ", ".join(wrong))
        return kernel
    except host.Failed as problem:
        raise host.Failed("%s; %s" % (problem, _put_back(module, parser, state))) from problem


def _put_back(module: AnsibleModule, parser: str, state: State) -> str:
    before = {name: state.files.get(name) for name in state.plan.write}
    host.write(state.directory, before)
    old = [decide.Wanted(name, "", text) for name, text in state.files.items() if text and name in state.plan.load]
    try:
        if old:
            host.load(module.run_command, parser, state.directory, old)
    except host.Failed as problem:
        return "the files are back as they were, but the kernel would not take them back: %s" % problem
    return "files and kernel were put back as they were"


def _remove(state: State) -> None:
    loaded = [name for name in state.plan.remove if name in (state.kernel or {})]
    host.unload(loaded)
    host.write(state.directory, dict.fromkeys(state.plan.remove))
    host.forget(state.plan.remove)


def _diff(state: State) -> List[Dict[str, str]]:
    shown = []
    for profile in state.wanted:
        if profile.name in state.plan.write:
            path = os.path.join(state.directory, profile.name)
            shown.append(_change(path, state.files.get(profile.name) or "", profile.text))
        if profile.name in state.plan.reasons:
            loaded = (state.kernel or {}).get(profile.name)
            shown.append(_change("kernel: " + profile.name, "%s\n" % loaded["mode"] if loaded else "",
                                 "%s (%s)\n" % (profile.mode, state.plan.reasons[profile.name])))
    for name in state.plan.remove:
        before = state.files.get(name) or "loaded in the kernel only\n"
        shown.append(_change(os.path.join(state.directory, name), before, ""))
    return shown + [_change(path, "link\n", "") for path in state.overrides]


def _change(header: str, before: str, after: str) -> Dict[str, str]:
    return {"before_header": header, "after_header": header, "before": before, "after": after}


def _compared_by(kernel: Optional[decide.Kernel]) -> str:
    if kernel is None:
        return "nothing"
    return "hash" if all(found.get("hash") for found in kernel.values()) else "mode"


def run_module(module: AnsibleModule) -> Dict[str, Any]:
    """Compare, act unless this is a check, and tell what differed."""
    with _alone(module.params["directory"]):
        state = State(module)
        _refuse_live(state)
        if state.changed and not module.check_mode:
            _apply(module, state)
    return {
        "changed": state.changed, "enforced": state.kernel is not None, "written": state.plan.write,
        "loaded": state.plan.reasons, "removed": state.plan.remove, "compared_by": _compared_by(state.kernel),
        "diff": _diff(state),
    }


def main() -> None:
    """Ansible's entry point."""
    profile = {
        "name": {"type": "str", "required": True},
        "mode": {"type": "str", "choices": ["enforce", "complain"], "required": True},
        "text": {"type": "str", "required": True},
        "agent": {"type": "str"},
    }
    module = AnsibleModule(
        argument_spec={
            "profiles": {"type": "list", "elements": "dict", "required": True, "options": profile},
            "allow_unenforced": {"type": "bool", "default": False},
            "directory": {"type": "path", "default": "/etc/apparmor.d"},
            "record": {"type": "path", "default": "/etc/cordon/apparmor.json"},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LANG": "C", "LC_ALL": "C", "LC_MESSAGES": "C", "LC_CTYPE": "C"}
    try:
        module.exit_json(**run_module(module))
    except (host.Failed, _files.UnsafePath) as problem:
        module.fail_json(msg=str(problem))
    except OSError as problem:
        module.fail_json(msg="%s: %s" % (problem.filename or "AppArmor", problem.strerror or problem))


if __name__ == "__main__":
    main()
