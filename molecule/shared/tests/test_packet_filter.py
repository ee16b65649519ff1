# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The packet filter, as the kernel has it: read back as JSON, and tried."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

CONNECT = """
import errno, socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_STREAM)
s.settimeout(10)
code = s.connect_ex((sys.argv[1], int(sys.argv[2])))
print(errno.errorcode.get(code, code))
"""


def table(host: Any) -> list[dict[str, Any]]:
    return json.loads(host.check_output("nft --json list table inet cordon"))["nftables"]


def test_the_kernel_has_our_table_hooked_into_output(host: Any) -> None:
    chains = [entry["chain"] for entry in table(host) if "chain" in entry]
    assert any(chain.get("hook") == "output" and chain.get("type") == "filter" for chain in chains)


def test_every_agent_has_counters_in_it(host: Any, agent: dict[str, Any]) -> None:
    counters = {entry["counter"]["name"] for entry in table(host) if "counter" in entry}
    assert f"denied_{agent['name']}" in counters


@pytest.mark.parametrize("address", ["169.254.169.254", "127.0.0.1", "fd00:ec2::254"])
def test_what_is_not_allowed_is_refused_and_counted(host: Any, as_agent: Callable[..., Any], address: str) -> None:
    """`scout` may go elsewhere, but not to this machine; refused at once, not by a timeout."""

    def refused() -> int:
        return sum(
            entry["counter"]["packets"] for entry in table(host)
            if "counter" in entry and entry["counter"]["name"] in ("denied_scout", "metadata_scout")
        )

    before = refused()
    tried = as_agent("scout", "/usr/bin/python3", "-c", CONNECT, address, "80")
    assert tried.stdout.strip() == "ECONNREFUSED", tried.stdout + tried.stderr
    assert refused() > before


def test_a_user_who_is_no_agent_is_left_alone(host: Any) -> None:
    """The same address and another user: the refusal above came from our table and not from the machine."""
    script = """
        python3 -m http.server --bind 127.0.0.1 8099 > /dev/null 2>&1 & server=$!
        runuser -u alice -- curl -s -o /dev/null -w '%{http_code}' --retry 9 --retry-connrefused http://127.0.0.1:8099/
        kill $server
    """
    tried = host.run("sh -c %s", script)
    assert tried.stdout.strip() == "200", tried.stderr


def test_it_comes_back_with_the_machine(host: Any) -> None:
    unit = host.service("cordon-firewall")
    assert unit.is_enabled
    assert unit.is_running
