# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests beside other firewalls share: what everybody can reach, what must not change, and how ours is applied."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ANSWERS, LINE = "HTTP/1.1 200 OK", "hello"
REFUSED = "ECONNREFUSED"  # by a reset, so at once: what is dropped is ETIMEDOUT

# {who: {what: outcome}} that must hold whenever anything was done to anybody. The stranger's and the other network's
# "closed" is a reset, an ICMP error or silence, as each firewall has it.
EXPECTED = {
    "stranger": {
        "published port": ANSWERS, "open port": ANSWERS, "closed port": "closed", "denied address": "closed",
        "banned by nftables": "closed", "banned by iptables": "closed",
    },
    "container": {"outbound": LINE, "its network": ANSWERS, "by name": "container"},
    "other network": {"isolated": "closed"},
    "alice": {
        "granted": LINE, "off the list": LINE, "published port": ANSWERS, "published port on loopback": ANSWERS,
        "container": ANSWERS, "Docker": "HTTP/1.0 200 OK",
    },
    "agent": {
        "granted": LINE, "granted name": "SSH-2.0-world", "off the list": REFUSED, "published port": REFUSED,
        "published port on loopback": REFUSED, "container": REFUSED, "Docker": "EACCES",
    },
}
LOUD = ("HTTP/", "hello", "SSH-")


def closed(outcomes: dict[str, str]) -> dict[str, str]:
    return {what: outcome if outcome.startswith(LOUD) else "closed" for what, outcome in outcomes.items()}


@pytest.fixture
def ways(host: Any) -> Callable[[], dict[str, dict[str, str]]]:
    """ways(): what everybody can reach now, in the words of EXPECTED."""

    def look() -> dict[str, dict[str, str]]:
        found = json.loads(host.check_output("python3 /srv/testbed/look.py ways"))
        return {who: closed(outcomes) if who in ("stranger", "other network") else outcomes for who, outcomes in found.items()}

    return look


@pytest.fixture
def come_true(ways: Callable[[], dict[str, dict[str, str]]]) -> Callable[..., None]:
    """come_true(EXPECTED, seconds=120): containers and bans take a moment. What is not expected is not compared."""

    def wait(wanted: dict[str, dict[str, str]], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while True:
            seen = ways()
            found = {who: {what: seen[who].get(what) or seen[who].get("error", "") for what in each}
                     for who, each in wanted.items()}
            if found == wanted or time.monotonic() > end:
                break
        assert found == wanted

    return wait


@pytest.fixture
def expected() -> dict[str, dict[str, str]]:
    """What ways() must be; the test's own copy."""
    return json.loads(json.dumps(EXPECTED))


@pytest.fixture
def rules(host: Any) -> Callable[[], str]:
    """rules(): every rule that is not ours, without counters."""
    return lambda: host.check_output("python3 /srv/testbed/look.py rules")


@pytest.fixture
def ours(host: Any) -> Callable[[], str]:
    """ours(): our table in the kernel, without what the resolver adds to it and takes away (_nftables.comparable)."""

    def read() -> str:
        listing = host.check_output("nft --stateless list table inet cordon")
        return re.sub(r"(\t\tflags timeout\n)\t\telements = \{[^}]*\}\n", r"\1", listing)

    return read


@pytest.fixture
def survive(
    host: Any, come_true: Callable[..., None], ours: Callable[[], str], expected: dict[str, Any]
) -> Callable[[str], None]:
    """survive(COMMAND): after it everybody reaches what they may, and our table is what it was."""

    def run(command: str) -> None:
        before = ours()
        host.check_output(command)
        come_true(expected)
        assert ours() == before

    return run


@pytest.fixture
def play() -> Callable[..., subprocess.CompletedProcess[str]]:
    """play(NAME, VARIABLE=VALUE): run a playbook of this scenario against the guest."""

    def run(name: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        inventory = f"--inventory={os.environ['CORDON_TESTBED']}/inventory.yml"
        argv = ["ansible-playbook", inventory, "--extra-vars", json.dumps(variables), str(HERE / name)]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    return run


@pytest.fixture
def apply(play: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., int]:
    """apply(VARIABLE=VALUE): apply the role firewall; how many tasks changed something."""

    def run(**variables: Any) -> int:
        done = play("apply.yml", **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return sum(int(number) for number in re.findall(r"(?m)^\S+\s+: ok=\d+\s+changed=(\d+)", done.stdout))

    return run
