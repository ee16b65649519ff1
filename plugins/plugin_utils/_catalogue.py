# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. The catalogue of tools that a manifest may list: one file each."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

CATALOGUE = Path(__file__).resolve().parents[2] / "roles" / "apparmor" / "files" / "tools"
SUFFIX = ".yml"

# The C loader, where PyYAML has it, reads the catalogue ten times faster.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class CatalogueError(RuntimeError):
    """The catalogue cannot be read; the message names the file."""


@lru_cache(maxsize=None)
def tool_names(directory: Path = CATALOGUE) -> frozenset[str]:
    """The names of all tools, from the file names alone: nothing is parsed."""
    names = frozenset(path.stem for path in directory.glob(f"*{SUFFIX}"))
    if not names:
        raise CatalogueError(f"{directory} holds no tool: reinstall the collection")
    return names


@lru_cache(maxsize=None)
def known_tools(directory: Path = CATALOGUE) -> dict[str, bool]:
    """What the manifest's filter asks of the catalogue: each tool's name, and whether it can have its own profile."""
    return {name: bool(tool.get("profile")) for name, tool in load_catalogue(directory).items()}


@lru_cache(maxsize=None)
def load_catalogue(directory: Path = CATALOGUE) -> dict[str, dict[str, Any]]:
    """Every tool by its name: {"git": {"name": "git", "packages": ["git"], "description": ..., ...}, ...}.

    Callers share the result and must not change it. Raises CatalogueError for the first broken file.
    """
    return {name: _tool(directory / f"{name}{SUFFIX}") for name in sorted(tool_names(directory))}


def _tool(path: Path) -> dict[str, Any]:
    try:
        tool = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CatalogueError(f"{path}: it cannot be read: {error}") from error
    if not isinstance(tool, dict):
        raise CatalogueError(f"{path}: it holds no mapping: write name, packages and description")
    if tool.get("name") != path.stem:
        raise CatalogueError(f"{path}: name is {tool.get('name')!r}: write {path.stem}, the file's own")
    return tool
