# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalogue of tools: read whole, or a message that names the broken file."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.cordon.agent_host.plugins.plugin_utils._catalogue import (
    CatalogueError,
    load_catalogue,
    tool_names,
)


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        (directory / f"{name}.yml").write_text(text, encoding="utf-8")
    return directory


def test_the_catalogue_of_this_collection_is_whole() -> None:
    catalogue = load_catalogue()
    assert {"git", "python", "node", "postgresql-client"} <= set(catalogue)
    assert set(catalogue) == tool_names()
    assert all(tool["name"] == name for name, tool in catalogue.items())


def test_it_is_read_once() -> None:
    assert load_catalogue() is load_catalogue()


def test_each_file_is_one_tool(tmp_path: Path) -> None:
    write(tmp_path, git="name: git\npackages: [git]\n", jq="name: jq\npackages: []\n")
    assert load_catalogue(tmp_path) == {
        "git": {"name": "git", "packages": ["git"]},
        "jq": {"name": "jq", "packages": []},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", r"git\.yml: it cannot be read: "),
        ("- git", r"git\.yml: it holds no mapping: write name, packages and description"),
        ("", r"git\.yml: it holds no mapping"),
        ("name: gti", r"git\.yml: name is 'gti': write git"),
        ("packages: []", r"git\.yml: name is None: write git"),
        ("name: !!python/object/apply:os.getcwd []", r"git\.yml: it cannot be read: "),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CatalogueError, match=message):
        load_catalogue(write(tmp_path, git=text))


def test_a_missing_catalogue_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="nowhere holds no tool: reinstall the collection"):
        tool_names(tmp_path / "nowhere")
