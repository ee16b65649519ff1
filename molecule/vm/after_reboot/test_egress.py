# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""After a reboot: what the manifest grants by name is reached again, and the rest still is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

CONNECT = "import socket, sys; print(socket.create_connection((sys.argv[1], 22), 5).recv(20).decode())"


def test_names_lead_where_they_led(host: Any, as_agent: Callable[..., Any], eventually: Callable[..., Any]) -> None:
    eventually(lambda: host.service("cordon-agent@scout").is_running, 120)
    through_proxy = as_agent("scout", "/usr/bin/git", "ls-remote", "https://api.example.org/repository")
    assert "refs/heads/main" in through_proxy.stdout, through_proxy.stderr
    assert as_agent("scout", "/usr/bin/python3", "-c", CONNECT, "git.example.org").stdout.strip() == "SSH-2.0-world"


@pytest.mark.parametrize("place", ["203.0.113.99", "outside.example.net"])
def test_other_places_are_still_refused(host: Any, as_agent: Callable[..., Any], place: str) -> None:
    assert host.check_output(f"python3 -c '{CONNECT}' 203.0.113.99").strip() == "SSH-2.0-world", "nobody answers there"
    assert as_agent("scout", "/usr/bin/python3", "-c", CONNECT, place).rc != 0
