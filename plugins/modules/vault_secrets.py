#!/usr/bin/python
# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: vault_secrets
short_description: The secrets in the agents' vaults
version_added: 0.1.0
description:
  - Makes each agent's vault hold exactly its secrets. Those that differ are rewritten, files that are not listed are
    removed, the others stay untouched.
  - What lies in the directory C(own) of a vault is the agent's (C(vault.writable) of the manifest) and stays. So does
    any other directory. One that stands at a secret's name is an error.
  - Leaves a notice for each secret in the closed mount point, see RV(notices).
  - Every secret that an agent declares must have a value, and no other value may be given. All mistakes are
    reported at once, before anything is written.
  - Opens each vault for itself, in a mount namespace of its own that ends with the module, so no other
    process sees the secrets. A session that has the vault open goes on undisturbed. It reads the new value
    the next time it opens the file. A file that it has open keeps the old one.
  - Each secret is replaced in one rename. A reader sees the old value or the new one, and so does a host
    that lost power. Symbolic links, hard links, FIFOs and huge files are neither followed nor read.
  - Values appear in no argument of a command, environment variable, log, result or diff, and in no file
    outside the vault.
  - Each value that is set, changed or removed is recorded by name in C(/var/lib/cordon/rotations.jsonl).
extends_documentation_fragment:
  - cordon.agent_host.attributes
author: the cordon.agent_host authors (@cordon)
requirements:
  - gocryptfs
  - systemd-creds or openssl, whichever sealed the keys
options:
  declared:
    description: The names of the secrets that each agent has, by agent. Each becomes a file in the vault.
    type: dict
    required: true
  values:
    description: The values, as a mapping of agents to mappings of secret names to text.
    type: dict
    required: true
  only:
    description:
      - Touches only these secrets, as a mapping of agents to lists of names, and removes nothing. Values are needed for these
        only. Which of them had the value already is said in RV(same).
    type: dict
  passwords:
    description: Passwords of vaults that an operator's password opens, by agent.
    type: dict
    default: {}
  new_passwords:
    description:
      - Passwords to try where those in O(passwords) do not open the vault, by agent. A change of passwords may have
        come to some hosts only.
    type: dict
    default: {}
  locked:
    description:
      - What to do about a vault that only an operator's password opens, when O(passwords) has none for it. Its secrets
        can then neither be compared nor written.
      - V(fail) fails before anything is written. V(leave) leaves the vault as it is, warns, and names it in RV(unchecked).
    type: str
    choices: [fail, leave]
    default: fail
  by:
    description: Who does this, for the record. When empty, who became root.
    type: str
    default: ""
  reason:
    description: Why, for the record.
    type: str
"""

EXAMPLES = r"""
- name: Fill the vault of one agent
  cordon.agent_host.vault_secrets:
    declared:
      scout: [github_token]
    values:
      scout:
        github_token: "{{ lookup('ansible.builtin.env', 'SCOUT_GITHUB_TOKEN') }}"
"""

RETURN = r"""
secrets:
  description: What was, or in check mode would be, done, by agent. Agents whose vaults are right are left out.
  returned: success
  type: dict
  sample: {"scout": [{"name": "github_token", "before": "set", "after": "set to another value"}]}
same:
  description: The secrets of O(only) that had the value already, by agent.
  returned: when O(only) is given
  type: dict
notices:
  description:
    - The secrets, by agent, whose notice was, or in check mode would be, made, mended or removed. Not with O(only).
    - A notice is a symbolic link in the closed mount point that leads nowhere. Its target says how to open the vault.
  returned: success
  type: dict
  sample: {"scout": ["github_token"]}
unchecked:
  description: Agents whose vault was locked and left as it is.
  returned: success
  type: list
  elements: str
rotations:
  description: What was added to the record of rotations, or in check mode would be. After a failure too.
  returned: always
  type: list
  elements: dict
"""

import contextlib
import os
import pwd
import re
import stat
from typing import Any, Dict, List, Tuple

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.cordon.agent_host.plugins.module_utils import (
    _files,
    _gocryptfs,
    _rotations,
    _vault,
    _vault_notice,
    _vault_open,
    _vault_secrets,
)
from ansible_collections.cordon.agent_host.plugins.module_utils._manifest_values import NAME, OWN

SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
# O_NONBLOCK: a FIFO swapped in after the stat must not hang the run.
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def _stored(top: int, name: str, value: str) -> _vault_secrets.Stored:
    """Look at one entry, and read no more of it than the value is long: a planted file may be without end.

    What cannot be read (a damaged file is an I/O error) is written anew from its value.
    """
    try:
        seen = os.stat(name, dir_fd=top, follow_symlinks=False)
        if not stat.S_ISREG(seen.st_mode):
            return _vault_secrets.Stored(0, None)
        with os.fdopen(os.open(name, READ, dir_fd=top), "rb") as file:
            found = file.read(len(value.encode(errors="surrogateescape")) + 1)
    except FileNotFoundError:
        raise
    except OSError:
        return _vault_secrets.Stored(0, None)
    sole = seen.st_uid == 0 and seen.st_gid == 0 and seen.st_nlink == 1
    return _vault_secrets.Stored(stat.S_IMODE(seen.st_mode), found.decode(errors="surrogateescape"), sole)


def _present(top: int, wanted: Dict[str, str]) -> Dict[str, _vault_secrets.Stored]:
    found = {}
    for name in wanted:
        with contextlib.suppress(FileNotFoundError):
            found[name] = _stored(top, name, wanted[name])
    return found


def _files_in(top: int) -> List[str]:
    """The names in a vault that are not directories; what lies below OWN is the agent's."""
    names = [name for name in os.listdir(top) if name != OWN]
    return [name for name in names if not stat.S_ISDIR(os.stat(name, dir_fd=top, follow_symlinks=False).st_mode)]


def _apply(top: int, change: _vault_secrets.Change, wanted: Dict[str, str]) -> None:
    """Carry out one change. Only names in the top directory are used, and none is followed."""
    if change.name not in wanted:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(change.name, dir_fd=top)
        return
    entry = _files.Entry("file", _vault_secrets.MODE, 0, 0, wanted[change.name])
    _files.write_file(top, change.name, entry)


class Job:
    """What this run was asked for, and what it has found."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._declared: Dict[str, List[str]] = module.params["declared"]
        self._only: Any = module.params["only"]
        self._passwords: List[Dict[str, str]] = [module.params["passwords"], module.params["new_passwords"]]
        self.changes: Dict[str, List[_vault_secrets.Change]] = {}
        self.notices: Dict[str, List[str]] = {}
        self.unchecked: List[str] = []
        self.rotations: List[Dict[str, Any]] = []

    def agents(self) -> List[str]:
        """The agents whose vaults are looked at."""
        return sorted(self._declared if self._only is None else self._only)

    def wanted(self, agent: str) -> Dict[str, str]:
        """The secrets that one vault must hold."""
        values = self._module.params["values"].get(agent) or {}
        names = self._declared[agent] if self._only is None else self._only[agent]
        return {name: values[name] for name in names}

    def mistakes(self) -> List[str]:
        """Every mistake in what was declared and given."""
        declared, values = self._declared, self._module.params["values"]
        unsafe = [f"declared: {agent!r} is no agent's name" for agent in declared if not NAME.fullmatch(agent)]
        for option in ("passwords", "new_passwords"):
            unsafe += _vault.bad_passwords(option, self._module.params[option])
        unsafe += [
            f"{agent}.{name}: not usable as a file name"
            for agent in declared
            for name in declared[agent]
            if not SAFE_NAME.fullmatch(name)
        ]
        if self._only is None:
            return unsafe + _vault_secrets.mistakes(declared, values)
        unknown = [
            f"only.{agent}.{name}: the manifest does not declare it"
            for agent in self._only
            for name in self._only[agent]
            if name not in declared.get(agent, [])
        ]
        chosen = {
            agent: {name: value for name, value in values[agent].items() if name in self._only[agent]}
            for agent in self._only
            if isinstance(values.get(agent), dict)
        }
        return unsafe + unknown + ([] if unknown else _vault_secrets.mistakes(self._only, chosen))

    def _given(self, agent: str) -> List[str]:
        return [given[agent] for given in self._passwords if agent in given]

    def locked(self) -> List[str]:
        """Agents whose vault only a password opens, which was not given."""
        places = [_vault.Place(agent) for agent in self.agents() if not self._given(agent)]
        return [place.name for place in places if os.path.isdir(place.cipher) and not _has_key(place)]

    def converge(self) -> None:
        """Compare the vaults with their secrets, and write what differs."""
        locked = self.locked()
        if locked and self._module.params["locked"] == "fail":
            raise _vault.VaultError(
                f"nothing was written. Locked: {', '.join(locked)}: an operator's password opens the vault, and none "
                f"was given. Give passwords (in a play vault_passwords), or say that such a vault be left as it is (locked: "
                f"leave, in a play vault_locked: leave). Where a sealed key should open it: /etc/cordon/vault/NAME.cred is lost"
            )
        self.unchecked = locked
        run = _runner(self._module)
        if any(os.path.isdir(_vault.Place(agent).cipher) for agent in self.agents()):
            _vault_open.enter_private_namespace(run)
        for agent in self.agents():
            changes = [] if agent in locked else self._one_agent(run, _vault.Place(agent), self.wanted(agent))
            if changes:
                self.changes[agent] = changes
            if self._module.check_mode:
                self.rotations += self._entries(_vault_secrets.acts(agent, changes))
        if self._only is None:
            self._notify()

    def _one_agent(self, run: _vault_open.Run, place: _vault.Place, wanted: Dict[str, str]) -> List[_vault_secrets.Change]:
        check = self._module.check_mode
        try:
            empty = set(os.listdir(place.cipher)) <= _gocryptfs.OWN_FILES
        except FileNotFoundError:
            if check:  # the vault would have been made by now
                return _vault_secrets.changes(wanted, {}, [])
            raise _vault.VaultError(f"agent {place.name} has no vault {place.cipher}: run gocryptfs_vault first") from None
        if empty and not wanted:
            return _vault_secrets.changes(wanted, {}, [])
        with _vault_open.opened(run, place, check, self._given(place.name)) as top:
            lost = len(_vault_open.stored(place.cipher)) - len(os.listdir(top))
            if lost > 0:  # they would be written beside the ones that are only hidden
                raise _vault.VaultError(_vault_open.hidden(place, lost))
            changes = self._differences(top, wanted)
            if changes and not check:
                self._write(place, top, changes, wanted)
        return changes

    def _differences(self, top: int, wanted: Dict[str, str]) -> List[_vault_secrets.Change]:
        removed = set(_files_in(top)) - set(wanted) if self._only is None else ()
        return _vault_secrets.changes(wanted, _present(top, wanted), removed)

    def _write(
        self, place: _vault.Place, top: int, changes: List[_vault_secrets.Change], wanted: Dict[str, str]
    ) -> None:
        applied: List[_vault_secrets.Change] = []
        try:
            for change in changes:
                _apply(top, change, wanted)
                applied.append(change)
        except IsADirectoryError:
            raise _vault.VaultError(
                f"vault of agent {place.name}: a directory stands at the name of the secret {changes[len(applied)].name}, and "
                f"what is in it may be of use to somebody: open the vault, move it away, and run this again"
            ) from None
        except OSError as problem:
            name = changes[len(applied)].name
            raise _vault.VaultError(
                f"vault of agent {place.name}: the secret {name} was not {'written' if name in wanted else 'removed'}: "
                f"{problem.strerror}. Look at the disk of {place.cipher} (df, dmesg), and run this again"
            ) from problem
        finally:
            self._log(_vault_secrets.acts(place.name, applied))
        os.fsync(top)
        again = _vault_secrets.changes(wanted, _present(top, wanted), [])
        if again:
            raise _vault.VaultError(
                f"vault of agent {place.name}: somebody changed {', '.join(change.name for change in again)} while it was "
                f"written: end the agent's session, look at the vault, and run this again"
            )

    def _log(self, acts: List[Tuple[str, str, str]]) -> None:
        found = self._entries(acts)
        _rotations.append(found)
        self.rotations += found

    def _entries(self, acts: List[Tuple[str, str, str]]) -> List[Dict[str, Any]]:
        return _rotations.entries(acts, _rotations.who(self._module.params["by"]), self._module.params["reason"])

    def _notify(self) -> None:
        """Tell whoever reads a secret while its vault is closed how to open it."""
        for agent in self.agents():
            try:
                home = os.path.realpath(pwd.getpwnam(f"agent-{agent}").pw_dir)  # as the mount table has it
            except KeyError:
                continue  # in check mode, on a host that has no such user yet
            if os.path.isdir(_vault.Place(agent).cipher):
                changed = _vault_notice.converge(agent, f"{home}/.vault", self._declared[agent], self._module.check_mode)
                self.notices.update({agent: changed} if changed else {})

    def diff(self) -> Dict[str, str]:
        """Names and states."""
        found = _vault_secrets.diff(self.changes)
        told = [f"{agent}/{name}: notice for the closed vault\n" for agent in self.notices for name in self.notices[agent]]
        return {**found, "after": found["after"] + "".join(told)}

    def same(self) -> Dict[str, List[str]]:
        """The secrets asked for by name that had their value already."""
        changed = {agent: {change.name for change in self.changes.get(agent, [])} for agent in self._only or {}}
        return {agent: sorted(set(self._only[agent]) - changed[agent]) for agent in changed}


def _has_key(place: _vault.Place) -> bool:
    return os.path.lexists(place.key) or os.path.lexists(place.next_key)


def _runner(module: AnsibleModule) -> _vault_open.Run:
    def run(argv: List[str], data: Any = None) -> Tuple[int, str, str]:
        # A key is no option, and so no secret to Ansible. Should a program repeat it in an error, it is hidden there too.
        module.no_log_values.update(line for line in (data or "").splitlines() if line)
        answer: Tuple[int, str, str] = module.run_command(argv, data=data, binary_data=True, expand_user_and_vars=False)
        return answer

    return run


def main() -> None:
    module = AnsibleModule(
        {
            "declared": {"type": "dict", "required": True},
            "values": {"type": "dict", "required": True, "no_log": True},
            "only": {"type": "dict"},
            "passwords": {"type": "dict", "default": {}, "no_log": True},
            "new_passwords": {"type": "dict", "default": {}, "no_log": True},
            "locked": {"type": "str", "choices": ["fail", "leave"], "default": "fail"},
            "by": {"type": "str", "default": ""},
            "reason": {"type": "str"},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LANG": "C", "LC_ALL": "C", "LC_MESSAGES": "C", "LC_CTYPE": "C"}
    job = Job(module)
    mistakes = job.mistakes()
    if mistakes:
        module.fail_json(msg="vault_secrets: nothing was written. " + "; ".join(mistakes))
    try:
        _vault_open.no_core_dump()
        job.converge()
    except (OSError, _vault.VaultError, _files.UnsafePath) as error:
        module.fail_json(msg=f"vault_secrets: {error}", rotations=job.rotations)
    for agent in job.unchecked:
        module.warn(f"vault of agent {agent}: locked, no password given: its secrets were neither compared nor written")
    module.exit_json(
        changed=bool(job.changes or job.notices),
        secrets={name: [change._asdict() for change in job.changes[name]] for name in job.changes},
        notices=job.notices,
        unchecked=job.unchecked,
        rotations=job.rotations,
        diff=job.diff(),
        **({} if job.same() == {} else {"same": job.same()}),
    )


if __name__ == "__main__":
    main()
