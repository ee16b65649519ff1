# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the manifest grants by name works and is told; it goes on working, or stops, when somebody meddles with what serves
it; and `cordonctl explain` says what happens. The ways that are closed: test_exfiltration.py. The world: world.py.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import statistics
from collections.abc import Callable, Generator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.kernel
# Its addresses and names; tests of a scenario are no package.
world = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("world.py"))))
AGENT = "scout"
EVENTS = "/var/log/cordon/events.jsonl"
SOON = 2.0

# way: what is tried, and the beginning of what the other side says.
ALLOWED: dict[str, tuple[list[Any], str]] = {
    "https name": (["fetch", "https://api.example.org/v1/tunnelled"], "200"),
    "https name, POST": (["fetch", "https://api.example.org/v1/tunnelled", "POST"], "200"),
    "wildcard": (["fetch", "https://one.packages.example.org/index"], "200"),
    "wildcard, two labels": (["fetch", "https://one.two.packages.example.org/index"], "TLS|200"),
    "inspected": (["fetch", "https://inspected.example.org/v1/models?key=not-for-the-log"], "200"),
    "inspected, POST": (["fetch", "https://inspected.example.org/v1/messages", "POST"], "200"),
    "inspected, refused by the server": (["fetch", "https://inspected.example.org/status/503"], "503"),
    "git over https": (["run", "/usr/bin/git", "ls-remote", "https://api.example.org/repository"], f"exit 0 {world.REVISION}"),
    "ssh name": (["by_name", "git.example.org", 22], "SSH-2.0-world"),
    "name into a granted private network": (["by_name", "database.example.org", 5432], "hello"),
    "udp name": (["udp_by_name", "time.example.org", 123], "data out"),
    "name in other letters": (["by_name", "GiT.eXaMpLe.OrG", 22], "SSH-2.0-world"),
    "granted network": (["connect", world.GRANTED, 443], "connected"),
    "granted address": (["tcp", world.GRANTED_DATABASE, 5432], "hello"),
}


@pytest.fixture(scope="module")
def since(host: Any) -> float:
    """Seconds since 1970, before anything is tried."""
    return float(host.check_output("date +%s.%N"))


@pytest.fixture(scope="module")
def tried(since: float, attempts: Callable[..., Any]) -> dict[str, tuple[str, float]]:
    """Every allowed way, in one session."""
    return dict(zip(ALLOWED, attempts(AGENT, [attempt for attempt, _said in ALLOWED.values()]), strict=True))


@pytest.mark.parametrize("way", ALLOWED)
def test_it_works(tried: dict[str, tuple[str, float]], way: str) -> None:
    assert tried[way][0].startswith(tuple(ALLOWED[way][1].split("|")))


@pytest.fixture(scope="module")
def events(host: Any, since: float, tried: dict[str, tuple[str, float]]) -> Callable[..., list[dict[str, Any]]]:
    """events(KEY=VALUE, ...): what the event log has of the agent since then, with these values."""

    def find(**wanted: Any) -> list[dict[str, Any]]:
        lines = host.run(f"cat {EVENTS}.1 {EVENTS} 2>/dev/null").stdout.splitlines()
        ours = [event for event in map(json.loads, lines) if event["agent"] == AGENT and event["source"] in ("proxy", "resolver")]
        return [event for event in ours if datetime.fromisoformat(event["time"].replace("Z", "+00:00")).timestamp() >= since
                and all(event.get(key) == value for key, value in wanted.items())]  # fmt: skip

    return find


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/v1/models", 200), ("POST", "/v1/messages", 200), ("GET", "/status/503", 503),
])  # fmt: skip
def test_an_inspected_call_is_told_with_method_path_and_status(
    events: Callable[..., Any], eventually: Callable[..., Any], method: str, path: str, status: int
) -> None:
    wanted = {"kind": "api_call", "name": "inspected.example.org", "method": method, "url_path": path, "status": status}
    (event,) = eventually(lambda: events(**wanted))[-1:]
    assert (event["outcome"], event["port"]) == ("allowed", 443)
    assert "not-for-the-log" not in json.dumps(events(name="inspected.example.org"))


def test_a_call_that_is_not_inspected_is_told_by_its_host(events: Callable[..., Any], eventually: Callable[..., Any]) -> None:
    ended = eventually(lambda: events(kind="api_call", name="api.example.org", operation="close"))[-1]
    assert (ended["outcome"], ended["url_path"], ended["sni"]) == ("allowed", None, "api.example.org")
    assert ended["sent"] > 0 and ended["received"] > 0
    assert events(kind="api_call", name="api.example.org", operation="open")


def test_a_resolved_name_is_told_with_its_addresses(events: Callable[..., Any], eventually: Callable[..., Any]) -> None:
    wanted = {"kind": "dns", "name": "git.example.org", "type": "A", "outcome": "allowed"}
    assert eventually(lambda: events(**wanted))[-1]["addresses"] == [world.GIT]


def test_what_the_world_sees_is_what_was_asked(
    tried: dict[str, tuple[str, float]], arrivals: Callable[..., list[dict[str, Any]]], since: float
) -> None:
    """The proxy adds nothing and hides nothing on the way, and names come out in lower case."""
    assert tried["inspected"][0].startswith("200 "), "not tried"
    seen = json.loads(tried["inspected"][0].split(" ", 1)[1])
    assert (seen["path"], seen["host"], seen["sni"]) == (
        "/v1/models?key=not-for-the-log", "inspected.example.org", "inspected.example.org"
    )  # fmt: skip
    asked = [one["name"] for one in arrivals() if one["kind"] == "dns" and one["at"] >= since]
    assert "git.example.org" in asked and asked == [name.lower() for name in asked]


# --- The set and the mark -----------------------------------------------------------------------------


@pytest.fixture
def put_back(host: Any) -> Generator[None]:
    """What a test takes out of the sets is there again."""
    yield
    host.check_output("systemctl reload cordon-resolver")


def elements(host: Any) -> str:
    return str(host.check_output(f"nft list set inet cordon named4_{AGENT}"))


def test_a_connection_outlives_the_answer_that_opened_it(
    host: Any, put_back: None, in_background: Callable[..., Any], eventually: Callable[..., Any], arrivals: Callable[..., Any]
) -> None:
    read = in_background(AGENT, [["hold", "git.example.org", world.GIT, 22, "held"]])
    before = len(arrivals())
    eventually(lambda: [one for one in arrivals(before) if one.get("address") == world.GIT], seconds=60)
    assert world.GIT in elements(host)

    host.check_output(f"nft flush set inet cordon named4_{AGENT}")

    ((outcome, _seconds),) = eventually(read, seconds=120)[-1]
    assert outcome == "once more"


def test_what_is_open_survives_the_service_that_flushes_all_rules(
    host: Any, put_back: None, attempts: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    attempts(AGENT, [["by_name", "git.example.org", 22]])
    assert world.GIT in elements(host)
    active = host.service("nftables").is_running
    try:
        host.check_output("systemctl restart nftables")
        eventually(lambda: world.GIT in elements(host), seconds=10)
    finally:
        host.run(f"systemctl {'start' if active else 'stop'} nftables")
    assert attempts(AGENT, [["tcp", world.GIT, 22]])[0][0] == "SSH-2.0-world"


# --- Meddling -----------------------------------------------------------------------------------------


def test_the_agent_cannot_end_or_empty_what_holds_it(host: Any, attempts: Callable[..., Any]) -> None:
    pids = [int(host.check_output(f"systemctl show --property=MainPID --value cordon-{name}")) for name in ("proxy", "resolver")]
    tampering = [*(["end", pid] for pid in pids), ["become", 0]]
    assert [outcome for outcome, _ in attempts("root", tampering)] == ["may be ended", "may be ended", "became"]
    ((flushed, _),) = attempts("root", [["flush_rules"]], prefix="unshare --net")
    assert flushed == "flushed", "the way does not work at all"
    before = host.check_output("nft --stateless --terse list table inet cordon")

    said = [outcome for outcome, _seconds in attempts(AGENT, [*tampering, ["flush_rules"]])]

    assert set(said) <= {"EPERM", "EACCES"}
    assert host.check_output("nft --stateless --terse list table inet cordon") == before


NAMES = [["fetch", "https://api.example.org/"], ["by_name", "git.example.org", 22]]
CLOSED = [["connect", world.API, 443], ["dns", world.RESOLVER, "git.example.org", "A", "udp"], ["tcp", world.OFF_LIST, 22]]
AWAY = 30  # seconds: longer than nobody is told


@pytest.fixture
def slow_to_return(host: Any) -> Generator[Callable[[str], None]]:
    """slow_to_return(SERVICE): when it ends, systemd waits AWAY seconds before it starts it again."""
    places: list[str] = []

    def arrange(name: str) -> None:
        place = f"/run/systemd/system/cordon-{name}.service.d"
        places.append(place)
        text = f"[Service]\\nRestartSec={AWAY}\\n"
        host.check_output(f"mkdir -p {place} && printf '{text}' > {place}/molecule.conf && systemctl daemon-reload")

    yield arrange
    for place in places:
        # The check names-steady tells of an end for ten minutes; the tests that follow want a host without findings.
        unit = Path(place).stem
        host.run(f"rm -r {place}; systemctl daemon-reload; systemctl reset-failed {unit}")


@pytest.mark.parametrize(("service", "lost"), [("proxy", [0]), ("resolver", [1])])
def test_without_what_serves_it_the_agent_has_less_and_somebody_is_told(
    host: Any, slow_to_return: Callable[[str], None], in_background: Callable[..., Any], eventually: Callable[..., Any],
    main_pid: Callable[[str], int], service: str, lost: list[int],
) -> None:
    """It comes back by itself. The agent runs on, has what it had, and reaches nothing more meanwhile."""
    slow_to_return(service)
    pid, alerts = main_pid(AGENT), len(received())
    read = in_background(AGENT, [*NAMES, *CLOSED], 100)
    eventually(read, seconds=60)

    host.check_output(f"systemctl kill --signal=KILL cordon-{service}")

    eventually(lambda: f"{service}-down" in [one["alert"] for one in received()[alerts:]], seconds=AWAY + 30)
    eventually(lambda: f"{service}-up" in [one["alert"] for one in received()[alerts:]], seconds=AWAY + 60)
    eventually(lambda: worked(read()[-1])[:2] == [True, True], seconds=40)
    rounds = [worked(one) for one in read()]
    assert rounds[0][:2] == [True, True], read()[0]
    without = [one for one in rounds if not all(one[place] for place in lost)]
    assert len(without) > 3, rounds
    assert not any(any(one[2:]) for one in rounds), "something was open meanwhile"
    refused = [one[place] for one in read() for place in lost if not worked(one)[place]]
    # The median: one attempt may come in the moment in which the guest is busy with the start of the service.
    assert statistics.median(seconds for _outcome, seconds in refused) < SOON * 2, refused
    assert not [outcome for outcome, _seconds in refused if re.search("timed out|ETIMEDOUT", outcome)], refused
    assert main_pid(AGENT) == pid, "the agent was started anew"


def worked(outcomes: list[tuple[str, float]]) -> list[bool]:
    return [outcome.startswith(("200", "SSH-2.0", "connected", "NOERROR 1")) for outcome, _seconds in outcomes]


def received() -> list[dict[str, Any]]:
    """The alerts that the test bed's receiver has."""
    lines = (Path(os.environ["CORDON_TESTBED"]) / "webhook.jsonl").read_text().splitlines()
    return [json.loads(line)["body"] for line in lines]


# --- cordonctl explain --------------------------------------------------------------------------------

# destination as people write it: how the agent tries it.
PLACES: dict[str, list[Any]] = {
    "api.example.org:443": ["fetch", "https://api.example.org/"],
    "one.packages.example.org": ["fetch", "https://one.packages.example.org/"],
    "packages.example.org": ["fetch", "https://packages.example.org/"],
    "https://inspected.example.org/v1": ["fetch", "https://inspected.example.org/v1"],
    "outside.example.net:443": ["fetch", "https://outside.example.net/"],
    "api.example.org:8080": ["by_name", "api.example.org", 8080],
    "git@git.example.org:team/repository": ["by_name", "git.example.org", 22],
    "git.example.org:5432": ["by_name", "git.example.org", 5432],
    "database.example.org:5432": ["by_name", "database.example.org", 5432],
    "time.example.org:123/udp": ["udp_by_name", "time.example.org", 123],
    "time.example.org:123/tcp": ["by_name", "time.example.org", 123],
    f"{world.GRANTED}:443": ["connect", world.GRANTED, 443],
    f"{world.GRANTED}:22": ["tcp", world.GRANTED, 22],
    f"{world.GRANTED_DATABASE}:5432": ["tcp", world.GRANTED_DATABASE, 5432],
    f"{world.OFF_LIST}:443": ["connect", world.OFF_LIST, 443],
    f"[{world.OFF_LIST6}]:443": ["connect", world.OFF_LIST6, 443],
    f"{world.API}:443/udp": ["udp", world.API, 443],
    "169.254.169.254:80": ["tcp", "169.254.169.254", 80],
    "2852039166:80": ["tcp", "2852039166", 80],
    "[::ffff:169.254.169.254]:80": ["tcp", "::ffff:169.254.169.254", 80],
    "metadata.google.internal:80": ["by_name", "metadata.google.internal", 80],
    "127.0.0.1:25": ["by_name", "127.0.0.1", 25],
    "127.99.255.1:3128": ["connect", "127.99.255.1", 3128],
}
REACHED = ("200", "SSH-2.0", "connected", "hello", "data out", "220 world")


@pytest.fixture(scope="module")
def explained(host: Any, attempts: Callable[..., Any]) -> dict[str, tuple[dict[str, Any], str]]:
    """{destination: (what cordonctl explain says, what became of the attempt)}."""
    asked = "; ".join(f"cordonctl explain {AGENT} --json {shlex.quote(place)} | tr -d '\\n'; echo" for place in PLACES)
    said = [json.loads(line) for line in host.check_output(asked).splitlines()]
    found = [outcome for outcome, _seconds in attempts(AGENT, list(PLACES.values()))]
    return {place: (one, outcome) for place, one, outcome in zip(PLACES, said, found, strict=True)}


@pytest.mark.parametrize("place", PLACES)
def test_explain_says_what_happens(explained: dict[str, tuple[dict[str, Any], str]], place: str) -> None:
    said, outcome = explained[place]
    assert said["allowed"] == outcome.startswith(REACHED), f"{outcome}; {said['because']}"
    assert said["decided_by"] if said["allowed"] else said["never"] or said["to_allow"]


def test_explain_sees_both(explained: dict[str, tuple[dict[str, Any], str]]) -> None:
    assert {said["allowed"] for said, _outcome in explained.values()} == {True, False}
