# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of egress share: attempts in the guest, by anybody, and what arrived in the world (world.py)."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

PROBE = Path(__file__).with_name("egress_probe.py").read_text()
PLACE = "/run/egress-probe"
ARRIVALS = "/run/world/arrivals.jsonl"
# alice, with one thing more than an ordinary user has, so that raw sockets work for her.
ORDINARY = "setpriv --reuid=alice --regid=alice --clear-groups --inh-caps=+net_raw --ambient-caps=+net_raw"
AS = {
    "alice": f"{ORDINARY} env HOME=/home/alice /usr/bin/python3 -",
    "root": "/usr/bin/python3 -",
    "scout": "cordonctl run scout -- python3 -",
}

Attempt = Sequence[Any]
Outcome = tuple[str, float]


def script(host: Any, wanted: Sequence[Attempt], seconds: int = 0) -> str:
    """Put the probe with these attempts into the guest; the file. seconds: they are made so long, over and over."""
    listed = [list(one) for one in wanted]
    text = f"{PROBE}\n" + (f"rounds({listed!r}, {seconds})\n" if seconds else f"attempt({listed!r})\n")
    path = f"{PLACE}/{abs(hash(text)):x}"
    host.check_output(f"mkdir -p {PLACE} && printf %s {shlex.quote(text)} > {path}")
    return path


@pytest.fixture(scope="module")
def attempts(host: Any) -> Callable[..., list[Outcome]]:
    """attempts(WHO, [[HOW, ARGUMENT, ...], ...], prefix=""): one session, one (outcome, seconds) for each."""

    def run(who: str, wanted: Sequence[Attempt], prefix: str = "") -> list[Outcome]:
        done = host.run(f"cd /; {prefix} {AS[who]} < {script(host, wanted)}")
        assert done.rc == 0, done.stderr
        return [(outcome, seconds) for outcome, seconds in json.loads(done.stdout.splitlines()[-1])]

    return run


@pytest.fixture
def in_background(host: Any) -> Generator[Callable[..., Callable[[], list[list[Outcome]]]]]:
    """in_background(WHO, ATTEMPTS, SECONDS): a session that goes on by itself; what it returns reads the rounds so far."""
    files: list[str] = []

    def start(who: str, wanted: Sequence[Attempt], seconds: int = 0) -> Callable[[], list[list[Outcome]]]:
        path = script(host, wanted, seconds)
        files.append(f"{path}.out")
        host.check_output(f"cd /; (setsid {AS[who]} < {path} > {path}.out 2> {path}.err &)")

        def read() -> list[list[Outcome]]:
            lines = host.check_output(f"cat {path}.out").splitlines()
            return [[(outcome, spent) for outcome, spent in json.loads(line)] for line in lines if line.endswith("]]")]

        return read

    yield start
    for path in files:
        host.run(f"rm -f {path}")


@pytest.fixture(scope="module")
def arrivals(host: Any) -> Callable[[int], list[dict[str, Any]]]:
    """arrivals(SINCE): what the world has written down after its first SINCE lines."""

    def read(since: int = 0) -> list[dict[str, Any]]:
        return [json.loads(line) for line in host.check_output(f"tail -n +{since + 1} {ARRIVALS}").splitlines()]

    return read


@pytest.fixture(scope="module")
def listener(host: Any) -> Callable[[str], str]:
    """listener(NAME): the loopback address on which proxy and resolver serve that agent, as its resolv.conf says."""

    def read(name: str) -> str:
        return host.check_output(f"awk '/^nameserver/ {{ print $2 }}' /etc/cordon/agents/{name}.resolv")

    return read
