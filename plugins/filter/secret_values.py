# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: secret_values
short_description: The values of secrets, for the vaults or for the egress proxy
version_added: 0.1.0
author: the cordon.agent_host authors (@cordon)
description:
  - Parts the values that an operator gives into those of brokered secrets, which only the egress proxy gets, and all others.
  - What the manifest does not declare stays with those for the vaults, where M(cordon.agent_host.vault_secrets) refuses it.
options:
  _input:
    description: The values, as a mapping of agents to mappings of secret names to text.
    type: dict
    required: true
  agents:
    description: A resolved manifest, as P(cordon.agent_host.agents#filter) returns it.
    type: list
    elements: dict
    required: true
  brokered:
    description: Whether to return the values for the proxy instead of those for the vaults.
    type: bool
    default: false
"""

EXAMPLES = r"""
values: "{{ vault_secrets | cordon.agent_host.secret_values(agent_host_agents | cordon.agent_host.agents) }}"
"""

RETURN = r"""
_value:
  description: Values by agent and name.
  type: dict
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.cordon.agent_host.plugins.module_utils import _brokered
from ansible_collections.cordon.agent_host.plugins.plugin_utils._filter_errors import filter_errors


def secret_values(values: Mapping[str, Any], agents: list[dict[str, Any]], brokered: bool = False) -> dict[str, Any]:
    """Select for the role vault, or for the role firewall."""
    with filter_errors("secret_values"):
        return _brokered.split(agents, values)[int(brokered)]


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name to function."""
        return {"secret_values": secret_values}
