# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: agent_replay
short_description: What is run of each agent's work before it is promoted
version_added: 0.1.0
author: the cordon.agent_host authors (@cordon)
description:
  - Returns the commands of C(burn_in.replay), and where an agent has none the proof of each of its tools, for
    M(cordon.agent_host.agent_promotion).
options:
  _input:
    description: A resolved manifest, as P(cordon.agent_host.agents#filter) returns it.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
replay: "{{ agent_host_agents | cordon.agent_host.agents | cordon.agent_host.agent_replay }}"
"""

RETURN = r"""
_value:
  description: By agent, a list of commands, each a list of words.
  type: dict
  sample: {scribe: [[git, --version]]}
"""

from typing import Any

from ansible_collections.cordon.agent_host.plugins.module_utils._burn_in import commands
from ansible_collections.cordon.agent_host.plugins.plugin_utils._catalogue import load_catalogue
from ansible_collections.cordon.agent_host.plugins.plugin_utils._filter_errors import filter_errors


def agent_replay(agents: list[dict[str, Any]]) -> dict[str, list[list[str]]]:
    """The commands by agent."""
    with filter_errors("agent_replay"):
        catalogue = load_catalogue()
        return {agent["name"]: commands(agent, catalogue) for agent in agents}


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        return {"agent_replay": agent_replay}
