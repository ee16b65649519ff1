# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: agent_files
short_description: Homes, units and limits of all agents
version_added: 0.1.0
author: the cordon.agent_host authors (@cordon)
description:
  - Renders what M(cordon.agent_host.agent_users) and M(cordon.agent_host.managed_files) are to install
    for the agents of a resolved manifest.
options:
  _input:
    description: A resolved manifest, as P(cordon.agent_host.agents#filter) returns it.
    type: list
    elements: dict
    required: true
  apparmor:
    description: Whether the host's kernel has AppArmor. Without it the units name no profile.
    type: bool
    default: true
  ca:
    description: Whether agents with names trust an authority of the operator's beside the system's.
    type: bool
    default: false
"""

EXAMPLES = r"""
files: "{{ agent_host_agents | cordon.agent_host.agents | cordon.agent_host.agent_files }}"
"""

RETURN = r"""
_value:
  description: Lists C(users), C(directories), C(files) and C(links).
  type: dict
"""

from typing import Any

from ansible_collections.cordon.agent_host.plugins.module_utils import _units
from ansible_collections.cordon.agent_host.plugins.plugin_utils._catalogue import load_catalogue
from ansible_collections.cordon.agent_host.plugins.plugin_utils._filter_errors import filter_errors


def agent_files(agents: list[dict[str, Any]], apparmor: bool = True, ca: bool = False) -> dict[str, list[dict[str, str]]]:
    """Render for managed_files."""
    with filter_errors("agent_files"):
        return _units.files(agents, load_catalogue(), apparmor, ca)


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        return {"agent_files": agent_files}
