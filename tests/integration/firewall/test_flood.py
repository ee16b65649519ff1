# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One agent cannot fill the host's table of connections: not with those that live, not with those that it leaves behind.

Each flood is let loose first without the two rules that bound it, by the same agent.
"""
from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils import _egress, _nftables_ruleset

from .network import AGENT, ORDINARY, OTHER_AGENT, SERVICE_USERS, Network, agent, allow, named

MOST = _nftables_ruleset.FLOWS
FLOOD = agent("flood", AGENT, *(allow("10.20.0.0/24", port) for port in (80, 443, 8080, 9300, 9301)),
              allow("10.20.0.0/24", 53, "udp", log=False), allow("10.20.0.0/24", 9302, "udp"),
              named("git.example.org", 22, "tcp"), named("api.example.org"))
CALM = agent("calm", OTHER_AGENT, allow("10.20.0.0/24", 443))
LISTENER = _egress.addresses([FLOOD, CALM])["flood"]
TLS = ("tcp", "10.20.0.2", 443)


@pytest.fixture
def agents(clean: Network) -> Iterator[Network]:
    """An agent that floods and one that does not, its listener, and an empty table of connections."""
    result = clean.apply(FLOOD, CALM)
    assert not result.get("failed"), result
    for port, service in (("53", "cordon-resolver"), ("3128", "cordon-proxy")):
        assert clean.start("listen", LISTENER, port, user=SERVICE_USERS[service]).first == "ready"
    assert clean.start("greet", "10.20.0.2", "9301", side=clean.world).first == "ready"
    forget_connections(clean)
    yield clean
    forget_connections(clean)


def forget_connections(network: Network) -> None:
    """ctnetlink's IPCTNL_MSG_CT_DELETE without a tuple: all of this namespace. conntrack(8) would be one more package."""
    code = ("import socket, struct; s = socket.socket(16, 3, 12);"
            "s.sendto(struct.pack('=IHHIIBBH', 20, 258, 5, 1, 0, 0, 0, 0), (0, 0));"
            "assert struct.unpack_from('=i', s.recv(4096), 16)[0] == 0")
    subprocess.run(["ip", "netns", "exec", network.host, "/usr/bin/python3", "-c", code], check=True)


def tracked(network: Network) -> int:
    """Connections that the kernel knows on this host."""
    command = ["ip", "netns", "exec", network.host, "cat", "/proc/sys/net/netfilter/nf_conntrack_count"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def many(network: Network, user: str, how: str, to: tuple[str, int], count: int, spread: bool = False) -> tuple[Any, Any, float]:
    """What became of so many flows, the process that holds them, and the seconds for each."""
    child = network.start("many", json.dumps({"how": how, "to": to, "count": count, "spread": spread}), user=user)
    outcomes, seconds = json.loads(child.first)
    return outcomes, child, seconds / count


def unbounded(network: Network) -> None:
    network.nft("flush", "chain", "inet", "cordon", "flows_flood")


def test_fifteen_hundred_connections_at_once_are_no_flood(agents):
    started = time.monotonic()
    outcomes, child, each = many(agents, AGENT, "tcp", TLS[1:], 1500)
    assert outcomes == {"answered": 1500}
    assert tracked(agents) >= 1500
    outcomes, *_ = many(agents, AGENT, "tcp", TLS[1:], 1500)
    assert outcomes == {"answered": 1500}  # beside the others
    assert agents.counter("flood_flood") == 0
    print(f"{each * 1e6:.0f} us for each of the first 1500, {time.monotonic() - started:.1f} s in all")
    child.kill()


@pytest.mark.parametrize(("how", "to", "spread", "error"), [
    ("udp", (LISTENER, 53), False, "EPERM"), ("udp", (LISTENER, 53), True, "EPERM"),
    ("tcp", (LISTENER, 3128), True, "ECONNREFUSED"), ("udp", ("10.20.0.2", 53), False, "EPERM"),
    ("tcp", TLS[1:], False, "ECONNREFUSED"), ("churn", ("10.20.0.2", 9301), False, "ECONNREFUSED"),
], ids=["many ports", "many sources", "held", "without a line in the log", "with one", "ended at once"])
def test_a_flood_ends_where_it_is_bounded_and_nobody_else_feels_it(agents, how, to, spread, error):
    count = MOST + 2500
    unbounded(agents)
    outcomes, child, _ = many(agents, AGENT, how, to, count, spread)
    assert set(outcomes) <= {"sent", "answered"}
    assert tracked(agents) >= count
    child.kill()
    assert agents.apply(FLOOD, CALM)["changed_parts"] == ["kernel"]
    forget_connections(agents)

    started = time.monotonic()
    outcomes, child, each = many(agents, AGENT, how, to, count, spread)
    allowed = MOST + _nftables_ruleset.NEW_FLOWS_A_SECOND * (time.monotonic() - started + 1)  # the rate goes on while it floods
    assert outcomes[error] == agents.counter("flood_flood") >= count - allowed
    assert tracked(agents) <= (MOST if how != "churn" else allowed) + 100
    others = [outcome for user in (OTHER_AGENT, ORDINARY, "root") for outcome, _ in agents.attempts(user, TLS)]
    assert others == ["answered"] * 3
    assert agents.counter("denied_flood") == 0
    assert not agents.apply(FLOOD, CALM)["changed"]  # what was counted is no drift
    print(how, outcomes, f"{each * 1e6:.0f} us each, {tracked(agents)} tracked")


def test_what_is_refused_is_not_tracked(agents):
    before = tracked(agents)
    outcomes, *_ = many(agents, AGENT, "udp", ("203.0.113.9", 53), 2000)
    assert outcomes == {"EPERM": 2000}
    outcomes, *_ = many(agents, ORDINARY, "tcp", (LISTENER, 3128), 500, True)
    assert outcomes == {"ECONNREFUSED": 500}
    assert tracked(agents) - before < 50


def test_who_has_closed_may_open_again(agents):
    outcomes, child, _ = many(agents, AGENT, "tcp", ("10.20.0.2", 9301), MOST)
    assert outcomes == {"answered": MOST}
    time.sleep(1)  # not for its rate, but for its number
    assert agents.attempts(AGENT, TLS)[0][0] == "ECONNREFUSED"
    child.kill()
    child.wait()
    time.sleep(1)
    assert agents.attempts(AGENT, TLS)[0][0] == "answered"


def test_datagrams_that_nobody_answers_are_one_flow(agents):
    """A program that sends its log by UDP: every one of its packets is "new" to the kernel's state."""
    code = ("import socket; s = socket.socket(2, 2);"
            f"[s.sendto(b'line', ('10.20.0.2', 9302)) for _ in range({MOST * 3})]; print('sent')")
    person = ["setpriv", f"--reuid={AGENT}", f"--regid={AGENT}", "--clear-groups", "--"]
    done = subprocess.run(["ip", "netns", "exec", agents.host, *person, "/usr/bin/python3", "-c", code],
                          capture_output=True, text=True, check=False)
    assert done.stdout == "sent\n", done.stderr
    assert agents.counter("flood_flood") == 0


def test_what_it_costs(agents):
    """New connections and throughput with the bounds and without, the best of three turns; printed, and held to be alike."""
    agents.start("sink", "10.20.0.2", "9300", side=agents.world)
    found: dict[str, list[tuple[float, float]]] = {"bounded": [], "unbounded": []}
    for _turn in range(3):
        agents.apply(FLOOD, CALM)
        # Each to a place of its own: a port that was just used by a connection may cost a second.
        for kind, port in (("bounded", 80), ("unbounded", 8080)):
            outcomes, child, each = many(agents, AGENT, "tcp", ("10.20.0.3", port), 2000)
            assert outcomes == {"answered": 2000}
            throughput = float(agents.start("rate", "10.20.0.2", "9300", user=AGENT).first)
            found[kind].append((each * 1e6, throughput))
            child.kill()
            child.wait()
            unbounded(agents)
    best = {kind: (min(each for each, _ in turns), max(rate for _, rate in turns)) for kind, turns in found.items()}
    print({kind: f"{each:.0f} us a connection, {megabytes:.0f} MB/s" for kind, (each, megabytes) in best.items()}, found)
    assert best["bounded"][0] < best["unbounded"][0] + 300
    assert best["bounded"][1] > best["unbounded"][1] / 3
