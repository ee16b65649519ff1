#!/usr/bin/python
# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: gocryptfs_vaults
short_description: One encrypted vault for each agent
version_added: 0.1.0
description:
  - Makes the gocryptfs vault, its sealed key and its mount point for all agents in one call, and mends what
    is not as it must be.
  - The encrypted directory is C(/var/lib/cordon/vault/NAME), the key C(/etc/cordon/vault/NAME.cred), the
    mount point C(.vault) in the agent's home.
  - The key is 32 random bytes, made on the host. It is stored only as sealed, see O(seal), and
    passes through pipes, never through a file, an argument or an environment variable.
  - The mount point is empty and immutable, so that nothing is written to it in the clear while the vault is
    closed.
  - Never replaces a vault. A vault whose key or configuration is missing is an error, because making it
    again would lose the secrets in it.
  - Does not mount. C(cordon-vault@NAME.service) does that for the time of a session.
  - Starts no program when nothing differs.
extends_documentation_fragment:
  - cordon.agent_host.attributes
author: the cordon.agent_host authors (@cordon)
requirements:
  - gocryptfs
  - systemd-creds (systemd 250 or later), or openssl
options:
  agents:
    description:
      - The agents that have a vault. A vault on the host that belongs to none of them is reported in
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
        description: Its user, who must exist.
        type: str
        required: true
      home:
        description: Its home, which must exist. Root must own it, or the agent could replace the mount point.
        type: path
        required: true
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
"""

EXAMPLES = r"""
- name: Make the vaults of two agents
  cordon.agent_host.gocryptfs_vaults:
    agents:
      - {name: scout, user: agent-scout, home: /srv/agents/scout}
      - {name: scribe, user: agent-scribe, home: /srv/agents/scribe}
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
    creator:
      description: The gocryptfs that made it.
      type: str
      returned: always
    feature_flags:
      description: Its features, as gocryptfs names them.
      type: list
      elements: str
      returned: always
    scrypt_log_n:
      description: Cost of the key derivation, as the logarithm of scrypt's N to base 2.
      type: int
      returned: always
orphans:
  description: Names of vaults on the host that belong to no agent of the list.
  returned: success
  type: list
  elements: str
"""

import os
from typing import Any, Dict, List, Tuple

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.cordon.agent_host.plugins.module_utils import (
    _files,
    _gocryptfs,
    _vault,
    _vault_host,
)


def _program(module: AnsibleModule) -> str:
    """Choose what seals keys; in check mode gocryptfs may be a package that the role would have installed."""
    if module.get_bin_path("gocryptfs") is None and not module.check_mode:
        raise _vault.VaultError("gocryptfs is missing: install the packages gocryptfs and fuse3")
    return _vault.program(module.params["seal"], module.get_bin_path("systemd-creds") is not None)


def _orphans(names: List[str]) -> List[str]:
    if not os.path.isdir(_vault.CIPHERS):
        return []
    return sorted(name for name in os.listdir(_vault.CIPHERS) if name not in names and not name.startswith("."))


def _converge(module: AnsibleModule, places: List[_vault.Place]) -> Tuple[List[str], List[str]]:
    """Return the steps taken and what could only be had in part; nothing is done when anything is wrong."""
    program = _program(module)
    seen = [(place, _vault_host.observe(place)) for place in places]
    wrong = [problem for place, one in seen for problem in _vault.problems(place, one, module.check_mode)]
    if wrong:
        raise _vault.VaultError("; ".join(wrong))
    steps: List[str] = []
    notes = [note for place, one in seen for note in _vault.shortfalls(place, one)]
    for place, one in seen:
        worker = _vault_host.Worker(_runner(module), place, module.params["seal"], program)
        for step in _vault.steps(one):
            try:
                if not module.check_mode:
                    worker.act(step)
                steps.append(f"{place.name}: {step}")
            except _vault_host.Refused as refused:
                notes.append(str(refused))
    return steps, notes


def _runner(module: AnsibleModule) -> _vault_host.Run:
    def run(argv: List[str], data: Any = None) -> Tuple[int, str, str]:
        answer: Tuple[int, str, str] = module.run_command(argv, data=data, binary_data=True, expand_user_and_vars=False)
        return answer

    return run


def _vaults(places: List[_vault.Place]) -> List[Dict[str, Any]]:
    found = []
    for place in places:
        seen = _vault_host.observe(place)
        if seen.cipher == "vault":
            mounted = seen.mounted == place.source
            found.append({"name": place.name, "mounted": mounted, **_gocryptfs.facts(_vault_host.config(place))})
    return found


def main() -> None:
    entry = {
        "name": {"type": "str", "required": True},
        "user": {"type": "str", "required": True},
        "home": {"type": "path", "required": True},
    }
    module = AnsibleModule(
        {
            "agents": {"type": "list", "elements": "dict", "required": True, "options": entry},
            "seal": {"type": "str", "choices": ["auto", "host", "host+tpm2", "openssl"], "default": "auto"},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LANG": "C", "LC_ALL": "C", "LC_MESSAGES": "C", "LC_CTYPE": "C"}
    places = [_vault.Place(agent["name"], agent["user"], agent["home"]) for agent in module.params["agents"]]
    try:
        steps, notes = _converge(module, places)
        vaults = _vaults(places)
    except (OSError, ValueError, _vault.VaultError, _files.UnsafePath) as error:
        module.fail_json(msg=f"gocryptfs_vaults: {error}")
    for note in notes:
        module.warn(note)
    module.exit_json(
        changed=bool(steps),
        steps=steps,
        vaults=vaults,
        orphans=_orphans([place.name for place in places]),
        diff={"before": "", "after": "".join(f"{step}\n" for step in steps)},
    )


if __name__ == "__main__":
    main()
