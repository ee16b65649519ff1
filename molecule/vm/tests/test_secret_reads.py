# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each read of a secret is an event with its session, and one that the manifest does not list wakes somebody.

push_token of scout (enforce) is git's alone, mirror_token of scribe (burn-in) openssl's; all of scout may read database_url.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.kernel
LOG = "/var/log/cordon/events.jsonl"
FREE = "/srv/agents/scout/.vault/database_url"
GITS = "/srv/agents/scout/.vault/push_token"
MIRROR = "/srv/agents/scribe/.vault/mirror_token"
ASK_GIT = "printf 'protocol=https\\nhost=git.example.org\\n\\n' | git credential fill"
# A program of Python opens the file itself, many times and in one process.
OPEN = "import sys; [open(sys.argv[1]).read() for _ in range(int(sys.argv[2]))]"
# What a process with no session may do: write its own number.
LOGIN = "printf 0 > /proc/self/loginuid"


@pytest.fixture
def since(host: Any) -> str:
    """The guest's clock as the test begins, as events have it."""
    return host.check_output("date -u +%Y-%m-%dT%H:%M:%S.%3NZ")


@pytest.fixture
def reads(host: Any, since: str) -> Callable[..., list[dict[str, Any]]]:
    """reads(**WANTED): events about secrets since the test began."""

    def find(**wanted: Any) -> list[dict[str, Any]]:
        lines = host.run(f"cat {LOG}.1 {LOG} 2>/dev/null").stdout.splitlines()
        found = [event for event in map(json.loads, lines) if event["time"] >= since and event["kind"] == "secret"]
        return [event for event in found if {name: event.get(name) for name in wanted} == wanted]

    return find


@pytest.fixture
def alerts(since: str) -> Callable[[], list[dict[str, Any]]]:
    """alerts(): what the receiver was told of secrets since the test began."""

    def find() -> list[dict[str, Any]]:
        lines = (Path(os.environ["CORDON_TESTBED"]) / "webhook.jsonl").read_text().splitlines()
        bodies = [json.loads(line)["body"] for line in lines]
        return [one for one in bodies if one["alert"] == "secret-misused" and one["time"] >= since]

    return find


@pytest.fixture
def woken_anew(host: Any) -> Iterator[None]:
    """The writer forgets which alerts it has sent: a test may run again within their window."""
    host.check_output("systemctl restart cordon-events.service")
    yield


def count(found: list[dict[str, Any]]) -> int:
    return sum(event.get("suppressed", 1) for event in found)


def test_each_session_of_a_read_is_told_however_short_it_was(
    host: Any, as_agent: Callable[..., Any], eventually: Callable[..., Any], reads: Callable[..., Any], alerts: Callable[..., Any]
) -> None:
    """Two at a time, each over before its record is read."""
    cat = f"cordonctl run scout -- cat {FREE}"
    both = host.check_output(f"for n in 1 2 3; do {cat} & {cat}; wait; done")
    assert both.count("molecule-database-url") == 6
    found = eventually(lambda: len(seen := reads(secret="database_url", outcome="allowed")) >= 6 and seen)
    assert {event["program"] for event in found} == {"/usr/bin/cat"}
    assert all(event["listed"] for event in found)
    named = {event["session"] for event in found}
    assert len(found) == len(named) == 6, named
    assert all(re.fullmatch(r"cordon-session-scout-[0-9a-f]{8}\.service", name or "") for name in named), named
    assert not [one for one in alerts() if one["event"]["secret"] == "database_url"]


def test_the_service_is_told_from_the_sessions(host: Any, eventually: Callable[..., Any], since: str) -> None:
    host.check_output("systemctl restart cordon-agent@scout.service")

    def started() -> list[dict[str, Any]]:
        lines = map(json.loads, host.check_output(f"cat {LOG}").splitlines())
        return [event for event in lines if event["time"] >= since and (event.get("argv") or [])[-1:] == ["infinity"]
                and event["program"] == "/usr/bin/sleep"]  # fmt: skip

    assert eventually(started)[-1]["session"] == "cordon-agent@scout.service"


def test_a_listed_program_reads_without_an_alert(
    as_agent: Callable[..., Any], eventually: Callable[..., Any], reads: Callable[..., Any], alerts: Callable[..., Any]
) -> None:
    answered = as_agent("scout", "sh", "-c", ASK_GIT)
    assert "password=molecule-push" in answered.stdout, answered.stderr
    found = eventually(lambda: reads(secret="push_token"))
    assert {(event["outcome"], event["listed"]) for event in found} == {("allowed", True)}
    assert {event["profile"].split(".")[-1] for event in found} == {"git"}
    assert not [one for one in alerts() if one["event"]["secret"] == "push_token"]


def test_in_enforce_a_program_that_is_not_listed_is_refused_and_wakes_somebody(
    woken_anew: None, as_agent: Callable[..., Any], eventually: Callable[..., Any], reads: Callable[..., Any],
    alerts: Callable[..., Any]
) -> None:  # fmt: skip
    read = as_agent("scout", "cat", GITS)
    assert read.rc != 0 and "molecule-push" not in read.stdout
    event = eventually(lambda: reads(secret="push_token", outcome="denied"))[-1]
    assert (event["program"], event["listed"]) == ("/usr/bin/cat", False)
    told = eventually(lambda: [one for one in alerts() if one["event"]["secret"] == "push_token"])[-1]
    assert (told["agent"], told["event"]["session"]) == ("scout", event["session"])
    assert event["session"].startswith("cordon-session-scout-")


def test_in_burn_in_it_reads_and_wakes_somebody(
    woken_anew: None, as_agent: Callable[..., Any], eventually: Callable[..., Any], reads: Callable[..., Any],
    alerts: Callable[..., Any]
) -> None:  # fmt: skip
    read = as_agent("scribe", "cat", MIRROR)
    assert "molecule-mirror" in read.stdout, read.stderr
    event = eventually(lambda: reads(secret="mirror_token", outcome="allowed"))[-1]
    assert (event["reason"], event["listed"], event["program"]) == ("complain", False, "/usr/bin/cat")
    told = eventually(lambda: [one for one in alerts() if one["event"]["secret"] == "mirror_token"])[-1]
    assert told["event"]["session"].startswith("cordon-session-scribe-")
    assert "/usr/bin/cat of scribe read secret mirror_token" in told["summary"]


def test_in_burn_in_too_the_listed_program_wakes_nobody(
    as_agent: Callable[..., Any], eventually: Callable[..., Any], reads: Callable[..., Any], alerts: Callable[..., Any]
) -> None:
    read = as_agent("scribe", "openssl", "enc", "-base64", "-in", MIRROR)
    assert read.rc == 0, read.stderr
    event = eventually(lambda: reads(secret="mirror_token", program="/usr/bin/openssl"))[-1]
    assert (event["outcome"], event["reason"], event["listed"]) == ("allowed", None, True)
    assert not [one for one in alerts() if one["event"]["program"] == "/usr/bin/openssl"]


def test_no_read_of_a_flood_is_lost_uncounted(
    as_agent: Callable[..., Any], eventually: Callable[..., Any], reads: Callable[..., Any]
) -> None:
    assert as_agent("scout", "python3", "-c", OPEN, FREE, "500").rc == 0

    def all_of_them() -> bool:
        return count([event for event in reads(secret="database_url") if "python" in event["program"]]) >= 500

    eventually(all_of_them, seconds=150)
    assert count([event for event in reads(secret="database_url") if "python" in event["program"]]) == 500


def test_an_agent_cannot_take_on_another_session(
    host: Any, as_agent: Callable[..., Any], eventually: Callable[..., Any], reads: Callable[..., Any]
) -> None:
    """A service's process may choose its number; an agent's has one already."""
    by_service = "systemd-run --quiet --wait --pipe --collect --property=User=nobody -- sh -c"
    assert host.run(f"{by_service} {shlex.quote(LOGIN)}").rc == 0
    tried = as_agent("scout", "sh", "-c", f"{LOGIN}; echo rc=$?; cat {FREE}")
    assert "rc=0" not in tried.stdout and "molecule-database-url" in tried.stdout, tried
    event = eventually(lambda: reads(secret="database_url", program="/usr/bin/cat"))[-1]
    assert re.fullmatch(r"cordon-session-scout-[0-9a-f]{8}\.service", event["session"] or "")


def test_the_sessions_outlive_the_writer(
    host: Any, as_agent: Callable[..., Any], eventually: Callable[..., Any], reads: Callable[..., Any]
) -> None:
    script = f"sleep 6; cat {FREE}"
    run = f"cordonctl run scout -- sh -c {shlex.quote(script)} >/run/read.out"
    host.check_output(f"cd /; (setsid {run} 2>&1 </dev/null &); sleep 4; systemctl restart cordon-events.service")
    event = eventually(lambda: reads(secret="database_url", program="/usr/bin/cat"))[-1]
    assert re.fullmatch(r"cordon-session-scout-[0-9a-f]{8}\.service", event["session"] or "")
