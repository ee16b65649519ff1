# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Monitoring on a booted kernel: what records, what loses nothing, and what falls silent when it should."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

pytestmark = pytest.mark.kernel
LOG = "/var/log/cordon/events.jsonl"
STATE = "/run/cordon/events.json"


@pytest.fixture
def refusals(host: Any) -> Callable[[str], list[dict[str, Any]]]:
    """refusals(PATH): events of refused accesses to it, in this log and the one before it."""

    def find(path: str) -> list[dict[str, Any]]:
        lines = host.run(f"cat {LOG}.1 {LOG} 2>/dev/null").stdout.splitlines()
        return [event for event in map(json.loads, lines) if event["outcome"] == "denied" and event.get("path") == path]

    return find


def test_the_kernel_records_each_agents_user_and_never_stalls_for_it(host: Any, agent: dict[str, Any]) -> None:
    uid = host.user(f"agent-{agent['name']}").uid
    rules = host.check_output("auditctl -l").splitlines()
    mine = [rule for rule in rules if f"uid={uid} " in rule or _in_range(rule, uid)]
    for key in ("cordon-exec", "cordon-denied", "cordon-connect"):
        assert {"b64", "b32"} == {rule.split("arch=")[1][:3] for rule in mine if f"key={key}" in rule}, key
    assert "backlog_wait_time 0\n" in host.check_output("auditctl -s") + "\n"


def _in_range(rule: str, uid: int) -> bool:
    bounds = {word[3:5]: int(word[5:]) for word in rule.split() if word.startswith(("uid>=", "uid<="))}
    return bool(bounds) and bounds[">="] <= uid <= bounds["<="]


@pytest.mark.parametrize("path", ["/etc/cordon", "/etc/apparmor.d", "/etc/systemd/system"])
def test_changes_to_what_holds_agents_are_recorded(host: Any, path: str) -> None:
    assert f"-w {path} -p wa -k cordon-tamper" in host.check_output("auditctl -l")


def test_the_writer_says_that_it_is_well(host: Any) -> None:
    state = json.loads(host.file(STATE).content_string)
    now = int(host.check_output("date +%s"))
    written = datetime.fromisoformat(state["time"].replace("Z", "+00:00")).timestamp()
    assert now - written < 30
    expected = {
        "log_writable": True,
        "kernel_log_readable": True,
        "audit_enabled": True,
        "audit_daemon": True,
        "gaps": 0,
    }
    assert {name: state[name] for name in expected} == expected


def test_the_settings_are_roots_alone(host: Any) -> None:
    settings = host.file("/etc/cordon/monitoring.json")
    assert (settings.user, settings.mode) == ("root", 0o600)


def test_the_sign_of_life_is_due_every_few_minutes(host: Any) -> None:
    assert host.check_output("systemctl is-active cordon-heartbeat.timer") == "active"


def test_a_killed_writer_and_rotated_logs_lose_and_repeat_nothing(
    host: Any, as_agent: Callable[..., Any], eventually: Callable[..., Any], refusals: Callable[..., Any]
) -> None:
    paths = [f"/root/molecule-{host.check_output('date +%s%N')}-{number}" for number in range(3)]
    as_agent("scout", "/usr/bin/cat", paths[0])
    host.check_output("systemctl kill --signal=KILL cordon-events.service")
    as_agent("scout", "/usr/bin/cat", paths[1])
    # auditd(8): USR1 rotates its log.
    host.check_output("kill -USR1 $(pidof auditd)")
    host.check_output("logrotate --force /etc/logrotate.d/cordon")
    as_agent("scout", "/usr/bin/cat", paths[2])
    eventually(lambda: refusals(paths[2]), seconds=120)
    assert [len(refusals(path)) for path in paths] == [1, 1, 1]


def test_without_the_writer_the_sign_of_life_stops(host: Any, eventually: Callable[..., Any]) -> None:
    host.check_output("systemctl stop cordon-events.service")
    try:
        # The last state file ages before anybody can tell that nothing follows it.
        eventually(lambda: host.run("systemctl start cordon-heartbeat.service").rc != 0, seconds=120)
        reasons = host.check_output("journalctl --no-pager --output=cat --lines=20 --unit=cordon-heartbeat")
        assert "no heartbeat sent: cordon-events.service last gave a sign of life" in reasons
    finally:
        host.check_output("systemctl start cordon-events.service")
