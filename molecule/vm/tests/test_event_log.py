# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The event log: one line for each act, written by the kernel's own account of it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.kernel
LOG = "/var/log/cordon/events.jsonl"


@pytest.fixture
def events(host: Any) -> Callable[[], list[dict[str, Any]]]:
    """All events so far; every line must be a JSON object."""
    return lambda: [json.loads(line) for line in host.check_output(f"cat {LOG}").splitlines()]


def test_only_root_reads_it(host: Any) -> None:
    log = host.file(LOG)
    assert (log.user, log.mode & 0o137) == ("root", 0)


def test_a_process_start_is_logged(
    events: Callable[[], list[dict[str, Any]]], as_agent: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    before = len(events())
    assert as_agent("scout", "/usr/bin/true", "molecule-marker").rc == 0

    def seen() -> list[dict[str, Any]]:
        return [
            event for event in events()[before:]
            if event["kind"] == "process" and "molecule-marker" in (event.get("argv") or [])
        ]

    event = eventually(seen)[-1]
    assert event["agent"] == "scout"
    assert event["outcome"] == "allowed"


def test_a_denied_file_is_logged(
    events: Callable[[], list[dict[str, Any]]], as_agent: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    before = len(events())
    assert as_agent("scout", "/usr/bin/cat", "/etc/shadow").rc != 0

    def seen() -> list[dict[str, Any]]:
        return [event for event in events()[before:] if event["kind"] == "file" and event.get("path") == "/etc/shadow"]

    assert {event["outcome"] for event in eventually(seen)} == {"denied"}


def test_a_denied_connection_is_logged(
    events: Callable[[], list[dict[str, Any]]], as_agent: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    before = len(events())
    connect = "import socket; socket.create_connection(('169.254.169.254', 80), 10)"
    assert as_agent("scout", "/usr/bin/python3", "-c", connect).rc != 0

    def seen() -> list[dict[str, Any]]:
        return [
            event for event in events()[before:]
            if event["kind"] == "connection" and event.get("address") == "169.254.169.254"
        ]

    assert "denied" in {event["outcome"] for event in eventually(seen)}


def test_the_agent_cannot_touch_the_log(host: Any, as_agent: Callable[..., Any]) -> None:
    size = host.file(LOG).size
    for argv in (["/usr/bin/rm", "-f", LOG], ["/usr/bin/python3", "-c", f"open({LOG!r}, 'w')"]):
        assert as_agent("scout", *argv).rc != 0, shlex.join(argv)
    assert host.file(LOG).size >= size
