#!/usr/bin/python
# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: vault_backup
short_description: Saves the agents' vaults to an archive and brings them back
version_added: 0.1.0
description:
  - Saves the encrypted vaults, their sealed keys, their configurations, the names of their secrets and their escrow to one
    tar file. Nothing is decrypted for it. The host's own key, which opens sealed keys, is not in it.
  - Before a vault is restored, it is opened apart from the one in use and every file in it is read.
  - A restored vault changes places with the one in use in one rename, and that one is moved to
    C(/var/lib/cordon/vault-backup/NAME-TIME). Power lost at any moment leaves a vault that opens.
extends_documentation_fragment:
  - cordon.agent_host.attributes
author: the cordon.agent_host authors (@cordon)
requirements:
  - gocryptfs
  - systemd-creds or openssl, whichever sealed the keys
options:
  agents:
    description: The agents whose vaults are saved or restored.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the agent.
        type: str
        required: true
      user:
        description: Its user.
        type: str
        required: true
      home:
        description: Its home, without a symbolic link in its path.
        type: path
        required: true
      unlock:
        description: What opens the vault. See M(cordon.agent_host.gocryptfs_vault).
        type: str
        choices: [sealed, operator]
        default: sealed
  state:
    description:
      - V(saved) writes the archive. A session may have a vault open, or open it meanwhile. What an agent writes at that very
        moment to a vault that it may write to can be saved half, and then RV(whole) is false.
      - V(rehearsed) does all that V(restored) does up to the moment at which something would change.
      - V(restored) puts the vaults of the archive in the place of those in use, which must be closed.
    type: str
    choices: [saved, rehearsed, restored]
    required: true
  archive:
    description:
      - The tar file, as an absolute path. Its directory is made for root alone where it is missing. To a directory that others
        may write to nothing is saved.
      - With O(state=rehearsed) and O(state=restored) also a directory C(/var/lib/cordon/vault-backup/NAME-TIME), to which a vault
        was moved.
    type: path
    required: true
  passwords:
    description: Passwords of vaults that an operator's password opens, by agent, as they were when the archive was made.
    type: dict
    default: {}
  master_keys:
    description:
      - Master keys, by agent, as decrypted from their escrow. For a vault whose sealed key this host cannot unseal, because
        another host made it. The vault is put under a new key.
    type: dict
    default: {}
  seal:
    description: What a new key is sealed with. See M(cordon.agent_host.gocryptfs_vault).
    type: str
    choices: [auto, host, host+tpm2, openssl]
    default: auto
  by:
    description: Who does this, for the record. When empty, who became root.
    type: str
    default: ""
  reason:
    description: Why, for the record.
    type: str
"""

EXAMPLES = r"""
- name: Save a vault
  cordon.agent_host.vault_backup:
    agents:
      - {name: scout, user: agent-scout, home: /srv/agents/scout}
    state: saved
    archive: /var/lib/cordon/vault-backup/monday.tar
"""

RETURN = r"""
archive:
  description: The archive.
  returned: success
  type: str
whole:
  description: Whether nothing changed while it was saved.
  returned: when state is saved
  type: bool
opened_by:
  description: What opened each vault of the archive, by agent, V(sealed key), V(password) or V(master key).
  returned: when state is rehearsed or restored
  type: dict
backups:
  description: Where the vaults were moved to that were in use, by agent. After a failure those of the agents before it.
  returned: when state is restored
  type: dict
rotations:
  description: What was added to the record of rotations.
  returned: when state is restored
  type: list
  elements: dict
"""

import contextlib
import os
from typing import Any, Dict, Iterator, List, Tuple

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.cordon.agent_host.plugins.module_utils import (
    _files,
    _rotations,
    _vault,
    _vault_backup,
    _vault_host,
    _vault_keys,
    _vault_open,
)
from ansible_collections.cordon.agent_host.plugins.module_utils._vault_disk import private_directory

ENTRY = {
    "name": {"type": "str", "required": True},
    "user": {"type": "str", "required": True},
    "home": {"type": "path", "required": True},
    "unlock": {"type": "str", "choices": ["sealed", "operator"], "default": "sealed"},
}
ORIGINS = {"password": "password", "master": "master key"}


def _runner(module: AnsibleModule) -> _vault_open.Run:
    def run(argv: List[str], data: Any = None) -> Tuple[int, str, str]:
        # A key is no option, and so no secret to Ansible. Should a program repeat it in an error, it is hidden there too.
        module.no_log_values.update(line for line in (data or "").splitlines() if line)
        answer: Tuple[int, str, str] = module.run_command(argv, data=data, binary_data=True, expand_user_and_vars=False)
        return answer

    return run


def _mistakes(params: Dict[str, Any], places: List[_vault.Place]) -> List[str]:
    """What is wrong with the request itself."""
    found = _vault_host.unusable(places) + _vault.bad_passwords("passwords", params["passwords"])
    found += _vault.bad_master_keys(params["master_keys"])
    if not os.path.isabs(params["archive"]):
        found.append(f"archive: {params['archive']} is no absolute path")
    return found


def _save(module: AnsibleModule, places: List[_vault.Place]) -> Dict[str, Any]:
    archive = module.params["archive"]
    if not places:
        return {"changed": False, "archive": archive, "whole": True}
    _vault_backup.check_directory(archive)
    missing = [place.name for place in places if not os.path.isdir(place.cipher)]
    if missing:
        raise _vault.VaultError(f"there is no vault of {', '.join(missing)}: run gocryptfs_vault first")
    whole = True
    if not module.check_mode:
        with _locked(places, alone=False):
            whole = _vault_backup.save(_runner(module), places, archive)
    if not whole:
        module.warn(f"{archive}: a file changed while it was saved: close the vaults, or save them again")
    return {"changed": True, "archive": archive, "whole": whole, "diff": {"before": "", "after": f"{archive}\n"}}


@contextlib.contextmanager
def _locked(places: List[_vault.Place], alone: bool) -> Iterator[None]:
    """Hold all vaults: none is changed or filled meanwhile; alone: nor opened by a session.

    And of these runs there is one at a time: what they unpack has the same names.
    """
    for path in (_vault.CIPHERS, _vault.BACKUPS):
        private_directory(path)
    with contextlib.ExitStack() as locks:
        lock = f"{_vault.BACKUPS}/.lock"
        locks.enter_context(_vault_open.held(lock, True, "another run saves or restores vaults"))
        for place in sorted(places):
            locks.enter_context(_vault_open.locked(place, alone))
        yield


def _restore(module: AnsibleModule, places: List[_vault.Place], result: Dict[str, Any]) -> Dict[str, Any]:
    run, params = _runner(module), module.params
    real = params["state"] == "restored" and not module.check_mode
    result.update(opened_by={}, backups={}, rotations=[])
    with _locked(places, alone=params["state"] == "restored"):
        opened = [place.point for place in places if params["state"] == "restored" and _vault_host.observe(place).mounted]
        if opened:
            raise _vault.VaultError(f"{', '.join(opened)}: close the vault first (gocryptfs_vault, state: unmounted)")
        _vault_open.enter_private_namespace(run)
        with contextlib.ExitStack() as stack:
            found = []
            for place in places:  # all are opened before the first is put back
                unpacked = stack.enter_context(_vault_backup.Unpacked(run, place, params["archive"]))
                master = _vault.master_key(params["master_keys"].get(place.name)) or None
                key, _cipher = unpacked.opening(params["passwords"].get(place.name), master)
                found.append((place, unpacked, key, _keys(module, place, key)))
                result["opened_by"][place.name] = ORIGINS.get(key.origin, "sealed key")
            for place, unpacked, key, keys in found if real else []:
                kept = unpacked.put_back(keys, key, params["passwords"].get(place.name))
                _record(params, result, place, kept)
    names = [place.name for place in places] if params["state"] == "restored" else []
    return {**result, "changed": bool(names), "diff": {"before": "", "after": "".join(f"{name}: restored\n" for name in names)}}


def _keys(module: AnsibleModule, place: _vault.Place, key: _vault_open.Key) -> _vault_keys.Keys:
    """What shall open the restored vault; VaultError where it cannot be had, which a rehearsal finds too."""
    params = module.params
    password = params["passwords"].get(place.name)
    if key.origin == "master" and place.unlock == "operator" and password is None:
        raise _vault.VaultError(
            f"vault of agent {place.name}: passwords.{place.name} is needed: what shall open it. Nothing was changed"
        )
    program = _vault.program(params["seal"], module.get_bin_path("systemd-creds") is not None)
    return _vault_keys.Keys(_runner(module), place, _vault_keys.How(params["seal"], program), password)


def _record(params: Dict[str, Any], result: Dict[str, Any], place: _vault.Place, kept: str) -> None:
    result["backups"].update({place.name: kept} if kept else {})
    record = _rotations.entries([(place.name, "vault", "restored")], _rotations.who(params["by"]), params["reason"])
    _rotations.append(record)
    result["rotations"] += record


def main() -> None:
    module = AnsibleModule(
        {
            "agents": {"type": "list", "elements": "dict", "required": True, "options": ENTRY},
            "state": {"type": "str", "choices": ["saved", "rehearsed", "restored"], "required": True},
            "archive": {"type": "path", "required": True},
            "passwords": {"type": "dict", "default": {}, "no_log": True},
            "master_keys": {"type": "dict", "default": {}, "no_log": True},
            "seal": {"type": "str", "choices": ["auto", "host", "host+tpm2", "openssl"], "default": "auto"},
            "by": {"type": "str", "default": ""},
            "reason": {"type": "str"},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LANG": "C", "LC_ALL": "C", "LC_MESSAGES": "C", "LC_CTYPE": "C"}
    places = [_vault.Place(**agent) for agent in module.params["agents"]]
    mistakes = _mistakes(module.params, places)
    if mistakes:
        module.fail_json(msg=f"vault_backup: nothing was changed. {'; '.join(mistakes)}")
    result: Dict[str, Any] = {"archive": module.params["archive"]}
    try:
        _vault_open.no_core_dump()
        result = _save(module, places) if module.params["state"] == "saved" else _restore(module, places, result)
    except (OSError, ValueError, _vault.VaultError, _files.UnsafePath) as error:
        module.fail_json(msg=f"vault_backup: {error}", **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
