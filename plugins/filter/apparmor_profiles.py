# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: apparmor_profiles
short_description: The AppArmor profiles of all agents as text
version_added: 0.1.0
author: the cordon.agent_host authors (@cordon)
description:
  - Renders the cage and the inner profile of each agent, for M(cordon.agent_host.apparmor_profiles).
  - Deterministic.
options:
  _input:
    description: A resolved manifest, as P(cordon.agent_host.agents#filter) returns it.
    type: list
    elements: dict
    required: true
  abi:
    description:
      - The features that the policy is written for. The newest that the host's parser has a file of, as
        M(cordon.agent_host.apparmor_info) returns it.
    type: str
    choices: ["3.0", "4.0"]
    default: "3.0"
"""

EXAMPLES = r"""
profiles: "{{ agent_host_agents | cordon.agent_host.agents | cordon.agent_host.apparmor_profiles }}"
"""

RETURN = r"""
_value:
  description: The profiles of all agents, each with C(name) (also the name of its file), C(agent), C(mode) and C(text).
  type: list
  elements: dict
"""

from typing import Any, Callable

from ansible_collections.cordon.agent_host.plugins.module_utils import _apparmor_render
from ansible_collections.cordon.agent_host.plugins.plugin_utils._catalogue import load_catalogue
from ansible_collections.cordon.agent_host.plugins.plugin_utils._filter_errors import filter_errors


def apparmor_profiles(agents: list[dict[str, Any]], abi: str = "3.0") -> list[dict[str, str]]:
    """Render all profiles."""
    with filter_errors("apparmor_profiles"):
        catalogue = load_catalogue()
        return [profile for agent in agents for profile in _apparmor_render.profiles(agent, catalogue, abi)]


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name to function."""
        return {"apparmor_profiles": apparmor_profiles}
