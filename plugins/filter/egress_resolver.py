# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: egress_resolver
short_description: What the resolver of the agents answers to whom
version_added: 0.1.0
author: the cordon.agent_host authors (@cordon)
description:
  - Renders C(/etc/cordon/resolver.json), the names that each agent and the proxy may resolve, and at which address each
    of them asks.
positional: _input, servers
options:
  _input:
    description: A resolved manifest, as P(cordon.agent_host.agents#filter) returns it.
    type: list
    elements: dict
    required: true
  servers:
    description: The IP addresses of the DNS servers that the resolver asks. They are asked on port 53.
    type: list
    elements: str
    required: true
  proxy_resolves:
    description: Whether the proxy of this host resolves names. It does not where it hands all requests to another proxy.
    type: bool
    default: true
"""

EXAMPLES = r"""
resolver: "{{ agent_host_agents | cordon.agent_host.agents | cordon.agent_host.egress_resolver(['192.0.2.53']) }}"
"""

RETURN = r"""
_value:
  description: The file as text.
  type: str
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.cordon.agent_host.plugins.module_utils import _egress_resolver
from ansible_collections.cordon.agent_host.plugins.plugin_utils._filter_errors import filter_errors


def egress_resolver(agents: list[dict[str, Any]], servers: list[str], proxy_resolves: bool = True) -> str:
    """Render for the role firewall."""
    with filter_errors("egress_resolver"):
        return _egress_resolver.text(agents, servers, proxy_resolves)


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name to function."""
        return {"egress_resolver": egress_resolver}
