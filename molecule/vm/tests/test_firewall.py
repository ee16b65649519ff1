# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The firewall among the host's services: what flushes it, what logs it. Ways out: tests/integration/firewall."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable
from typing import Any

import pytest

LISTING = "nft --stateless list table inet cordon"
ATTEMPT = """
import errno, socket, sys, time
start = time.monotonic()
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)
    outcome = "answered"
except OSError as error:
    outcome = errno.errorcode.get(error.errno, repr(error))
print(outcome, time.monotonic() - start)
"""


def listing(host: Any) -> str:
    """The kernel's table without what the resolver adds to it and takes away (_nftables.comparable)."""
    return re.sub(r"(\t\tflags timeout\n)\t\telements = \{[^}]*\}\n", r"\1", host.run(LISTING).stdout)


def attempt(host: Any, user: str, address: str, port: int) -> tuple[str, float]:
    """What becomes of a connection by this user, outside any session: the firewall alone, and the seconds it took."""
    argv = ["runuser", "-u", user, "--", "/usr/bin/python3", "-c", ATTEMPT, address, str(port)]
    outcome, seconds = host.check_output(shlex.join(argv)).rsplit(" ", 1)
    return outcome, float(seconds)


def test_the_kernel_has_the_very_table_that_was_loaded(host: Any) -> None:
    record = json.loads(host.check_output("cat /etc/cordon/firewall.json"))
    assert hashlib.sha256(listing(host).encode()).hexdigest() == record["sha256"]


def test_the_table_binds_every_agent_s_user(host: Any, agent: dict[str, Any]) -> None:
    uid = host.user(f"agent-{agent['name']}").uid
    assert f"{uid} : goto egress_{agent['name']}" in host.check_output("nft list map inet cordon agents")


@pytest.mark.parametrize("action", ["reload", "restart", "stop"])
def test_it_outlives_the_service_that_flushes_all_rules(host: Any, action: str) -> None:
    """Debian's nftables.service runs `flush ruleset` each time: somebody else's table goes, ours comes back."""
    active = host.service("nftables").is_running
    before = listing(host)
    host.check_output("systemctl start nftables")
    host.check_output("nft add table inet molecule")
    try:
        host.check_output(f"systemctl {action} nftables")
        assert host.run("nft list table inet molecule").rc != 0, "nothing was flushed: this test shows nothing"
        assert listing(host) == before
    finally:
        host.run(f"systemctl {'start' if active else 'stop'} nftables")


def test_stopping_its_unit_does_not_open_the_network(host: Any) -> None:
    before = listing(host)
    # The agents require the unit, so the unit's stop would stop them: only what its stop runs is of interest.
    shown = host.check_output("systemctl show --property=ExecStop --property=ExecStopPost --value cordon-firewall")
    assert shown.strip() == ""
    assert listing(host) == before != ""


@pytest.mark.parametrize(("address", "kind"), [
    ("127.0.0.1", "denied"), ("::1", "denied"), ("169.254.169.254", "metadata"), ("fd00:ec2::254", "metadata"),
])
def test_each_refusal_is_at_once_and_in_the_kernel_s_log(
    host: Any, unwatched: None, eventually: Callable[..., Any], address: str, kind: str
) -> None:
    port = 22  # sshd answers there on loopback, so that a refusal is ours
    marker = host.check_output("date +%s")
    if kind == "denied":
        assert attempt(host, "nobody", address, port)[0] == "answered"

    outcome, seconds = attempt(host, "agent-scribe", address, port)

    assert (outcome, seconds < 1) == ("ECONNREFUSED", True)
    wanted = f"cordon:scribe:{kind} "

    def logged() -> list[str]:
        lines = host.check_output(f"journalctl --dmesg --no-pager --since=@{marker}").splitlines()
        return [line for line in lines if wanted in line and f"DPT={port} " in line and "UID=" in line]

    assert eventually(logged)
