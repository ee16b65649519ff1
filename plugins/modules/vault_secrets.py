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
  - Makes each agent's vault hold exactly its secrets. Those that differ are rewritten, those that are not
    listed are removed, the others stay untouched.
  - Every secret that an agent declares must have a value, and no other value may be given. All mistakes are
    reported at once, before anything is written.
  - Opens each vault for itself, in a mount namespace of its own that ends with the module, so no other
    process sees the secrets. A session that has the vault open goes on undisturbed. It reads the new value
    the next time it opens the file. A file that it has open keeps the old one.
  - Each secret is replaced in one rename. A reader sees the old value or the new one, and so does a host
    that lost power.
  - Leaves a notice for each secret in the closed mount point, see RV(notices).
  - What lies in the directory C(own) of a vault is the agent's (C(vault.writable) of the manifest) and stays.
  - Values appear in no argument of a command, environment variable, log, result or diff, and in no file
    outside the vault.
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
notices:
  description:
    - The secrets, by agent, whose notice was, or in check mode would be, made, mended or removed.
    - A notice is a symbolic link in the closed mount point that leads nowhere. Its target says how to open the vault.
  returned: success
  type: dict
  sample: {"scout": ["github_token"]}
"""

import os
import pwd
import re
from typing import Any, Dict, List, Tuple

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.cordon.agent_host.plugins.module_utils import (
    _files,
    _gocryptfs,
    _vault,
    _vault_notice,
    _vault_open,
    _vault_secrets,
)
from ansible_collections.cordon.agent_host.plugins.module_utils._manifest_values import OWN

# What gocryptfs keeps beside the encrypted files.
OWN_FILES = {_gocryptfs.CONFIG, "gocryptfs.diriv"}
SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def _stored(top: int, name: str) -> _vault_secrets.Stored:
    """Read one entry; what cannot be read (a damaged file is an I/O error) is written anew from its value."""
    try:
        seen = _files.observe(top, name)
    except OSError:
        return _vault_secrets.Stored(0, None)
    return _vault_secrets.Stored(seen.mode, seen.text if seen.kind == "file" else None)


def _apply(top: int, change: _vault_secrets.Change, wanted: Dict[str, str]) -> None:
    if change.name not in wanted:
        _files.remove(top, change.name)
        return
    if change.before == "unreadable":  # a directory could not be replaced by rename
        _files.remove(top, change.name)
    entry = _files.Entry("file", _vault_secrets.MODE, 0, 0, wanted[change.name])
    _files.write_file(top, change.name, entry)


def _one_agent(
    module: AnsibleModule, run: _vault_open.Run, name: str, wanted: Dict[str, str]
) -> List[_vault_secrets.Change]:
    """Compare one vault with its secrets, and write what differs."""
    place = _vault.Place(name, "", "")
    try:
        empty = set(os.listdir(place.cipher)) <= OWN_FILES
    except FileNotFoundError:
        if module.check_mode:  # the vault would have been made by now
            return _vault_secrets.changes(wanted, {})
        raise _vault.VaultError(f"agent {name} has no vault {place.cipher}: run gocryptfs_vaults first") from None
    if empty and (module.check_mode or not wanted):
        return _vault_secrets.changes(wanted, {})
    with _vault_open.opened(run, place, read_only=module.check_mode) as top:
        changes = _vault_secrets.changes(wanted, {found: _stored(top, found) for found in os.listdir(top) if found != OWN})
        if not module.check_mode:
            for change in changes:
                _apply(top, change, wanted)
            os.fsync(top)
    return changes


def _runner(module: AnsibleModule) -> _vault_open.Run:
    def run(argv: List[str], data: Any = None) -> Tuple[int, str, str]:
        answer: Tuple[int, str, str] = module.run_command(argv, data=data, binary_data=True, expand_user_and_vars=False)
        return answer

    return run


def _converge(module: AnsibleModule) -> Dict[str, List[_vault_secrets.Change]]:
    values = module.params["values"]
    run, found = _runner(module), {}
    agents = sorted(module.params["declared"])
    if any(os.path.isdir(_vault.Place(name, "", "").cipher) for name in agents):
        _vault_open.enter_private_namespace(run)
    for name in agents:
        changes = _one_agent(module, run, name, values.get(name) or {})
        if changes:
            found[name] = changes
    return found


def _notices(module: AnsibleModule) -> Dict[str, List[str]]:
    """Tell whoever reads a secret while its vault is closed how to open it; the changed names by agent."""
    found: Dict[str, List[str]] = {}
    for name, secrets in sorted(module.params["declared"].items()):
        try:
            home = pwd.getpwnam(f"agent-{name}").pw_dir
        except KeyError:
            continue  # in check mode, on a host that has no such user yet
        if os.path.isdir(_vault.Place(name, "", "").cipher):
            changed = _vault_notice.converge(name, f"{home}/.vault", secrets, module.check_mode)
            found.update({name: changed} if changed else {})
    return found


def _mistakes(module: AnsibleModule) -> List[str]:
    declared = module.params["declared"]
    unsafe = [
        f"{agent}.{name}: not usable as a file name"
        for agent in declared
        for name in declared[agent]
        if not SAFE_NAME.fullmatch(name)
    ]
    return unsafe + _vault_secrets.mistakes(declared, module.params["values"])


def main() -> None:
    module = AnsibleModule(
        {
            "declared": {"type": "dict", "required": True},
            "values": {"type": "dict", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LANG": "C", "LC_ALL": "C", "LC_MESSAGES": "C", "LC_CTYPE": "C"}
    mistakes = _mistakes(module)
    if mistakes:
        module.fail_json(msg="vault_secrets: nothing was written. " + "; ".join(mistakes))
    try:
        found = _converge(module)
        notices = _notices(module)
    except (OSError, _vault.VaultError, _files.UnsafePath) as error:
        module.fail_json(msg=f"vault_secrets: {error}")
    shown = {name: [change._asdict() for change in found[name]] for name in found}
    diff = _vault_secrets.diff(found)
    diff["after"] += "".join(f"{agent}/{name}: notice for the closed vault\n" for agent in notices for name in notices[agent])
    module.exit_json(changed=bool(found or notices), secrets=shown, notices=notices, diff=diff)


if __name__ == "__main__":
    main()
