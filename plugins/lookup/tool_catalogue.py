# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: tool_catalogue
short_description: The catalogue of tools in the form that a host keeps
version_added: 0.1.0
author: the cordon.agent_host authors (@cordon)
description:
  - Returns what C(cordonctl) needs to tell which tool brings a program or reads a file, for
    C(/usr/lib/cordon/tools.json).
"""

EXAMPLES = r"""
content: "{{ lookup('cordon.agent_host.tool_catalogue') | to_json }}"
"""

RETURN = r"""
_raw:
  description: One dictionary, with a dictionary for each tool by its name.
  type: list
  elements: dict
"""

from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

from ansible_collections.cordon.agent_host.plugins.module_utils._apparmor_suggest import reduced
from ansible_collections.cordon.agent_host.plugins.plugin_utils._catalogue import CatalogueError, load_catalogue


class LookupModule(LookupBase):
    """Ansible's entry point."""

    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[dict[str, dict[str, Any]]]:
        """Read and reduce the catalogue; a broken file is an error."""
        try:
            return [reduced(load_catalogue())]
        except CatalogueError as error:
            raise AnsibleLookupError(f"tool_catalogue: {error}") from error
