# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A manifest to render, and the real parser, compiling for a kernel whose features were recorded."""
from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils._manifest import resolve
from ansible_collections.cordon.agent_host.plugins.plugin_utils._catalogue import known_tools, load_catalogue

PARSER = shutil.which("apparmor_parser", path="/usr/sbin:/sbin:/usr/bin")
FEATURES = sorted(Path(__file__).parent.glob("features-linux-*"))

MANIFEST = [
    {
        "name": "autopilot", "command": ["/srv/agents/autopilot/venv/bin/python", "-m", "autopilot"],
        "tools": ["git", "python"],
        "workspace": {"read_only": ["/srv/data/reference"], "read_write": ["/srv/data/output"]},
        "denied": ["/etc/fstab"],
        "secrets": [{"name": "github_token", "tools": ["git"]}, {"name": "database_url"}], "limits": {"gpu": True, "devices": ["/dev/video0"]}, "mode": "enforce",
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


@pytest.fixture(scope="session", params=FEATURES, ids=lambda path: path.name)
def compile_all(request, tmp_path_factory):
    """compile_all(TEXTS): "" if the parser takes all of them for that kernel, else its complaint."""
    if PARSER is None:
        pytest.skip("apparmor_parser is not installed (package apparmor)")

    def run(texts):
        place = tmp_path_factory.mktemp("profiles")
        for number, text in enumerate(texts):
            (place / f"p{number}").write_text(text, encoding="utf-8")
        done = subprocess.run(
            [PARSER, "--skip-kernel-load", "--skip-cache", "--skip-read-cache", "--kernel-features", str(request.param),
             *map(str, sorted(place.iterdir()))],
            capture_output=True, text=True, check=False)
        return done.stderr if done.returncode or "parser error" in done.stderr else ""

    return run
