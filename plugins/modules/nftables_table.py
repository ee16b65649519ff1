#!/usr/bin/python
# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: nftables_table
short_description: The nftables table of the agent firewall, whole and in one transaction
version_added: 0.1.0
description:
  - Brings C(table inet cordon) in the kernel to the wanted text in one transaction, and keeps it for the next boot.
  - Compares with the kernel and not with a file. A rule that somebody added, removed or moved, or a flush by another
    program, is a change, and it is mended.
  - No other table is ever read, changed or flushed.
  - What the resolver adds to sets whose elements expire is no change.
  - With O(confirm_within) a change undoes itself unless it is confirmed over a new connection. Ansible does so by itself,
    within the same task.
extends_documentation_fragment:
  - cordon.agent_host.attributes
author: the cordon.agent_host authors (@cordon)
notes:
  - To learn how the kernel lists the wanted text, the module loads it into a network namespace of its own. Where the
    host forbids that, as some containers do, it compares digests with O(record) instead, and RV(compared_by) says so.
options:
  state:
    description:
      - Whether the table is to be there.
      - V(confirmed) keeps a change that was made with O(confirm_within). The task that makes the change asks for it, so
        nobody has to write it, except who calls the module by other means than Ansible.
    type: str
    choices: [present, absent, confirmed]
    default: present
  content:
    description:
      - What stands between the braces of the table, as P(cordon.agent_host.firewall_ruleset#filter) renders it.
      - Needed when O(state=present).
    type: str
  users:
    description:
      - Variables of O(content) that stand for users, each with the user's name. The module looks up their numbers.
      - A user that does not exist is an error, except in check mode, where an earlier task may be about to make it.
    type: dict
    default: {}
  path:
    description: Where the text is kept for the next boot.
    type: path
    default: /etc/cordon/firewall.nft
  record:
    description:
      - Where the SHA-256 of the kernel's listing is kept, as C(sha256) of a JSON object. Whoever wants to know whether
        the firewall stands compares it with that of C(nft --stateless list table inet cordon).
    type: path
    default: /etc/cordon/firewall.json
  confirm_within:
    description:
      - How many seconds a change of the table may wait for its confirmation. Then the table from before is loaded
        again, by a unit of systemd that waits for it, or by a process of its own where systemd does not run.
      - V(0) makes the change at once and for good.
      - Until the confirmation O(path) and O(record) stay as they were, so that a reboot undoes the change too.
      - Without a change of the table nothing waits.
    type: int
    default: 0
  pending:
    description: Directory in which a change waits. It must not survive a reboot.
    type: path
    default: /run/cordon/firewall
  new_connection:
    description:
      - Whether O(state=confirmed) is refused over the SSH connection that made the change, since that one may live on
        although no new one is let in.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Let each agent reach what the manifest lists
  cordon.agent_host.nftables_table:
    content: "{{ (agents | cordon.agent_host.firewall_ruleset).content }}"
    users: "{{ (agents | cordon.agent_host.firewall_ruleset).users }}"

- name: Take the firewall away
  cordon.agent_host.nftables_table:
    state: absent
"""

RETURN = r"""
changed_parts:
  description: What differed, of V(kernel), V(file) and V(record).
  returned: success
  type: list
  elements: str
  sample: [kernel, record]
sha256:
  description: SHA-256 of the kernel's listing; empty where it cannot be told in check mode.
  returned: success
  type: str
compared_by:
  description:
    - How the kernel was compared. V(record) means that the kernel has what the last run left, V(namespace) that the
      wanted text was loaded into a namespace of its own, V(nothing) that neither could be had, V(listing) that all
      there is to know is whether a table stands.
  returned: success
  type: str
  sample: namespace
pending:
  description: Whether the change waits for its confirmation.
  returned: success
  type: bool
connection:
  description: The SSH connection that the module found itself in, as C(SSH_CONNECTION) has it; empty where there is none.
  returned: when the change waits
  type: str
  sample: 198.51.100.7 50022 192.0.2.1 22
"""

import json
import os
import pwd
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, cast

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.cordon.agent_host.plugins.module_utils import _files, _nftables, _safe_apply

# Rules tell who may reach what; that is nobody's business but root's.
FILE_MODE = 0o640


class Wish(NamedTuple):
    """What is wanted, what is there, and how that was found out."""

    text: Optional[str]  # for `nft -f`; None: no table
    running: Optional[str]  # the kernel's listing; None: no table
    canonical: Optional[str]  # how the kernel would list the text; None: cannot be told
    compared_by: str

    @property
    def kernel_differs(self) -> bool:
        if self.text is None:
            return self.running is not None
        return self.canonical is None or self.running != self.canonical


def _uids(module: AnsibleModule) -> Dict[str, Tuple[str, str]]:
    """Look the users up, all mistakes at once. In check mode a user to be made stands for itself."""
    found: Dict[str, Tuple[str, str]] = {}
    missing: List[str] = []
    for name, user in module.params["users"].items():
        try:
            number = pwd.getpwnam(user).pw_uid
        except KeyError:
            missing.append(user)
            found[name] = (user, user)
            continue
        if number == 0:
            raise ValueError(
                f"user {user} is root (uid 0): a firewall for root could lock the operator out; "
                "give the agent its own user"
            )
        found[name] = (str(number), user)
    if missing and not module.check_mode:
        raise ValueError(
            f"no such user on this host: {', '.join(sorted(missing))}; "
            "run the role cordon.agent_host.agent first, it makes the agents' users"
        )
    return found


def _record(path: str) -> Optional[_nftables.Record]:
    """Read the last run's record; an unreadable or foreign one counts as none, and is replaced."""
    text = _observe(path).text
    try:
        data = json.loads(text or "")
        return _nftables.Record(data["source"], data["sha256"])
    except (ValueError, KeyError, TypeError):
        return None


def _wish(module: AnsibleModule, run: _nftables.Run, nft: Optional[str]) -> Wish:
    running = _nftables.listing(run, nft) if nft else None
    if module.params["state"] == "absent":
        return Wish(None, running, None, "listing")
    uids = _uids(module)
    text = _nftables.source(module.params["content"], uids)
    if _nftables.stands(running, text, _record(module.params["record"])):
        return Wish(text, running, running, "record")
    # Only in check mode: without nft, or without the users that an earlier task would have made, nobody can tell.
    if not nft or any(number == user for number, user in uids.values()):
        return Wish(text, running, None, "nothing")
    canonical = _nftables.canonical(run, nft, text)
    return Wish(text, running, canonical, "namespace" if canonical is not None else "nothing")


def _observe(path: str) -> _files.Entry:
    try:
        parent = _files.open_parent(path)
    except FileNotFoundError:
        return _files.ABSENT
    try:
        return _files.observe(parent, os.path.basename(path))
    finally:
        os.close(parent)


def _put(path: str, wanted: _files.Entry) -> None:
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        os.mkdir(directory, 0o755)
    parent = _files.open_parent(path)
    try:
        if wanted == _files.ABSENT:
            _files.remove(parent, os.path.basename(path))
        else:
            _files.write_file(parent, os.path.basename(path), wanted)
    finally:
        os.close(parent)


def _file(text: Optional[str]) -> _files.Entry:
    return _files.ABSENT if text is None else _files.Entry("file", FILE_MODE, 0, 0, text)


def _record_text(wish: Wish, listing: Optional[str]) -> Optional[str]:
    if wish.text is None:
        return None
    record = {"sha256": _nftables.digest(listing) if listing else "", "source": _nftables.digest(wish.text)}
    return json.dumps(record, indent=2, sort_keys=True) + "\n"


def _diff(name: str, before: Optional[str], after: Optional[str]) -> Dict[str, str]:
    return {"before_header": name, "after_header": name, "before": before or "", "after": after or ""}


def _described(entry: _files.Entry, text: bool) -> str:
    if entry.kind == "absent":
        return "absent\n"
    return f"{entry.kind} {entry.mode:04o} uid {entry.uid} gid {entry.gid}\n" + ((entry.text or "") if text else "")


def _act(module: AnsibleModule, run: _nftables.Run, nft: Optional[str], wish: Wish) -> Dict[str, Any]:
    """Kernel first: a text that the kernel refuses must not wait on disk for the next boot."""
    parts, diff, listing = [], [], wish.canonical
    hold = _hold(module, wish)
    if wish.kernel_differs:
        parts.append("kernel")
        diff.append(_diff("table inet cordon", wish.running, wish.text if wish.canonical is None else wish.canonical))
    if hold:
        token, listing = hold.change(run, nft or "nft", wish)
    elif not module.check_mode:
        _safe_apply.discard(module.params["pending"])
        if wish.kernel_differs:
            listing = _change_kernel(run, nft or "nft", wish)
    later: List[Tuple[str, str]] = []
    for part, path, text in (
        ("file", module.params["path"], wish.text),
        ("record", module.params["record"], _record_text(wish, listing)),
    ):
        before, wanted = _observe(path), _file(text)
        if before == wanted:
            continue
        parts.append(part)
        # The kernel's diff shows the rules already.
        show = "kernel" not in parts
        diff.append(_diff(path, _described(before, show), _described(wanted, show)))
        if hold:
            later.append((path, cast(str, text)))
        elif not module.check_mode:
            _put(path, wanted)
    sha256 = _nftables.digest(listing) if listing else ""
    result = {"changed": bool(parts), "changed_parts": parts, "diff": diff, "compared_by": wish.compared_by,
              "sha256": sha256, "pending": hold is not None}
    if hold:
        hold.note(token, sha256, later)
        result["connection"] = hold.connection
    return result


class _Hold(NamedTuple):
    """A change that will wait for its confirmation."""

    directory: str
    seconds: int
    connection: str

    def change(self, run: _nftables.Run, nft: str, wish: Wish) -> Tuple[str, Optional[str]]:
        """Arm, then load; the token and the listing."""
        waited = _safe_apply.waiting(self.directory) is not None
        token = _safe_apply.arm(run, nft, self.directory, self.seconds)
        try:
            return token, (_change_kernel(run, nft, wish) if wish.kernel_differs else wish.running)
        except _nftables.NftablesError:
            if not waited:  # else the kernel has what waited, and that is still to be undone
                _safe_apply.disarm(self.directory, token)
            raise

    def note(self, token: str, sha256: str, later: List[Tuple[str, str]]) -> None:
        _safe_apply.note(self.directory, _safe_apply.Pending(token, sha256, self.connection, self.seconds, later))


def _hold(module: AnsibleModule, wish: Wish) -> Optional[_Hold]:
    """Whether this call's change waits; a change that waits already waits on. Refuses what is bound to cut us off."""
    if wish.text is None:
        return None
    operator = _safe_apply.operator(os.getppid(), dict(os.environ))
    _refuse_operator(module, operator, wish)
    seconds, directory = module.params["confirm_within"], module.params["pending"]
    if module.check_mode or seconds == 0 or not (wish.kernel_differs or _safe_apply.waiting(directory)):
        return None
    return _Hold(directory, seconds, operator.connection)


def _refuse_operator(module: AnsibleModule, operator: _safe_apply.Operator, wish: Wish) -> None:
    """Neither by a variable nor by a number in the text may the rules bind root, or whoever runs this."""
    bound = set(_nftables.bound_uids(wish.canonical or ""))
    bound |= {pwd.getpwnam(user).pw_uid for user in module.params["users"].values() if _exists(user)}
    for uid in sorted(bound & (operator.uids | {0})):
        raise ValueError(
            f"the ruleset binds uid {uid} ({_user(uid)}), who {'is root' if uid == 0 else 'runs this very module'}: "
            "it could lock the operator out; give the agent its own user"
        )


def _exists(user: str) -> bool:
    try:
        return bool(pwd.getpwnam(user))
    except KeyError:
        return False


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "no user of this host"


def _confirm(module: AnsibleModule, run: _nftables.Run, nft: Optional[str]) -> Dict[str, Any]:
    """Keep the change that waits, and write what belongs on disk."""
    directory = module.params["pending"]
    if module.check_mode or not nft:
        found = _safe_apply.waiting(directory)
    else:
        operator = _safe_apply.operator(os.getppid(), dict(os.environ))
        found = _safe_apply.confirm(run, nft, directory, operator.connection if module.params["new_connection"] else None)
    if found is None:
        return {"changed": False, "changed_parts": [], "pending": False}
    if not module.check_mode:
        for path, text in found.files:
            _put(path, _file(text))
        _safe_apply.forget(directory)
    return {"changed": True, "changed_parts": [], "pending": False, "sha256": found.sha256}


def _change_kernel(run: _nftables.Run, nft: str, wish: Wish) -> Optional[str]:
    if wish.text is not None:
        return _nftables.load(run, nft, wish.text)
    _nftables.delete(run, nft)
    return None


def _nft(module: AnsibleModule) -> Optional[str]:
    """Path of nft. Without it there is nothing to remove, and check mode supposes that it will be installed."""
    optional = module.check_mode or module.params["state"] == "absent"
    return module.get_bin_path("nft", required=not optional, opt_dirs=["/usr/sbin", "/sbin"])


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent", "confirmed"], "default": "present"},
            "content": {"type": "str"},
            "users": {"type": "dict", "default": {}},
            "path": {"type": "path", "default": "/etc/cordon/firewall.nft"},
            "record": {"type": "path", "default": "/etc/cordon/firewall.json"},
            "confirm_within": {"type": "int", "default": 0},
            "pending": {"type": "path", "default": "/run/cordon/firewall"},
            "new_connection": {"type": "bool", "default": True},
        },
        required_if=[("state", "present", ["content"])],
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LANG": "C", "LC_ALL": "C", "LC_MESSAGES": "C", "LC_CTYPE": "C"}

    def run(argv: Tuple[str, ...], data: Optional[str]) -> Tuple[int, str, str]:
        return module.run_command(list(argv), data=data)

    try:
        nft = _nft(module)
        if module.params["state"] == "confirmed":
            result = _confirm(module, run, nft)
        else:
            result = _act(module, run, nft, _wish(module, run, nft))
    except (ValueError, OSError, _files.UnsafePath, _nftables.NftablesError) as error:
        module.fail_json(msg=f"nftables_table: {error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
