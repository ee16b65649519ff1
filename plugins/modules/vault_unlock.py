#!/usr/bin/python
# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: vault_unlock
short_description: Opens vaults that an operator unlocks
version_added: 0.1.0
description:
  - Brings passwords to the vaults that wait for them, by C(cordonctl unlock). It starts an agent whose vault nothing waits for.
  - A vault that is open stays as it is. A vault that is not open in the end fails the module, after all have been tried.
  - Passwords pass through pipes, never through a file, an argument or an environment variable.
extends_documentation_fragment:
  - cordon.agent_host.attributes
author: the cordon.agent_host authors (@cordon)
requirements:
  - cordonctl, which the role C(cordon.agent_host.agent) installs
options:
  passwords:
    description:
      - Passwords by agent, of agents of this host with C(vault.unlock=operator).
      - The playbook C(cordon.agent_host.unlock) gives each host those of its own agents.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Open a vault
  cordon.agent_host.vault_unlock:
    passwords:
      notary: "{{ lookup('community.hashi_vault.vault_kv2_get', 'notary').secret.password }}"
"""

RETURN = r"""
agents:
  description: What became of each vault, by agent. In check mode what would.
  returned: always, but when no vault was tried
  type: dict
  contains:
    open:
      description: Whether it is open.
      type: bool
      returned: always
    changed:
      description: Whether this opened it.
      type: bool
      returned: always
    message:
      description: The same in words, with what to do about a vault that is not open.
      type: str
      returned: always
  sample: {notary: {open: true, changed: true, message: opened}}
"""

import json
import os
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.cordon.agent_host.plugins.module_utils import _vault, _vault_open

CORDONCTL = "/usr/lib/cordon/cordonctl"
Outcomes = Dict[str, Dict[str, Any]]


class Failed(Exception):
    """No vault was tried; the message says why."""


def mistakes(passwords: Dict[str, Any]) -> List[str]:
    """What is wrong with the passwords themselves; without them."""
    found = []
    for agent, text in sorted(passwords.items()):
        why = _vault.unusable_password(text) if isinstance(text, str) else "it is no text: put it in quotes"
        found += [f"passwords.{agent}: {why}"] if why else []
    return found


def unlocked(module: AnsibleModule) -> Outcomes:
    """Bring the passwords; what became of each vault."""
    passwords = json.dumps(module.params["passwords"])
    rc, out, err = module.run_command([CORDONCTL, "unlock", "--json"], data=passwords, binary_data=True)
    outcomes = _answer(out)
    if not outcomes:
        raise Failed(f"'cordonctl unlock' gave no answer (exit code {rc}): {err.strip()}")
    return outcomes


def foreseen(module: AnsibleModule) -> Outcomes:
    """What would become of each vault if its password is right."""
    rc, out, err = module.run_command([CORDONCTL, "unlock", "--list"])
    if rc != 0:
        raise Failed(f"'cordonctl unlock --list' failed: {err.strip()}")
    states = _answer(out)
    told = {
        "locked": {"open": False, "changed": True, "message": "would be opened"},
        "open": {"open": True, "changed": False, "message": "already open"},
    }
    return {agent: told.get(states.get(agent, ""), _stranger(agent)) for agent in module.params["passwords"]}


def _stranger(agent: str) -> Dict[str, Any]:
    return {"open": False, "changed": False, "message": f"no operator unlocks a vault of an agent {agent} of this host"}


def _answer(text: str) -> Dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def main() -> None:
    module = AnsibleModule({"passwords": {"type": "dict", "required": True, "no_log": True}}, supports_check_mode=True)
    module.run_command_environ_update = {"LANG": "C", "LC_ALL": "C", "LC_MESSAGES": "C", "LC_CTYPE": "C"}
    wrong = mistakes(module.params["passwords"])
    if wrong:
        module.fail_json(msg="vault_unlock: no vault was tried. " + "; ".join(wrong))
    if not module.params["passwords"]:
        module.exit_json(changed=False, agents={}, diff={"before": "", "after": ""})
    if not os.path.exists(CORDONCTL):
        module.fail_json(msg=f"vault_unlock: {CORDONCTL} is missing: run the role cordon.agent_host.agent on this host first")
    try:
        _vault_open.no_core_dump()
        agents = foreseen(module) if module.check_mode else unlocked(module)
    except (OSError, Failed) as error:
        module.fail_json(msg=f"vault_unlock: {error}")
    opened = sorted(agent for agent in agents if agents[agent]["changed"])
    shut = sorted(agent for agent in agents if not agents[agent]["open"] and agent not in opened)
    diff = {"before": "", "after": "".join(f"{agent}: opened\n" for agent in opened)}
    result = {"changed": bool(opened), "agents": agents, "diff": diff}
    if shut:
        module.fail_json(msg="vault_unlock: " + "; ".join(agents[agent]["message"] for agent in shut), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
