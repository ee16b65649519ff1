# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules of the collection that no linter knows."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
SHIPPED = ("plugins", "roles", "playbooks", "meta")
HEADER = "# SPDX-License-Identifier: GPL-3.0-or-later"


def shipped(pattern: str) -> list[Path]:
    return [path for top in SHIPPED for path in sorted((REPOSITORY / top).rglob(pattern))]


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(REPOSITORY)) for path in paths]


PYTHON = shipped("*.py")
TARGET_PYTHON = [p for p in PYTHON if p.parent.name in ("modules", "module_utils")]
ROLES = sorted(p for p in (REPOSITORY / "roles").glob("*") if p.is_dir())


@pytest.mark.parametrize("path", PYTHON, ids=names(PYTHON))
def test_every_source_file_says_its_licence(path: Path) -> None:
    if path.stat().st_size:
        assert HEADER in path.read_text().splitlines()[:5]


@pytest.mark.parametrize("path", TARGET_PYTHON, ids=names(TARGET_PYTHON))
def test_code_for_targets_is_python_3_8(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 8))


@pytest.mark.parametrize("path", TARGET_PYTHON, ids=names(TARGET_PYTHON))
def test_code_for_targets_starts_no_process_of_its_own(path: Path) -> None:
    """``run_command`` is handed in, so decisions are testable and the C locale is always set."""
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in (node.names if isinstance(node, ast.Import) else [ast.alias(name=node.module or "")])
    }
    assert "subprocess" not in imported


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_role_is_documented_and_dependency_free(role: Path) -> None:
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())
    assert "main" in specs["argument_specs"]
    meta = yaml.safe_load((role / "meta" / "main.yml").read_text())
    assert not meta.get("dependencies")
    assert meta["galaxy_info"]["license"] == "GPL-3.0-or-later"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_default_of_a_role_is_documented(role: Path) -> None:
    options = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
    defaults = yaml.safe_load((role / "defaults" / "main.yml").read_text()) or {}
    assert set(defaults) <= set(options)


def test_the_collection_needs_no_other_collection() -> None:
    galaxy = yaml.safe_load((REPOSITORY / "galaxy.yml").read_text())
    assert galaxy["dependencies"] == {}
    assert {"security", "linux"} <= set(galaxy["tags"])
