# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: egress_proxy
short_description: The egress proxy of the agents as files
version_added: 0.1.0
author: the cordon.agent_host authors (@cordon)
description:
  - Renders what below C(/etc/cordon/proxy) says whom the proxy lets through to where, for
    M(cordon.agent_host.managed_files).
options:
  _input:
    description: A resolved manifest, as P(cordon.agent_host.agents#filter) returns it.
    type: list
    elements: dict
    required: true
  upstream:
    description: The company's own proxy, C(address) and C(port), through which the proxy is to go.
    type: dict
  ca_certificates:
    description: PEM texts of authorities to trust besides the system's.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
files: "{{ agent_host_agents | cordon.agent_host.agents | cordon.agent_host.egress_proxy }}"
"""

RETURN = r"""
_value:
  description: One dictionary for each file, with C(path) and C(content). Empty where no agent has an https name.
  type: list
  elements: dict
"""

import json
from collections.abc import Callable
from typing import Any

from ansible_collections.cordon.agent_host.plugins.module_utils import _egress, _egress_proxy
from ansible_collections.cordon.agent_host.plugins.plugin_utils._filter_errors import filter_errors


def egress_proxy(
    agents: list[dict[str, Any]], upstream: dict[str, Any] | None = None, ca_certificates: list[str] | None = None
) -> list[dict[str, str]]:
    """Render for the role firewall."""
    with filter_errors("egress_proxy"):
        if not _egress.proxy_wanted(agents):
            return []
        places = _egress_proxy.Places()
        texts = {
            f"{_egress_proxy.CONFIG}/squid.conf": _egress_proxy.config(agents, upstream, bool(ca_certificates)),
            f"{_egress_proxy.CONFIG}/authority.json": json.dumps({"names": _egress_proxy.inspected(agents)}) + "\n",
            places.granted: _egress_proxy.requests(agents),
            # Always there, so that removing the last one is a change of a file like any other.
            places.internal: _egress_proxy.certificates(ca_certificates or []),
            **{f"{places.errors}/{name}": text for name, text in _egress_proxy.errors().items()},
        }
        return [{"path": path, "content": text} for path, text in texts.items()]


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name to function."""
        return {"egress_proxy": egress_proxy}
