# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Docker gives to those who may use it: root to a person, nothing to an agent; and containers are nobody's agents."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from typing import Any

import pytest

# As every user of Docker can: the host's files, as root.
ATTACK = "docker run --rm --volume /etc:/host busybox grep -c ^root: /host/shadow"
AGENT, EVENTS = "agent-courier", "/var/log/cordon/events.jsonl"


@pytest.fixture
def invited(host: Any) -> Generator[None]:
    """By mistake the agent's user may open Docker's socket: what refuses then is not the mode of a file."""
    host.check_output(f"setfacl -m u:{AGENT}:rw /run/docker.sock")
    yield
    host.check_output("setfacl -b /run/docker.sock")


def test_docker_makes_an_ordinary_user_root(host: Any) -> None:
    assert host.check_output(f"runuser -u alice -- {ATTACK}") == "1"


def test_docker_is_closed_to_the_agent_even_when_its_user_may(
    host: Any, invited: None, unwatched: None, as_agent: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    before = int(host.check_output(f"wc -l < {EVENTS}"))
    ping = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/docker.sock'); print('connected')"
    outside = host.run(f'runuser -u {AGENT} -- python3 -c "{ping}"')
    assert outside.stdout.strip() == "connected", "its user may not, so this test shows nothing: " + outside.stderr
    inside = as_agent("courier", "python3", "-c", ping)
    assert inside.rc != 0 and "PermissionError" in inside.stderr

    def logged() -> list[dict[str, Any]]:
        events = map(json.loads, host.check_output(f"tail -n +{before + 1} {EVENTS}").splitlines())
        return [event for event in events if event.get("path") == "/run/docker.sock" and event["outcome"] == "denied"]

    assert eventually(logged)[0]["operation"] == "connect"


def test_a_container_is_not_matched_by_our_table(host: Any, unwatched: None) -> None:
    """Not even one whose user has the agent's number: its packets are forwarded, and our table has no say in that."""
    fetch = f"docker run --rm --user {host.user(AGENT).uid} busybox nc -w 3 203.0.113.99 8080"
    assert "hello" in host.run(f"{fetch} < /dev/null").stdout


def test_no_agent_has_the_number_of_a_common_image_s_user(host: Any) -> None:
    """The watch would take such a container for an agent that broke out, and end it; most database images run as 999."""
    assert host.user(AGENT).uid <= 799 and host.user(AGENT).gid <= 799
    host.check_output("docker run --detach --name database-like --user 999:999 busybox sleep 600")
    try:
        host.run("sleep 12")  # the watch looks every five seconds
        assert host.check_output("docker inspect --format='{{.State.Running}}' database-like") == "true"
    finally:
        host.run("docker rm --force database-like")
