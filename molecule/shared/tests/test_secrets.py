# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets: in the vault, open while a session needs it, for its own agent only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

OF_ONE_TOOL = ("push_token", "mirror_token")


def test_the_agent_reads_its_own_secrets(
    agent: dict[str, Any], secrets: dict[str, dict[str, str]], as_agent: Callable[..., Any]
) -> None:
    """Those that are one tool's alone: vm/tests/test_secret_reads.py."""
    name = agent["name"]
    free = {secret: value for secret, value in secrets[name].items() if secret not in OF_ONE_TOOL}
    assert free
    for secret, value in free.items():
        read = as_agent(name, "/usr/bin/cat", f"/srv/agents/{name}/.vault/{secret}")
        assert read.stdout.strip() == value, read.stderr


def test_the_agent_cannot_read_the_other_agents_secrets(as_agent: Callable[..., Any]) -> None:
    read = as_agent("scout", "/usr/bin/cat", "/srv/agents/scribe/.vault/notes_key")
    assert read.rc != 0
    assert "molecule-notes-key" not in read.stdout + read.stderr


def test_the_vault_is_mounted_while_the_agent_runs(host: Any, agent: dict[str, Any]) -> None:
    mount = host.mount_point(f"/srv/agents/{agent['name']}/.vault")
    assert mount.exists
    assert mount.filesystem == "fuse.gocryptfs"


def test_no_secret_lies_about_in_the_clear(host: Any, secrets: dict[str, dict[str, str]]) -> None:
    """At rest: neither in the cipher directory nor in what the roles have written or logged."""
    for values in secrets.values():
        for value in values.values():
            found = host.run("grep -rla %s /var/lib/cordon /etc/cordon /var/log", value)
            assert found.stdout == ""


def test_no_key_is_left_in_shared_memory(host: Any) -> None:
    assert host.check_output("find /dev/shm -type f -name '*cordon*'") == ""
