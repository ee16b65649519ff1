# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Beside Docker, ufw and fail2ban: whatever is applied or started again, theirs works and ours works.

Each test looks at every way in and out (look.py), so one that breaks something fails by itself and not three tests later.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

Ways = Callable[[], dict[str, dict[str, str]]]
# All at once: what Docker, fail2ban and ufw have for the ways below. Without Docker's rules its own proxy would answer at the
# published port, if nothing kept it.
GONE = """
    iptables -t nat -F; iptables -F DOCKER-ISOLATION-STAGE-1; iptables -F f2b-by-iptables; nft delete table inet f2b-table
    iptables -P INPUT ACCEPT; iptables -F INPUT; iptables -A INPUT -p tcp --dport 8081 -j DROP
"""
CHANGES = {  # {who: {what: whether it answers then}}
    "stranger": {
        "published port": False, "closed port": True, "denied address": True, "banned by nftables": True,
        "banned by iptables": True,
    },
    "container": {"outbound": False},
    "other network": {"isolated": True},
}


@pytest.fixture
def put_back(host: Any) -> Generator[None]:
    """The neighbours' rules are afterwards as they were before."""
    host.check_output("iptables-save > /root/iptables && nft list table inet f2b-table > /root/f2b")
    yield
    host.run("nft delete table inet f2b-table")
    host.check_output("iptables-restore < /root/iptables && nft -f /root/f2b")


def test_the_site_left_every_other_rule_as_it_was(host: Any, rules: Callable[[], str]) -> None:
    """As prepare.yml wrote them down before it."""
    before = host.check_output("cat /root/rules-before")
    assert "DOCKER" in before and "ufw-user-input" in before and "f2b-table" in before and "f2b-by-iptables" in before
    assert rules() == before


def test_everybody_reaches_what_they_may(ways: Ways, expected: dict[str, Any]) -> None:
    assert ways() == expected


def test_what_is_looked_at_shows_when_the_rules_are_gone(host: Any, put_back: None, ways: Ways) -> None:
    host.check_output(GONE)
    found = ways()
    answers = {who: {what: found[who][what].startswith(("HTTP/", "hello")) for what in each} for who, each in CHANGES.items()}
    assert answers == CHANGES


@pytest.mark.parametrize("restart", [
    "systemctl restart docker fail2ban", "ufw reload && ufw disable && ufw --force enable", "systemctl restart cordon-firewall",
])
def test_each_may_start_again(survive: Callable[[str], None], restart: str) -> None:
    survive(restart)


def test_a_repetition_changes_nothing(rules: Callable[[], str], apply: Callable[..., int]) -> None:
    before = rules()
    assert apply() == 0
    assert rules() == before


def test_another_manifest_opens_a_container_and_closes_it_again(
    host: Any, rules: Callable[[], str], apply: Callable[..., int], ways: Ways, expected: dict[str, Any]
) -> None:
    """By the container's own address: what Docker publishes is translated before our table sees it."""
    before, web = rules(), host.check_output("docker inspect --format='{{.NetworkSettings.IPAddress}}' web")
    assert apply(courier_more=[{"cidr": f"{web}/32", "port": 80}]) > 0
    for what in ("container", "published port"):
        expected["agent"][what] = expected["alice"][what]
    assert ways() == expected
    assert rules() == before

    assert apply() > 0
    for what in ("container", "published port"):
        expected["agent"][what] = "ECONNREFUSED"
    assert ways() == expected
    assert rules() == before


def test_drift_is_mended_and_the_others_are_not_touched(
    host: Any, rules: Callable[[], str], ours: Callable[[], str], apply: Callable[..., int], ways: Ways,
    expected: dict[str, Any],
) -> None:
    before, stood = rules(), ours()
    # A session would not start now: its preflight sees the drift. So its user tries without one, while the watch stands still.
    watch = "systemctl kill cordon-watch.service --signal="
    attempt = "runuser -u agent-courier -- python3 /srv/testbed/look.py try '{\"it\": [\"203.0.113.99\", 8080]}'"
    off_the_list = f"{watch}STOP; {attempt}; {watch}CONT"
    assert "ECONNREFUSED" in host.check_output(off_the_list)
    host.check_output("nft flush chain inet cordon output")
    assert "hello" in host.check_output(off_the_list), "its user is not free without the rule, so this test shows nothing"
    assert apply() > 0
    assert ways() == expected
    assert (rules(), ours()) == (before, stood)
