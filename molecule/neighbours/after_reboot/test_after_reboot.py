# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""After a reboot beside other firewalls: all of them are back, and no agent ran before our table stood."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest


def at(host: Any, unit: str, what: str) -> int:
    """A moment of this boot in microseconds, by systemd's own clock."""
    moment = int(host.check_output(f"systemctl show --property={what}TimestampMonotonic --value {unit}"))
    assert moment > 0, f"{unit} has no {what} in this boot"
    return moment


def test_everybody_reaches_what_they_may(
    host: Any, come_true: Callable[..., None], expected: dict[str, Any], eventually: Callable[..., Any]
) -> None:
    assert float(host.check_output("cat /proc/uptime").split()[0]) < 600, "it did not reboot"
    eventually(lambda: host.service("cordon-agent@courier").is_running and host.service("docker").is_running, 180)
    come_true(expected)


def test_our_table_stood_before_the_network_and_the_agent(host: Any) -> None:
    table = at(host, "cordon-firewall.service", "ActiveEnter")
    for later, what in (
        ("network-pre.target", "ActiveEnter"), ("systemd-networkd.service", "InactiveExit"), ("docker.service", "InactiveExit"),
        ("cordon-agent@courier.service", "ExecMainStart"),
    ):
        assert table < at(host, later, what), later


@pytest.fixture
def put_back(host: Any) -> Generator[None]:
    yield
    host.check_output("systemctl restart cordon-firewall && systemctl start cordon-agent@courier")


def test_without_our_table_the_agent_does_not_start(host: Any, put_back: None) -> None:
    """Its unit is active, and somebody flushed the table: the preflight asks the kernel. The boot: boot_without_table."""
    host.check_output("systemctl stop cordon-agent@courier && nft delete table inet cordon")
    since = host.check_output("date +%s")
    assert host.run("systemctl start cordon-agent@courier").rc != 0
    assert not host.service("cordon-agent@courier").is_running
    journal = host.check_output(f"journalctl --no-pager --output=cat --unit=cordon-agent@courier --since=@{since}")
    assert "agent courier is not started" in journal and "The table inet cordon is in the kernel" in journal
