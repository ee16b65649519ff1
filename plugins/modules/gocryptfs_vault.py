#!/usr/bin/python
# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: gocryptfs_vault
short_description: One encrypted vault for each agent
version_added: 0.1.0
description:
  - Makes the gocryptfs vault, what opens it, and its mount point for all agents in one call, and mends what
    is not as it must be. Opens and closes vaults, changes their keys, and takes them away.
  - The encrypted directory is C(/var/lib/cordon/vault/NAME), which nobody but root reaches. The sealed key is
    C(/etc/cordon/vault/NAME.cred), and beside it lies a copy of C(gocryptfs.conf), because one damaged byte of the
    only one would lose the vault. The mount point is C(.vault) in the agent's home. The files of an open vault
    belong to the agent.
  - A sealed key is 32 random bytes, made on the host. Keys and passwords pass through pipes, never through a
    file, an argument or an environment variable.
  - The mount point is immutable, and empty but for the notices of M(cordon.agent_host.vault_secrets), so that
    nothing is written to it in the clear while the vault is closed.
  - Never replaces a vault. A vault whose key or configuration is missing is an error, because making it
    again would lose the secrets in it.
  - Power lost at any moment leaves a vault that opens with the old key or the new one. The next run finishes
    or takes back what was interrupted. See C(docs/vault.md).
  - Each renewal is recorded in C(/var/lib/cordon/rotations.jsonl).
  - Starts no program when nothing differs, except to open, to close and to renew.
extends_documentation_fragment:
  - cordon.agent_host.attributes
author: the cordon.agent_host authors (@cordon)
requirements:
  - gocryptfs
  - systemd-creds (systemd 250 or later), or openssl
  - age, for O(escrow_recipients)
options:
  agents:
    description:
      - The agents whose vaults are meant. A vault on the host that belongs to none of them is reported in
        RV(orphans) and left as it is.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the agent.
        type: str
        required: true
      user:
        description: Its user, who must exist, and to whom the files of the open vault belong.
        type: str
        required: true
      home:
        description:
          - Its home, which must exist. Root must own it, or the agent could replace the mount point.
          - The path must have no symbolic link in it and no C(/) at its end.
        type: path
        required: true
      unlock:
        description:
          - What opens the vault. V(sealed) is a key that this host can unseal without anybody's help.
            V(operator) is a password that lies nowhere on the host.
          - A vault changes from one to the other when its password is given in O(passwords).
        type: str
        choices: [sealed, operator]
        default: sealed
  state:
    description:
      - V(present) makes and mends the vaults, and opens none.
      - V(mounted) also opens them, by their unit, as a session does. V(unmounted) closes them.
      - V(absent) takes the vaults away. They must be closed, and O(confirm) must name them.
    type: str
    choices: [present, mounted, unmounted, absent]
    default: present
  seal:
    description:
      - What a new key is sealed with. A key that is there stays as it is.
      - V(host) is the secret in C(/var/lib/systemd/credential.secret). It protects a copy of the vault and
        its key, but not of the whole disk.
      - V(host+tpm2) needs that secret and this machine's TPM 2.0, and fails without one.
      - V(openssl) is a secret in C(/var/lib/cordon/vault-host.secret). It protects what V(host) does, on hosts
        whose systemd is older than 250.
      - V(auto) is V(host+tpm2) where there is a TPM 2.0, V(host) elsewhere, and V(openssl) where
        C(systemd-creds) is missing.
    type: str
    choices: [auto, host, host+tpm2, openssl]
    default: auto
  cipher:
    description: What the files of a new vault are encrypted with. A vault that is there keeps its cipher.
    type: str
    choices: [aes-gcm, aes-siv, xchacha]
    default: aes-gcm
  scrypt_log_n:
    description:
      - Cost of the key derivation, as the logarithm of scrypt's N to base 2, from 10 to 18. Each step doubles the time
        and the memory that opening takes. It is set when a vault is made and when its key is changed.
      - 18 takes 256 MiB. More than that the vault's unit, which is limited to 512 MiB, could not open.
      - 10 when omitted for a sealed key, which is random and not guessed, and 16 for an operator's password.
    type: int
  passwords:
    description:
      - Passwords of vaults with O(agents[].unlock=operator), by agent. Needed to make one, to open one, to
        change what opens it, and to make its escrow.
      - Without it, an operator's vault that exists is kept in order as far as that needs no password. What needs it is an error.
    type: dict
    default: {}
  new_passwords:
    description:
      - What passwords to change to with O(renew), by agent.
      - Tried after O(passwords) wherever a vault is to be opened, so that a change that was interrupted is finished by the same
        options.
    type: dict
    default: {}
  master_keys:
    description:
      - Master keys of vaults of which nothing else is left that opens them, by agent, as decrypted from their escrow.
        Each such vault is put under a new sealed key, or under its password in O(passwords).
      - It is proved first that the key decrypts the names in the vault.
    type: dict
    default: {}
  renew:
    description:
      - V(password) puts each vault under a new sealed key, or under its password in O(new_passwords).
        What is in the vault stays as it is, and an open session goes on.
      - V(master) copies everything into a new vault with a new master key and a new sealed key, compares, and lets the
        two change places. The vault must be closed. This is what helps when the master key may be known to somebody.
      - Every run renews. Only an operator's password that is in force already is left as it is.
    type: str
    choices: [none, password, master]
    default: none
  escrow_recipients:
    description:
      - People outside the host who shall be able to open the vaults, as age recipients, each C(age1...). The master key is
        encrypted to them in C(/var/lib/cordon/vault-escrow/NAME.age), and anew whenever it or this list changes.
      - When empty, an escrow that is there stays, and follows a new master key with the recipients that it has.
    type: list
    elements: str
    default: []
  confirm:
    description: With O(state=absent), the names of exactly the agents in O(agents). Anything else is an error.
    type: list
    elements: str
    default: []
  backup:
    description:
      - With O(state=absent), moves each vault and what opens it to C(/var/lib/cordon/vault-backup/NAME-TIME) instead of
        deleting them.
    type: bool
    default: true
  end_sessions:
    description: Ends the agent's sessions where they are in the way of closing a vault. Without it they are an error.
    type: bool
    default: false
  by:
    description: Who does this, for the record. When empty, who became root.
    type: str
    default: ""
  reason:
    description: Why, for the record.
    type: str
"""

EXAMPLES = r"""
- name: Make the vaults of two agents
  cordon.agent_host.gocryptfs_vault:
    agents:
      - {name: scout, user: agent-scout, home: /srv/agents/scout}
      - {name: scribe, user: agent-scribe, home: /srv/agents/scribe}
    escrow_recipients: "{{ security_team_age_keys }}"

- name: Give a vault a new master key after an incident
  cordon.agent_host.gocryptfs_vault:
    agents:
      - {name: scout, user: agent-scout, home: /srv/agents/scout}
    renew: master
    end_sessions: true
    reason: a copy of the disk was lost

- name: Take a vault away
  cordon.agent_host.gocryptfs_vault:
    agents:
      - {name: scout, user: agent-scout, home: /srv/agents/scout}
    state: absent
    confirm: [scout]
"""

RETURN = r"""
steps:
  description: What was, or in check mode would be, done.
  returned: success
  type: list
  elements: str
  sample: ["scout: seal a new key", "scout: create the vault"]
vaults:
  description: The vaults as they are now. In check mode one that does not exist yet is left out.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the agent.
      type: str
      returned: always
    mounted:
      description: Whether the vault is open.
      type: bool
      returned: always
    unlock:
      description: What opens it now, V(sealed) or V(operator).
      type: str
      returned: always
    creator:
      description: The gocryptfs that made it.
      type: str
      returned: always
    cipher:
      description: What its files are encrypted with.
      type: str
      returned: always
      sample: AES-GCM
    feature_flags:
      description: Its features, as gocryptfs names them.
      type: list
      elements: str
      returned: always
    scrypt_log_n:
      description: Cost of the key derivation, as the logarithm of scrypt's N to base 2.
      type: int
      returned: always
    size:
      description: Bytes of the encrypted files.
      type: int
      returned: always
orphans:
  description: Names of vaults on the host that belong to no agent of the list.
  returned: success
  type: list
  elements: str
escrow:
  description: The master keys, encrypted to O(escrow_recipients), by agent. In check mode those that exist.
  returned: when there are escrow recipients
  type: dict
backups:
  description: Where the vaults were moved to, by agent.
  returned: when state is absent
  type: dict
ended:
  description: The agents' units that were ended to close the vaults.
  returned: always
  type: list
  elements: str
rotations:
  description: What was added to the record of rotations.
  returned: always
  type: list
  elements: dict
"""

import contextlib
import functools
import os
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.cordon.agent_host.plugins.module_utils import (
    _files,
    _gocryptfs,
    _rotations,
    _vault,
    _vault_backup,
    _vault_escrow,
    _vault_host,
    _vault_keys,
    _vault_open,
    _vault_unit,
)
from ansible_collections.cordon.agent_host.plugins.module_utils._vault_disk import private_directory

ENTRY = {
    "name": {"type": "str", "required": True},
    "user": {"type": "str", "required": True},
    "home": {"type": "path", "required": True},
    "unlock": {"type": "str", "choices": ["sealed", "operator"], "default": "sealed"},
}
ARGUMENTS = {
    "agents": {"type": "list", "elements": "dict", "required": True, "options": ENTRY},
    "state": {"type": "str", "choices": ["present", "mounted", "unmounted", "absent"], "default": "present"},
    "seal": {"type": "str", "choices": ["auto", "host", "host+tpm2", "openssl"], "default": "auto"},
    "cipher": {"type": "str", "choices": ["aes-gcm", "aes-siv", "xchacha"], "default": "aes-gcm"},
    "scrypt_log_n": {"type": "int"},
    "passwords": {"type": "dict", "default": {}, "no_log": True},
    "new_passwords": {"type": "dict", "default": {}, "no_log": True},
    "master_keys": {"type": "dict", "default": {}, "no_log": True},
    "renew": {"type": "str", "choices": ["none", "password", "master"], "default": "none"},
    "escrow_recipients": {"type": "list", "elements": "str", "default": []},
    "confirm": {"type": "list", "elements": "str", "default": []},
    "backup": {"type": "bool", "default": True},
    "end_sessions": {"type": "bool", "default": False},
    "by": {"type": "str", "default": ""},
    "reason": {"type": "str"},
}


class Job:
    """What this run was asked for, and what it has done so far."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._params: Dict[str, Any] = module.params
        self.check: bool = module.check_mode
        self.run = _runner(module)
        self.places = [_vault.Place(**agent) for agent in self._params["agents"]]
        self.steps: List[str] = []
        self.notes: List[str] = []
        self.extra: Dict[str, Any] = {"ended": [], "rotations": []}

    # --- All states -----------------------------------------------------------------------------

    def converge(self) -> None:
        """Bring about the state. Nothing is done when anything is wrong."""
        _refuse(self._mistakes())
        acts: Dict[str, Callable[[], None]] = {
            "present": self._present,
            "mounted": self._mounted,
            "unmounted": self._unmounted,
            "absent": self._absent,
        }
        acts[self._params["state"]]()

    def _mistakes(self) -> List[str]:
        """What is wrong with the request itself."""
        params, found = self._params, _vault_host.unusable(self.places)
        for option in ("passwords", "new_passwords"):
            found += _vault.bad_passwords(option, params[option])
        found += _vault.bad_master_keys(params["master_keys"])
        strangers = _vault.bad_recipients(params["escrow_recipients"])
        found += [f"escrow_recipients: {one} is no age recipient (age1...)" for one in strangers]
        cost = params["scrypt_log_n"]
        if cost is not None and not _gocryptfs.LOG_N_LEAST <= cost <= _gocryptfs.LOG_N_MOST:
            found.append(f"scrypt_log_n: {cost} is not from {_gocryptfs.LOG_N_LEAST} to {_gocryptfs.LOG_N_MOST}")
        if params["renew"] != "none" and params["state"] != "present":
            found.append("renew goes with state present")
        return found

    def _do(self, place: _vault.Place, step: str, act: Callable[[], Any]) -> Any:
        """Carry out one step, or only say that it would be."""
        result = None if self.check else act()
        self.steps.append(f"{place.name}: {step}")
        return result

    def _password(self, place: _vault.Place) -> Optional[str]:
        found: Optional[str] = self._params["passwords"].get(place.name)
        return found

    def _has_password(self, place: _vault.Place) -> bool:
        return place.name in self._params["passwords"] or place.name in self._params["new_passwords"]

    def keys(self, place: _vault.Place) -> _vault_keys.Keys:
        """What opens the vault of one agent, and how it is made."""
        params = self._params
        program = _vault.program(params["seal"], self._module.get_bin_path("systemd-creds") is not None)
        how = _vault_keys.How(params["seal"], program, params["scrypt_log_n"], params["cipher"])
        return _vault_keys.Keys(self.run, place, how, self._password(place), params["new_passwords"].get(place.name))

    def _unit(self, place: _vault.Place) -> _vault_unit.Unit:
        return _vault_unit.Unit(self.run, place, lambda: _vault_host.observe(place).mounted == place.source)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else opens or changes these vaults meanwhile; what was seen before the lock counts for nothing."""
        with contextlib.ExitStack() as locks:
            if not self.check:
                private_directory(_vault.CIPHERS)
                for place in sorted(self.places):
                    locks.enter_context(_vault_open.locked(place, alone=True))
            yield

    # --- Present --------------------------------------------------------------------------------

    def _present(self) -> None:
        with self._alone():
            self._mend()
            self._renew()
            self._escrow()

    def _mend(self) -> None:
        self._need_gocryptfs()
        adopted = self._adopt()
        seen = [(place, _vault_host.observe(place)) for place in self.places if place.name not in adopted]
        _refuse(
            [
                problem + (self.keys(place).copy_opens() if one.cipher == "damaged" and one.copy == "differs" else "")
                for place, one in seen
                for problem in _vault.problems(place, one, self.check, self._has_password(place))
            ]
        )
        for place, one in seen:  # what cannot be opened is an error in check mode too, and before anything is done
            self.keys(place).needed(_vault.steps(place, one))
        for place, one in seen:
            self.notes += _vault.shortfalls(place, one)
            worker = _vault_host.Worker(self.run, place, self.keys(place))
            for step in _vault.steps(place, one):
                try:
                    self._do(place, step, functools.partial(worker.act, step))
                except _vault_host.Refused as refused:
                    self.notes.append(str(refused))

    def _need_gocryptfs(self) -> None:
        """In check mode gocryptfs may be a package that the role would have installed by now."""
        wanted = ["gocryptfs", "gocryptfs-xray"] + (["age"] if self._params["escrow_recipients"] else [])
        missing = [program for program in wanted if self._module.get_bin_path(program) is None]
        if missing and not self.check:
            raise _vault.VaultError(f"{', '.join(missing)}: missing: install gocryptfs, fuse3, and age for an escrow")

    def _adopt(self) -> List[str]:
        """Put the vaults of which the master key was given under a new key. In check mode, return their names."""
        masters = self._params["master_keys"]
        for place in self.places:
            if place.name in masters:
                new = self._password(place) if place.unlock == "operator" else None
                if place.unlock == "operator" and new is None:
                    raise _vault.VaultError(f"vault of agent {place.name}: passwords.{place.name} is needed: what shall open it")
                keys, master = self.keys(place), _vault.master_key(masters[place.name])
                if self.check:
                    keys.prove(master)
                self._do(place, _vault.ADOPT, functools.partial(keys.adopt, master, new))
                self._record(place, "renewed", "vault password" if new else "vault key")
        return list(masters) if self.check else []

    def _foresee(self, place: _vault.Place) -> None:
        """Let a vault that nothing opens be an error in check mode too; one that is adopted would have a new key by now."""
        if self.check and self._exists(place) and place.name not in self._params["master_keys"]:
            self.keys(place).opening()

    def _record(self, place: _vault.Place, act: str, what: str) -> None:
        by = _rotations.who(self._params["by"])
        found = _rotations.entries([(place.name, what, act)], by, self._params["reason"])
        self.extra["rotations"] += found
        if not self.check:
            _rotations.append(found)

    # --- Renewing -------------------------------------------------------------------------------

    def _renew(self) -> None:
        wanted = self._params["renew"]
        if wanted == "master":
            self._close_for_renewal()
        for place in self.places:
            if wanted == "password":
                self._renew_password(place)
            elif wanted == "master":
                self._renew_master(place)

    def _renew_password(self, place: _vault.Place) -> None:
        new = self._params["new_passwords"].get(place.name)
        keys = self.keys(place)
        if place.unlock == "sealed":
            self._foresee(place)
            self._do(place, _vault.RENEW_PASSWORD, lambda: keys.renew_password(None))
            self._record(place, "renewed", "vault key")
            return
        if new is None:
            raise _vault.VaultError(f"vault of agent {place.name}: give its new password in new_passwords.{place.name}")
        if self._exists(place) and keys.opens(new):
            return
        if self._exists(place):
            keys.opening()  # a wrong old password is an error in check mode too
        self._do(place, _vault.RENEW_PASSWORD, lambda: keys.renew_password(new))
        self._record(place, "renewed", "vault password")

    def _exists(self, place: _vault.Place) -> bool:
        return _vault_host.observe(place).cipher == "vault"

    def _close_for_renewal(self) -> None:
        """Everything is copied: a file that a session writes meanwhile would be lost."""
        running = {place: self._sessions(place) for place in self.places}
        busy = [place for place in self.places if running[place] or _vault_host.observe(place).mounted]
        if not self._params["end_sessions"]:
            _refuse([_vault_unit.in_use(place, running[place] or [place.point]) for place in busy])
        for place in busy:
            self._close(place, running[place])
        _vault_open.enter_private_namespace(self.run)

    def _close(self, place: _vault.Place, running: List[str]) -> None:
        try:
            ended = self._do(place, _vault_unit.CLOSE, lambda: self._unit(place).close(True))
        except _vault.VaultError:  # the sessions may be gone all the same
            self.extra["ended"] += running
            raise
        self.extra["ended"] += running if self.check else ended

    def _sessions(self, place: _vault.Place) -> List[str]:
        return self._unit(place).sessions() if _vault_unit.has_systemd() else []

    def _renew_master(self, place: _vault.Place) -> None:
        keys = self.keys(place)
        self._foresee(place)
        new = self._params["new_passwords"].get(place.name) if place.unlock == "operator" else None
        self._do(place, _vault.RENEW_MASTER, lambda: keys.renew_master(new))
        self._record(place, "renewed", "master key")
        recipients = self._params["escrow_recipients"] or _vault_escrow.note(place).get("recipients")
        if recipients:
            self._make_escrow(place, recipients)

    def _make_escrow(self, place: _vault.Place, recipients: List[str]) -> None:
        self._foresee(place)
        self._do(place, _vault_escrow.ESCROW, lambda: _vault_escrow.make(self.run, place, self.keys(place), recipients))

    def _escrow(self) -> None:
        recipients = self._params["escrow_recipients"]
        if not recipients:
            self.notes += [
                f"{place.escrow} does not belong to the vault of agent {place.name}: it is of an earlier master key, and would "
                f"not open it. Give escrow_recipients (in a play vault_escrow_recipients) for a new one, or remove it"
                for place in self.places
                if self._exists(place) and _vault_escrow.of_another(place)
            ]
            return
        self.extra["escrow"] = {}
        for place in self.places:
            if not self._exists(place):  # in check mode it would have been made by now
                self._make_escrow(place, recipients)
                continue
            if _vault_escrow.outdated(place, recipients):
                self._make_escrow(place, recipients)
            if os.path.lexists(place.escrow):
                self.extra["escrow"][place.name] = _vault_escrow.text(place)

    # --- The other states -----------------------------------------------------------------------

    def _mounted(self) -> None:
        self._present()
        closed = [place for place in self.places if _vault_host.observe(place).mounted != place.source]
        if closed and not self.check:
            self._need_systemd()
        locked = [place.name for place in closed if place.unlock == "operator" and self._password(place) is None]
        if locked:
            remedy = "give it in passwords, or run cordonctl unlock NAME"
            raise _vault.VaultError(f"{', '.join(locked)}: an operator's password opens the vault: {remedy}")
        for place in closed:
            self._foresee(place)
            password = self._password(place) if place.unlock == "operator" else None
            self._do(place, _vault_unit.OPEN, functools.partial(self._unit(place).open, password))

    def _unmounted(self) -> None:
        seen = [(place, _vault_host.observe(place)) for place in self.places]
        for place, one in seen:
            if one.stale:
                worker = _vault_host.Worker(self.run, place, self.keys(place))
                self._do(place, _vault.UNMOUNT_STALE, functools.partial(worker.act, _vault.UNMOUNT_STALE))
        opened = [place for place, one in seen if one.mounted == place.source and not one.stale]
        if opened:
            self._need_systemd()
        running = {place: self._sessions(place) for place in opened}
        if not self._params["end_sessions"]:
            _refuse([_vault_unit.in_use(place, running[place]) for place in opened if running[place]])
        for place in opened:
            self._close(place, running[place])

    def _need_systemd(self) -> None:
        if not _vault_unit.has_systemd():
            raise _vault.VaultError("systemd does not run this host, and a vault is opened and closed by its unit only")

    def _absent(self) -> None:
        refused = _vault.confirmed([place.name for place in self.places], self._params["confirm"])
        _refuse([refused] if refused else [])
        with self._alone():
            seen = [(place, _vault_host.observe(place)) for place in self.places]
            _refuse([f"{place.point} is mounted: close the vault first (state: unmounted)" for place, one in seen if one.mounted])
            _refuse([problem for place, one in seen for problem in _vault.problems(place, one, True, True) if one.inside])
            self.extra["backups"] = {}
            for place in self.places:
                self._remove(place)

    def _remove(self, place: _vault.Place) -> None:
        for step in _vault_backup.steps(place, self._params["backup"]):
            if step == _vault_backup.PUT_AWAY:
                kept = self._do(place, step, lambda: _vault_backup.put_away(self.run, place))
                self.extra["backups"].update({place.name: kept} if kept else {})
            elif step == _vault_backup.DELETE:
                self._do(place, step, lambda: _vault_backup.delete(self.run, place))
            else:
                self._do(place, step, lambda: _vault_backup.remove_point(place))

    # --- Facts ----------------------------------------------------------------------------------

    def vaults(self) -> List[Dict[str, Any]]:
        """Describe the vaults as they are now."""
        found = []
        for place in self.places:
            seen = _vault_host.observe(place)
            if seen.cipher == "vault":
                now = {
                    "name": place.name,
                    "mounted": seen.mounted == place.source,
                    "unlock": "sealed" if seen.key or seen.next_key else "operator",
                    "size": _vault_host.size(place),
                }
                found.append({**now, **_gocryptfs.facts(_vault_host.config(place))})
        return found


def _refuse(problems: List[str]) -> None:
    if problems:
        raise _vault.VaultError("; ".join(problems))


def _orphans(names: List[str]) -> List[str]:
    if not os.path.isdir(_vault.CIPHERS):
        return []
    return sorted(name for name in os.listdir(_vault.CIPHERS) if name not in names and not name.startswith("."))


def _runner(module: AnsibleModule) -> _vault_host.Run:
    def run(argv: List[str], data: Any = None) -> Tuple[int, str, str]:
        # A key is no option, and so no secret to Ansible. Should a program repeat it in an error, it is hidden there too.
        module.no_log_values.update(line for line in (data or "").splitlines() if line)
        answer: Tuple[int, str, str] = module.run_command(argv, data=data, binary_data=True, expand_user_and_vars=False)
        return answer

    return run


def main() -> None:
    module = AnsibleModule(ARGUMENTS, supports_check_mode=True)
    module.run_command_environ_update = {"LANG": "C", "LC_ALL": "C", "LC_MESSAGES": "C", "LC_CTYPE": "C"}
    job = Job(module)
    try:
        _vault_open.no_core_dump()
        job.converge()
        vaults = job.vaults()
    except (OSError, ValueError, _vault.VaultError, _files.UnsafePath) as error:
        module.fail_json(msg=f"gocryptfs_vault: {error}", steps=job.steps, **job.extra)
    for note in job.notes:
        module.warn(note)
    module.exit_json(
        changed=bool(job.steps),
        steps=job.steps,
        vaults=vaults,
        orphans=_orphans([place.name for place in job.places]),
        diff={"before": "", "after": "".join(f"{step}\n" for step in job.steps)},
        **job.extra,
    )


if __name__ == "__main__":
    main()
