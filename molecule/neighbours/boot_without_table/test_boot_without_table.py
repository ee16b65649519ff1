# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""After a boot in which our table could not be loaded, beside firewalld: everybody is there but the agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

AGENT = "cordon-agent@courier.service"


def test_the_agent_did_not_start_and_systemd_says_why(host: Any, eventually: Callable[..., Any]) -> None:
    assert float(host.check_output("cat /proc/uptime").split()[0]) < 600, "it did not reboot"
    eventually(lambda: host.run("systemctl is-system-running").stdout.strip() not in ("", "initializing", "starting"), 240)
    assert host.run("nft list table inet cordon").rc != 0
    assert host.check_output("systemctl show --property=ExecMainStartTimestampMonotonic --value " + AGENT) == "0"
    assert f"Dependency failed for {AGENT}" in host.check_output("journalctl --boot --no-pager --output=cat _PID=1")


def test_nobody_starts_it_by_hand(host: Any, as_agent: Callable[..., Any]) -> None:
    started = host.run(f"systemctl start {AGENT}")
    assert started.rc != 0 and f"dependency job for {AGENT} failed" in started.stderr
    assert as_agent("courier", "true").rc != 0
    assert host.run("pgrep --uid agent-courier").stdout == ""


def test_the_neighbours_are_all_there(come_true: Callable[..., None], expected: dict[str, Any]) -> None:
    del expected["agent"]
    come_true(expected)


def test_with_the_table_everything_works_again(
    host: Any, come_true: Callable[..., None], expected: dict[str, Any]
) -> None:
    host.check_output("cp -p /root/firewall.nft /etc/cordon/firewall.nft && systemctl restart cordon-firewall")
    host.check_output(f"systemctl start {AGENT}")
    come_true(expected)
