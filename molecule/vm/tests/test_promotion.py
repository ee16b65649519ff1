# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From burn-in to enforce and back, by the playbooks, with the agent that burns in.

Two weeks are played: as root, the times in the host's own records are moved back. The gate has no door for tests. The
tests build on each other, in this order, and the last leaves the agent in burn-in as it was found.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.kernel
AGENT = "scribe"
RECORD, HISTORY = "/etc/cordon/promotions.json", "/var/lib/cordon/promotions.jsonl"
AUDIT_LOG = "/var/log/audit/audit.log"

# Moves every time that the gate reads back by 20 days, and has the agent work on two days in between.
TWO_WEEKS_LATER = f"""
import json, time
AGO, NOW = 20 * 86400, time.time()
def edit(path, change):
    with open(path, "r+") as file:
        data = json.load(file)
        change(data)
        file.seek(0)
        json.dump(data, file)
        file.truncate()
def loaded(data):
    for profile in data["profiles"].values():
        profile["since"] -= AGO
def collected(data):
    data["collecting_since"] -= AGO
    for act in data["acts"]:
        act["first"], act["last"] = act["first"] - AGO, act["last"] - AGO
    for loss in data["lost"]:
        loss["at"] -= AGO
    data["days"] = [time.strftime("%Y-%m-%d", time.gmtime(NOW - days * 86400)) for days in (6, 3)]
edit("/etc/cordon/apparmor.json", loaded)
edit("/var/lib/cordon/burn_in/{AGENT}.json", collected)
"""


@pytest.fixture
def two_weeks_later(host: Any, as_agent: Callable[..., Any], eventually: Callable[..., Any]) -> Callable[[], None]:
    """two_weeks_later(): the burn-in is 20 days older, and the agent has just worked."""

    def travel() -> None:
        host.check_output("systemctl stop cordon-events.service")
        host.check_output(f"python3 -c {shlex.quote(TWO_WEEKS_LATER)}")
        host.check_output("systemctl start cordon-events.service")
        assert as_agent(AGENT, "true").rc == 0
        eventually(lambda: len(collected(host)["days"]) == 3, 60)

    return travel


def collected(host: Any) -> dict[str, Any]:
    return json.loads(host.file(f"/var/lib/cordon/burn_in/{AGENT}.json").content_string)


def labels(host: Any) -> set[str]:
    """The labels of the agent's living processes."""
    return set(host.check_output(
        f"for pid in $(pgrep -u agent-{AGENT}); do cat /proc/$pid/attr/current; done").splitlines())


def label(mode: str) -> set[str]:
    return {f"cordon.{AGENT}//&cordon.{AGENT}.main ({mode})"}


def test_who_has_not_burnt_in_is_told_what_is_missing_and_stays(host: Any, play: Callable[..., Any]) -> None:
    asked = play("promote", agent_host_promote=AGENT)
    assert asked.returncode != 0
    for said in (f"{AGENT}: not ready", "The window of 14 days has passed", "Remedy: wait until", "active on"):
        assert said in asked.stdout
    scheduled = play("promote")
    assert scheduled.returncode == 0 and f"{AGENT}: not ready" in scheduled.stdout
    assert labels(host) == label("mixed")
    assert not host.file(RECORD).exists


def test_what_enforce_would_refuse_keeps_the_agent_in_burn_in(
    host: Any, play: Callable[..., Any], as_agent: Callable[..., Any], eventually: Callable[..., Any],
    two_weeks_later: Callable[[], None],
) -> None:
    two_weeks_later()
    assert as_agent(AGENT, "cat", "/etc/fstab").rc == 0
    eventually(lambda: [act for act in collected(host)["acts"] if act["path"] == "/etc/fstab"
                        and act["verdict"] == "allowed" and act["last"] > collected(host)["collecting_since"] + 15 * 86400], 60)
    found = play("promote", agent_host_promote=AGENT)
    assert found.returncode != 0 and "open r /etc/fstab by /usr/bin/cat" in found.stdout
    assert labels(host) == label("mixed")


def test_a_loss_of_records_closes_the_gate(
    host: Any, play: Callable[..., Any], eventually: Callable[..., Any], two_weeks_later: Callable[[], None]
) -> None:
    two_weeks_later()
    before = len(collected(host)["lost"])
    host.check_output("auditctl -e 0")
    try:
        eventually(lambda: len(collected(host)["lost"]) > before, 60)
    finally:
        host.check_output("auditctl -e 1")
    found = play("promote", agent_host_promote=AGENT)
    assert found.returncode != 0 and "audit was off" in found.stdout
    assert labels(host) == label("mixed")


def test_two_weeks_without_an_incident_lead_to_enforce(
    host: Any, play: Callable[..., Any], as_agent: Callable[..., Any], eventually: Callable[..., Any],
    two_weeks_later: Callable[[], None],
) -> None:
    two_weeks_later()
    assert as_agent(AGENT, "cat", "/etc/hostname").rc == 0
    checked = play("promote", "--check", "--diff", agent_host_promote=AGENT)
    assert checked.returncode == 0 and f"+{AGENT}: enforce" in checked.stdout
    assert labels(host) == label("mixed") and not host.file(RECORD).exists

    assert play("promote", agent_host_promote=AGENT).returncode == 0
    assert labels(host) == label("enforce")
    assert as_agent(AGENT, "cat", "/proc/self/attr/current").stdout.strip() in label("enforce")
    start = int(host.check_output(f"wc -l < {AUDIT_LOG}")) + 1
    assert as_agent(AGENT, "cat", "/etc/fstab").rc != 0  # in burn-in it was ALLOWED
    refused = f'apparmor="DENIED" operation="open" profile="cordon.{AGENT}.main" name="/etc/fstab"'
    eventually(lambda: refused in host.check_output(f"tail -n +{start} {AUDIT_LOG}").replace(" class=\"file\"", ""))

    entry = json.loads(host.file(RECORD).content_string)[AGENT]
    assert [one["met"] for one in entry["conditions"]] == [True] * 8
    assert entry["by"] == "molecule" and [run["exit"] for run in entry["replay"]] == [0] * len(entry["replay"]) != []
    assert entry["window"]["until"] - entry["window"]["since"] > 14 * 86400


def test_a_promotion_stays_and_the_host_is_judged_by_it(host: Any, play: Callable[..., Any]) -> None:
    again = play("promote", agent_host_promote=AGENT)
    assert again.returncode == 0 and " changed=0 " in again.stdout
    assert play("verify").returncode == 0
    status = json.loads(host.check_output("cordonctl status --json"))
    assert {agent["name"]: agent["mode"] for agent in status["agents"]}[AGENT] == "enforce"


def test_a_demotion_without_a_reason_is_refused(host: Any, play: Callable[..., Any]) -> None:
    assert play("demote", agent_host_demote=AGENT).returncode != 0
    assert play("demote", agent_host_demote_reason="why").returncode != 0
    assert labels(host) == label("enforce")


def test_a_demotion_is_recorded_told_and_undoes_enforce(
    host: Any, play: Callable[..., Any], as_agent: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    reason = "the test asks for /etc/fstab"
    checked = play("demote", "--check", agent_host_demote=AGENT, agent_host_demote_reason=reason)
    assert checked.returncode == 0 and labels(host) == label("enforce")
    assert play("demote", agent_host_demote=AGENT, agent_host_demote_reason=reason).returncode == 0
    assert labels(host) == label("mixed")
    assert as_agent(AGENT, "cat", "/etc/fstab").rc == 0
    assert json.loads(host.file(RECORD).content_string) == {}
    history = [json.loads(line) for line in host.file(HISTORY).content_string.splitlines()]
    assert [(line["act"], line["agent"], line["reason"]) for line in history] == [
        ("promoted", AGENT, None), ("demoted", AGENT, reason)]
    webhook = Path(os.environ["CORDON_TESTBED"]) / "webhook.jsonl"
    told = eventually(lambda: [body for body in map(body_of, webhook.read_text().splitlines())
                               if body.get("alert") == "demoted"], 60)
    assert told[-1]["agent"] == AGENT and reason in told[-1]["summary"]
    # The burn-in begins anew.
    eventually(lambda: collected(host)["ended"] is None and collected(host)["acts"], 60)
    assert "The gate to enforce: " in host.check_output(f"cordonctl burn-in {AGENT}")


def body_of(line: str) -> dict[str, Any]:
    body = json.loads(line)["body"]
    return json.loads(body) if isinstance(body, str) else body


def test_afterwards_no_check_fails(host: Any, eventually: Callable[..., Any]) -> None:
    eventually(lambda: host.run("cordonctl status").rc == 0, 30)
