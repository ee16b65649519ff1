# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: host_library
short_description: The Python package that the host's own tools import
version_added: 0.1.0
author: the cordon.agent_host authors (@cordon)
description:
  - Returns files for M(cordon.agent_host.managed_files), namely the package C(cordon)
    that C(cordonctl) and the preflight import.
  - It holds the tools' own modules and copies of the collection's pure ones with all that these import.
    Host, playbook and evidence thus judge by the same code.
options:
  _terms:
    description: Names of the modules in C(plugins/module_utils) to start from.
    type: list
    elements: str
    required: true
  directory:
    description: Where the package is to stand on the host.
    type: path
    default: /usr/lib/cordon/cordon
"""

EXAMPLES = r"""
files: "{{ query('cordon.agent_host.host_library', '_facts', '_checks') }}"
"""

RETURN = r"""
_raw:
  description: One dictionary for each file, with C(path), C(content) and C(mode).
  type: list
  elements: dict
"""

import ast
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

COLLECTION = Path(__file__).resolve().parents[2]
SHARED = COLLECTION / "plugins" / "module_utils"
OWN = COLLECTION / "roles" / "agent" / "files" / "cordon"


def siblings(source: str) -> set[str]:
    """Modules that a source imports from its own package: ``from ._x import y`` and ``from . import _x``."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found |= {node.module} if node.module else {alias.name for alias in node.names}
    return found


def closure(start: list[str]) -> dict[str, str]:
    """Sources of the named modules and of all that they import, by module name."""
    sources: dict[str, str] = {}
    waiting = list(start)
    while waiting:
        name = waiting.pop()
        if name not in sources:
            sources[name] = (SHARED / f"{name}.py").read_text(encoding="utf-8")
            waiting += siblings(sources[name])
    return sources


class LookupModule(LookupBase):
    """Ansible's entry point."""

    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[dict[str, str]]:
        """Collect the package's files; an unknown module is an error."""
        self.set_options(var_options=variables, direct=kwargs)
        directory = self.get_option("directory")
        try:
            sources = closure(list(terms))
        except OSError as error:
            raise AnsibleLookupError(
                f"host_library: {error}: name a module of plugins/module_utils without '.py'"
            ) from error
        sources.update({path.stem: path.read_text(encoding="utf-8") for path in OWN.glob("*.py")})
        return [
            {"path": f"{directory}/{name}.py", "content": sources[name], "mode": "0644"}
            for name in sorted(sources)
        ]
