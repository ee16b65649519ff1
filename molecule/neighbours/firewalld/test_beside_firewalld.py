# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Beside Docker, firewalld (by nftables) and fail2ban, after ufw was taken away: theirs works and ours works."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

Ways = Callable[[], dict[str, dict[str, str]]]


@pytest.fixture
def expected(expected: dict[str, Any]) -> dict[str, Any]:
    """Without what firewalld takes from others when it is loaded: it empties the tables of iptables, so that fail2ban's bans
    there are gone, and of Docker's rules those for isolation do not come back (Docker 20.10). Neither has to do with us."""
    del expected["stranger"]["banned by iptables"], expected["other network"]
    return expected


@pytest.fixture
def put_back(host: Any) -> Generator[None]:
    host.check_output("nft list table inet firewalld > /root/firewalld")
    yield
    host.run("nft delete table inet firewalld")
    host.check_output("nft -f /root/firewalld")


def test_it_works_by_nftables_and_ufw_is_gone(host: Any) -> None:
    assert host.check_output("firewall-cmd --state") == "running"
    assert "chain filter_INPUT" in host.check_output("nft list table inet firewalld")
    assert "inactive" in host.check_output("ufw status")


def test_everybody_reaches_what_they_may(come_true: Callable[..., None], expected: dict[str, Any]) -> None:
    come_true(expected)


def test_what_is_looked_at_shows_when_the_rules_are_gone(host: Any, put_back: None, ways: Ways) -> None:
    host.check_output("nft delete table inet firewalld")
    found = ways()["stranger"]
    assert {what: found[what] for what in ("closed port", "denied address")} == dict.fromkeys(
        ("closed port", "denied address"), "HTTP/1.1 200 OK")


@pytest.mark.parametrize("restart", [
    "firewall-cmd --reload", "systemctl restart firewalld docker fail2ban cordon-firewall",
])
def test_each_may_start_again(survive: Callable[[str], None], restart: str) -> None:
    survive(restart)


def test_a_repetition_and_mended_drift_leave_theirs_as_it_was(
    host: Any, rules: Callable[[], str], ours: Callable[[], str], apply: Callable[..., int],
    come_true: Callable[..., None], expected: dict[str, Any],
) -> None:
    before, stood = rules(), ours()
    assert apply() == 0
    host.check_output("nft flush chain inet cordon output")
    assert apply() > 0
    come_true(expected)
    assert (rules(), ours()) == (before, stood)
