# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A manifest to render, and the real parsers, compiling for kernels whose features were recorded."""
from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils._manifest import resolve
from ansible_collections.cordon.agent_host.plugins.plugin_utils._catalogue import known_tools, load_catalogue

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # testbed, for where packages come from

from . import parsers

MANIFEST = [
    {
        "name": "autopilot", "command": ["/srv/agents/autopilot/venv/bin/python", "-m", "autopilot"],
        "tools": ["git", "python"],
        "workspace": {"read_only": ["/srv/data/reference"], "read_write": ["/srv/data/output"]},
        "denied": ["/etc/fstab"], "programs": ["/opt/autopilot"],
        "secrets": [{"name": "github_token", "tools": ["git"]}, {"name": "database_url"}],
        "limits": {"gpu": True, "devices": ["/dev/video0"]}, "mode": "enforce",
    },
    {"name": "second", "command": ["/usr/bin/sleep", "infinity"]},
]


@pytest.fixture
def agents():
    """The resolved manifest, fresh for each test."""
    return resolve(MANIFEST, known_tools(), "agents")


@pytest.fixture(scope="session")
def catalogue():
    return load_catalogue()


@pytest.fixture(scope="session", params=parsers.SUITES)
def parser(request):
    """The parser of each Debian release, compiling for that release's kernel."""
    return parsers.obtain(request.param)


@pytest.fixture(scope="session")
def compile_all(parser, tmp_path_factory):
    """compile_all(TEXTS): "" if the release's parser takes all of them for its kernel, else its complaint."""
    return lambda texts: parser.compile(texts, tmp_path_factory.mktemp("profiles"))
