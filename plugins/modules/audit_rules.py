#!/usr/bin/python
# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: audit_rules
short_description: The audit rules that record what agents do
version_added: 0.1.0
description:
  - Makes the kernel record every program that the given users start, every file access and connection that was
    refused to them, and every write to the directories that hold their confinement.
  - Compares with the rules that the kernel has loaded, not with a file. Files of its own bring them back at boot.
  - Only rules with the keys C(cordon-exec), C(cordon-denied), C(cordon-connect) and C(cordon-tamper) are touched.
  - Records go by uid, because a systemd service has no login uid.
extends_documentation_fragment:
  - cordon.agent_host.attributes
author: the cordon.agent_host authors (@cordon)
options:
  users:
    description: Names of the users to record. They must exist, except in check mode.
    type: list
    elements: str
    required: true
  tamper_paths:
    description:
      - Directories and files of which every write is recorded, whoever it is by.
      - One that does not exist is left out and named in a warning.
    type: list
    elements: path
    default:
      - /etc/cordon
      - /usr/lib/cordon
      - /etc/apparmor.d
      - /etc/systemd/system
      - /etc/audit/rules.d
      - /etc/audit/auditd.conf
  backlog_limit:
    description: Records that the kernel may hold for the audit daemon. A larger value that is already set stays.
    type: int
    default: 8192
  backlog_wait_time:
    description:
      - How long the kernel stops a program for when the backlog is full, in jiffies.
      - 0 loses the record instead and counts it.
    type: int
    default: 0
  rules_directory:
    description: Where auditd's C(augenrules) collects rules from at boot.
    type: path
    default: /etc/audit/rules.d
  allow_unenforced:
    description: Controls that this host may live without. With V(audit) among them a host without audit is no failure.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Record what two agents do
  cordon.agent_host.audit_rules:
    users: [agent-autopilot, agent-reviewer]
"""

RETURN = r"""
added:
  description: Lines given to the kernel.
  returned: success
  type: list
  elements: str
  sample: ["-a always,exit -F arch=b64 -S execve,execveat -F uid=998 -F key=cordon-exec"]
removed:
  description: Lines that took rules of ours away that are no longer wanted.
  returned: success
  type: list
  elements: str
enforced:
  description: Whether the kernel records. False only where O(allow_unenforced) accepts that.
  returned: success
  type: bool
reboot_required:
  description:
    - The kernel's rules are locked (C(-e 2)) and differ from the wanted ones.
    - Those are in the file and come with the next boot.
  returned: success
  type: bool
lost:
  description: Records that the kernel has lost since boot.
  returned: when the kernel has audit
  type: int
"""

import os
import pwd
from typing import Any, Dict, List, NamedTuple, Optional

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.cordon.agent_host.plugins.module_utils import _audit_kernel, _audit_rules, _files

RULES_FILE = "50-cordon.rules"
# augenrules goes by name, digits first: only a name after Debian's own `audit.rules` has the last word.
SETTINGS_FILE = "zz-cordon.rules"
# Not /etc/audit: auditd itself writes its collected rules there whenever it starts.
TAMPER_PATHS = [
    "/etc/cordon",
    "/usr/lib/cordon",
    "/etc/apparmor.d",
    "/etc/systemd/system",
    "/etc/audit/rules.d",
    "/etc/audit/auditd.conf",
]
# In a check before the first run they do not exist yet, but will when the rules are loaded.
_MADE_BY_OUR_ROLES = ("/etc/cordon", "/usr/lib/cordon")


class Document(NamedTuple):
    """A rules file: what is there (None: absent) and what is to be there."""

    path: str
    before: Optional[str]
    after: str


def _uids(module: AnsibleModule) -> List[int]:
    """Numbers of the users; in check mode those that an earlier task would have made are left out."""
    found, missing = [], []
    for name in module.params["users"]:
        try:
            found.append(pwd.getpwnam(name).pw_uid)
        except KeyError:
            missing.append(name)
    if missing and not module.check_mode:
        module.fail_json(msg=f"audit_rules: no such user on this host: {', '.join(missing)}. Run the role agent first.")
    if 0 in found:
        module.fail_json(msg="audit_rules: refusing to record root as an agent: it would flood the log")
    return found


def _wanted(module: AnsibleModule) -> List[str]:
    paths = [path.rstrip("/") for path in module.params["tamper_paths"]]
    missing = [path for path in paths if not os.path.exists(path)]
    if missing and not module.check_mode:
        module.warn("audit_rules: not watched because not there: " + ", ".join(missing))
    absent = [path for path in missing if not (module.check_mode and path in _MADE_BY_OUR_ROLES)]
    return _audit_rules.render(_uids(module), os.uname().machine, [path for path in paths if path not in absent])


def _read(path: str) -> Optional[str]:
    try:
        parent = _files.open_parent(path)
    except FileNotFoundError:
        return None
    try:
        return _files.observe(parent, os.path.basename(path)).text
    finally:
        os.close(parent)


def _others(directory: str) -> str:
    """Text of every rules file that is not ours."""
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return ""
    theirs = [name for name in names if name.endswith(".rules") and name not in (RULES_FILE, SETTINGS_FILE)]
    return "\n".join(_read(f"{directory}/{name}") or "" for name in theirs)


def _documents(module: AnsibleModule, rules: List[str]) -> List[Document]:
    directory = module.params["rules_directory"]
    settings = _audit_rules.settings(
        _others(directory), module.params["backlog_limit"], module.params["backlog_wait_time"]
    )
    texts = {
        RULES_FILE: _audit_rules.document(rules, "What agents do."),
        SETTINGS_FILE: _audit_rules.document(settings, "Last by name, so that these settings hold."),
    }
    return [Document(f"{directory}/{name}", _read(f"{directory}/{name}"), text) for name, text in texts.items()]


def _write(document: Document) -> None:
    parent = _files.open_parent(document.path)
    try:
        entry = _files.Entry("file", 0o640, 0, 0, document.after)
        _files.write_file(parent, os.path.basename(document.path), entry)
    finally:
        os.close(parent)


def _run(module: AnsibleModule) -> _audit_kernel.Run:
    def run(argv: List[str]) -> Any:
        return module.run_command(argv)

    return run


def _kernel(module: AnsibleModule, auditctl: Optional[str]) -> Optional[_audit_kernel.Kernel]:
    """The kernel's rules, or None where audit cannot be had and the operator accepts it."""
    try:
        if auditctl is None:
            raise _audit_kernel.NoAudit("auditctl is not installed")
        return _audit_kernel.read(_run(module), auditctl)
    except _audit_kernel.NoAudit as error:
        if "audit" in module.params["allow_unenforced"]:
            return None
        module.fail_json(
            msg=f"audit_rules: the control 'audit' cannot be had on this host: {error}. Nothing that an agent does"
            " would be recorded. Use a kernel with audit (no container), or accept that: agent_host_allow_unenforced: [audit]."
        )
    return None


def _difference(documents: List[Document], removed: List[str], added: List[str]) -> List[Dict[str, str]]:
    diff = [
        {"before_header": item.path, "after_header": item.path, "before": item.before or "", "after": item.after}
        for item in documents
    ]
    kernel = {"before_header": "kernel", "after_header": "kernel"}
    lists = {"before": "".join(f"{line}\n" for line in removed), "after": "".join(f"{line}\n" for line in added)}
    return diff + ([{**kernel, **lists}] if removed or added else [])


def _load(module: AnsibleModule, auditctl: str, rules: List[str], lines: List[str]) -> None:
    """Load and read back: auditctl's exit status does not tell (it stops at the first bad line)."""
    complaint = _audit_kernel.load(_run(module), auditctl, lines)
    left = _audit_rules.plan(rules, _audit_kernel.read(_run(module), auditctl).listing)
    if left.delete or left.add:
        module.fail_json(msg=f"audit_rules: the kernel did not take {left.add + left.delete}: {complaint}")


def _unenforced(module: AnsibleModule) -> None:
    module.warn("audit_rules: the control 'audit' is NOT ENFORCED on this host, as agent_host_allow_unenforced accepts")
    module.exit_json(changed=False, enforced=False, added=[], removed=[], reboot_required=False)


def _ensure(module: AnsibleModule) -> None:
    auditctl = module.get_bin_path("auditctl", opt_dirs=["/sbin", "/usr/sbin"])
    not_installed_yet = auditctl is None and module.check_mode
    kernel = None if not_installed_yet else _kernel(module, auditctl)
    if kernel is None and not not_installed_yet:
        _unenforced(module)
    kernel = kernel or _audit_kernel.Kernel({}, "")
    rules = _wanted(module)
    plan = _audit_rules.plan(rules, kernel.listing)
    settings = _audit_rules.setting_lines(
        kernel.status, module.params["backlog_limit"], module.params["backlog_wait_time"]
    )
    stale = [item for item in _documents(module, rules) if item.before != item.after]
    differs = bool(plan.delete or plan.add)
    if not module.check_mode:
        for item in stale:
            _write(item)
        if auditctl and not kernel.immutable and (differs or settings):
            _load(module, auditctl, rules, settings + plan.delete + plan.add)
    module.exit_json(
        changed=bool(stale) or (not kernel.immutable and (differs or bool(settings))),
        enforced=True,
        added=plan.add,
        removed=plan.delete,
        reboot_required=kernel.immutable and (differs or bool(settings)),
        lost=kernel.status.get("lost", 0),
        diff=_difference(stale, plan.delete, plan.add + settings),
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "users": {"type": "list", "elements": "str", "required": True},
            "tamper_paths": {
                "type": "list",
                "elements": "path",
                "default": TAMPER_PATHS,
            },
            "backlog_limit": {"type": "int", "default": 8192},
            "backlog_wait_time": {"type": "int", "default": 0},
            "rules_directory": {"type": "path", "default": "/etc/audit/rules.d"},
            "allow_unenforced": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LANG": "C", "LC_ALL": "C", "LC_MESSAGES": "C", "LC_CTYPE": "C"}
    try:
        _ensure(module)
    except (ValueError, OSError, _files.UnsafePath) as error:
        module.fail_json(msg=f"audit_rules: {error}")


if __name__ == "__main__":
    main()
