# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: firewall_ruleset
short_description: The agent firewall as nftables text
version_added: 0.1.0
author: the cordon.agent_host authors (@cordon)
description:
  - Renders what each agent may reach, all else refused, for M(cordon.agent_host.nftables_table).
  - Users stand as variables in the text, since their numbers are known on the host only.
options:
  _input:
    description: A resolved manifest, as P(cordon.agent_host.agents#filter) returns it.
    type: list
    elements: dict
    required: true
  services:
    description:
      - Where the egress proxy and the resolver send to. A manifest without names needs neither.
      - C(upstream_proxy) is V(null), or the C(address) and C(port) of the proxy that leads outside.
      - C(dns_servers) is the list of addresses that the resolver asks.
    type: dict
    default: {}
  metadata_users:
    description:
      - The users who may ask metadata endpoints, beside root. Left out, everybody may who is no agent.
      - Agents never may, whatever is listed.
    type: list
    elements: str
"""

EXAMPLES = r"""
ruleset: "{{ agent_host_agents | cordon.agent_host.agents | cordon.agent_host.firewall_ruleset }}"

ruleset_with_names: >-
  {{ agent_host_agents | cordon.agent_host.agents
     | cordon.agent_host.firewall_ruleset(services={'upstream_proxy': none, 'dns_servers': ['192.0.2.53']}) }}
"""

RETURN = r"""
_value:
  description:
    - C(content), the text between the braces of the table.
    - C(users), the user that each variable of it stands for.
  type: dict
"""

from typing import Any

from ansible_collections.cordon.agent_host.plugins.module_utils import _nftables_ruleset
from ansible_collections.cordon.agent_host.plugins.plugin_utils._filter_errors import filter_errors


def firewall_ruleset(
    agents: list[dict[str, Any]], services: dict[str, Any] | None = None, metadata_users: list[str] | None = None
) -> dict[str, Any]:
    """Render for nftables_table."""
    with filter_errors("firewall_ruleset"):
        return {
            "content": _nftables_ruleset.body(agents, services, metadata_users),
            "users": _nftables_ruleset.users(agents, metadata_users),
        }


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        return {"firewall_ruleset": firewall_ruleset}
