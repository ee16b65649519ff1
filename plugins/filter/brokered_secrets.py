# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: brokered_secrets
short_description: The secrets that the egress proxy adds to requests
version_added: 0.1.0
author: the cordon.agent_host authors (@cordon)
description:
  - Lists the secrets of a manifest that have a C(broker), for M(cordon.agent_host.brokered_secrets). Without values.
options:
  _input:
    description: A resolved manifest, as P(cordon.agent_host.agents#filter) returns it.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
secrets: "{{ agent_host_agents | cordon.agent_host.agents | cordon.agent_host.brokered_secrets }}"
"""

RETURN = r"""
_value:
  description: Dictionaries with C(agent), C(name), C(host), C(port), C(header), C(prefix) and C(user).
  type: list
  elements: dict
"""

from collections.abc import Callable
from typing import Any

from ansible_collections.cordon.agent_host.plugins.module_utils import _brokered
from ansible_collections.cordon.agent_host.plugins.plugin_utils._filter_errors import filter_errors


def brokered_secrets(agents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """List for the role firewall."""
    with filter_errors("brokered_secrets"):
        return [secret._asdict() for secret in _brokered.declared(agents)]


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name to function."""
        return {"brokered_secrets": brokered_secrets}
