# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: agents
short_description: Resolve and validate the manifest of agents
version_added: 0.1.0
author: the cordon.agent_host authors (@cordon)
description:
  - Takes the list of agents as the inventory has it, usually C(agent_host_agents), and returns it complete,
    with every default filled in. All roles of the collection work from this form.
  - Reports every mistake at once, one per line, each with its path and the remedy.
  - Resolving a resolved manifest changes nothing.
  - With O(promotions) it returns the agents as they are to run. One that burns in and was promoted is in C(enforce).
positional: _input, root
options:
  _input:
    description:
      - The agents. C(docs/manifest.md) of the collection describes every key,
        C(docs/manifest.schema.json) serves editors.
    type: list
    elements: dict
    required: true
  root:
    description: What messages call the list.
    type: str
    default: agents
  promotions:
    description:
      - The host's promotions, as RV(cordon.agent_host.apparmor_info#module:promotions) has them.
      - Left out, an agent's C(mode) is the one that the manifest says.
    type: dict
"""

EXAMPLES = r"""
- name: Show what the defaults make of the smallest agent
  ansible.builtin.debug:
    msg: "{{ [{'name': 'autopilot', 'command': ['/usr/bin/sleep', 'infinity']}] | cordon.agent_host.agents }}"

- name: Stop before any role runs when the manifest has mistakes
  ansible.builtin.set_fact:
    __agents: "{{ agent_host_agents | cordon.agent_host.agents(root='agent_host_agents') }}"
"""

RETURN = r"""
_value:
  description: The agents, every key present, in the order given.
  type: list
  elements: dict
  sample:
    - name: autopilot
      user: agent-autopilot
      home: /srv/agents/autopilot
      command: [/usr/bin/sleep, infinity]
      tools: []
      programs: []
      environment: {}
      workspace: {path: /srv/agents/autopilot/workspace, read_only: [], read_write: [], execute: true}
      denied: []
      inner_sandbox: deny
      secrets: []
      vault: {unlock: sealed, writable: false, idle: null}
      egress: []
      critical_apis: []
      limits: {cpu: 200%, memory: 4G, tasks: 512, gpu: false, devices: []}
      monitoring: {silence: 4h, unconfined: stop}
      mode: burn_in
      burn_in: {days: 14, active_days: 3, replay: []}
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.cordon.agent_host.plugins.module_utils._manifest import ManifestError, resolve
from ansible_collections.cordon.agent_host.plugins.module_utils._promotions import effective
from ansible_collections.cordon.agent_host.plugins.plugin_utils._catalogue import CatalogueError, known_tools


def agents(
    value: Any, root: str = "agents", promotions: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The resolved manifest, see module_utils/_manifest.py; every mistake in one AnsibleFilterError."""
    try:
        return effective(resolve(value, known_tools(), root), promotions or {})
    except (ManifestError, CatalogueError) as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name to function."""
        return {"agents": agents}
