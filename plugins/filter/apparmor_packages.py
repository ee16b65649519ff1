# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: apparmor_packages
short_description: The packages that the agents' tools belong to
version_added: 0.1.0
author: the cordon.agent_host authors (@cordon)
description:
  - Lists the Debian packages of all tools that the manifest grants, and of those that every agent has.
options:
  _input:
    description: A resolved manifest, as P(cordon.agent_host.agents#filter) returns it.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
packages: "{{ agent_host_agents | cordon.agent_host.agents | cordon.agent_host.apparmor_packages }}"
"""

RETURN = r"""
_value:
  description: Names of packages, sorted.
  type: list
  elements: str
  sample: [bash, coreutils, git]
"""

from typing import Any, Callable

from ansible_collections.cordon.agent_host.plugins.module_utils import _apparmor_render
from ansible_collections.cordon.agent_host.plugins.plugin_utils._catalogue import load_catalogue
from ansible_collections.cordon.agent_host.plugins.plugin_utils._filter_errors import filter_errors


def apparmor_packages(agents: list[dict[str, Any]]) -> list[str]:
    """List the packages."""
    with filter_errors("apparmor_packages"):
        return _apparmor_render.packages(agents, load_catalogue())


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name to function."""
        return {"apparmor_packages": apparmor_packages}
