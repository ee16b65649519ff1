#!/usr/bin/python
# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: agent_services
short_description: Starts the services of all agents, stops those of agents that are gone
version_added: 0.1.0
description:
  - With O(state=pruned), stops and disables the service and the sessions of every agent that is not listed.
    This comes before its controls are taken away.
  - With O(state=started), enables and starts the service of each listed agent, and restarts those in O(restart).
  - A service that does not start fails the module with what the preflight said.
extends_documentation_fragment:
  - cordon.agent_host.attributes
author: the cordon.agent_host authors (@cordon)
options:
  agents:
    description: Names of the agents.
    type: list
    elements: str
    required: true
  state:
    description: What to bring about.
    type: str
    choices: [pruned, started]
    required: true
  restart:
    description: Names of agents whose service is restarted if it runs. Its confinement or command changed.
    type: list
    elements: str
    default: []
  no_wait:
    description:
      - Names of agents whose start is ordered and not waited for. It waits itself, until an operator unlocks the vault.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Start both agents
  cordon.agent_host.agent_services:
    agents: [scout, scribe]
    state: started
"""

RETURN = r"""
steps:
  description: What was, or in check mode would be, done.
  returned: success
  type: list
  elements: str
  sample: ["start cordon-agent@scout.service"]
"""

from typing import Dict, List

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.cordon.agent_host.plugins.module_utils import _services


def _systemctl(module: AnsibleModule, *arguments: str) -> str:
    rc, out, err = module.run_command(["systemctl", "--no-pager", "--plain", *arguments])
    # list-unit-files exits with 1, silently, when no unit matches.
    if rc != 0 and err:
        module.fail_json(msg=f"agent_services: 'systemctl {' '.join(arguments)}' failed: {err.strip()}")
    return out


def _observe(module: AnsibleModule, agents: List[str]) -> Dict[str, Dict[str, str]]:
    """Properties of every unit of ours that is loaded, enabled or listed, by unit name."""
    listed = [_services.service(name) for name in agents]
    loaded = _systemctl(
        module, "list-units", "--all", "--no-legend", "cordon-agent@*.service", "cordon-session-*.service"
    )
    enabled = _systemctl(module, "list-unit-files", "--no-legend", "cordon-agent@*.service")
    units = sorted({*listed, *_services.names(loaded), *_services.names(enabled)})
    if not units:
        return {}
    return _services.properties(
        _systemctl(module, "show", "--property=Id,ActiveState,UnitFileState,NeedDaemonReload,Job", "--", *units)
    )


def _explain(module: AnsibleModule, unit: str) -> str:
    _rc, out, _err = module.run_command(
        ["journalctl", "--no-pager", "--output=cat", "--lines=20", "--unit", unit]
    )
    return out.strip()


def _act(module: AnsibleModule, steps: List[_services.Step]) -> None:
    for step in steps:
        rc, _out, err = module.run_command(["systemctl", *step])
        # What is not loaded has nothing to reset.
        if rc != 0 and step[0] != "reset-failed":
            module.fail_json(
                msg=f"agent_services: 'systemctl {' '.join(step)}' failed: {err.strip()}\n{_explain(module, step[-1])}"
            )


def main() -> None:
    module = AnsibleModule(
        {
            "agents": {"type": "list", "elements": "str", "required": True},
            "state": {"type": "str", "choices": ["pruned", "started"], "required": True},
            "restart": {"type": "list", "elements": "str", "default": []},
            "no_wait": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LANG": "C", "LC_ALL": "C", "LC_MESSAGES": "C", "LC_CTYPE": "C"}
    agents = module.params["agents"]
    seen = _observe(module, agents)
    if module.params["state"] == "pruned":
        steps = _services.prune(seen, agents)
    else:
        steps = _services.not_awaited(seen, agents, module.params["restart"], module.params["no_wait"])
    if not module.check_mode:
        _act(module, steps)
    shown = [" ".join(step) for step in steps]
    module.exit_json(
        changed=bool(steps), steps=shown, diff={"before": "", "after": "".join(f"{step}\n" for step in shown)}
    )


if __name__ == "__main__":
    main()
