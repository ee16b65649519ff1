# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a promotion changes for everybody who reads the manifest, and what the facts and checks say of it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError

from ansible_collections.cordon.agent_host.plugins.filter.agent_replay import agent_replay
from ansible_collections.cordon.agent_host.plugins.filter.agents import agents
from ansible_collections.cordon.agent_host.plugins.module_utils import (
    _burn_in,
    _checks,
    _facts,
    _facts_promotion,
    _promotions,
)
from ansible_collections.cordon.agent_host.plugins.module_utils._burn_in_seen import DAY
from ansible_collections.cordon.agent_host.plugins.module_utils._facts_source import Source

CHECKS = yaml.safe_load(
    (Path(__file__).parents[3] / "roles" / "compliance_evidence" / "files" / "checks.yml").read_text())


@pytest.fixture
def record(host) -> dict[str, Any]:
    judged = _burn_in.conditions(host.agent, host.seen(), host.rendered, host.replay)
    return _promotions.entry(host.agent, host.seen(), judged, host.replay, "olga")


@pytest.fixture
def facts_of(tmp_path, manifest):
    """facts_of(PROMOTIONS, agent=0, collected=None, loaded=None): the facts of promotion on a host with these files."""

    def read(promotions: Any, agent: int = 0, collected: Any = None, loaded: Any = None) -> dict[str, Any]:
        for path, value in (("etc/cordon/promotions.json", promotions),
                            ("var/lib/cordon/burn_in/scribe.json", collected)):
            if value is not None:
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / path).write_text(value if isinstance(value, str) else json.dumps(value))
        source = Source(lambda *_argv: (0, "", ""), str(tmp_path))
        found = _facts_promotion.of_agent(source, manifest[agent], _facts_promotion.read(source), loaded)
        return {**found, "unreadable": source.unreadable}

    return read


def status(promotion: dict[str, Any]) -> dict[str, str]:
    facts = {"support": {"apparmor": True}, "agents": {"scribe": {"promotion": promotion}}}
    chosen = [check for check in CHECKS if check["id"] in ("enforce-was-earned", "burn-in-ends")]
    return {one["id"]: one["status"] for one in _checks.evaluate(chosen, facts)}


def test_a_promoted_agent_is_in_enforce_and_no_other(manifest):
    found = _promotions.effective(manifest, {"scribe": {}, "scout": {}, "gone": {}})
    assert [agent["mode"] for agent in found] == ["enforce", "enforce"]
    assert [agent["mode"] for agent in _promotions.effective(manifest, {})] == ["burn_in", "enforce"]
    assert manifest[0]["mode"] == "burn_in"


def test_the_filter_gives_roles_the_mode_that_is_to_run(manifest):
    assert [agent["mode"] for agent in agents(manifest, promotions={"scribe": {}})] == ["enforce", "enforce"]
    assert agents(manifest) == manifest == agents(manifest, promotions={})


def test_the_replay_of_what_was_not_resolved_is_an_error(manifest):
    assert set(agent_replay(manifest)) == {"scribe", "scout"}
    with pytest.raises(AnsibleFilterError, match=r"cordon\.agent_host\.agents"):
        agent_replay([{"name": "scribe"}])


def test_a_promotion_that_holds_passes_and_tells(facts_of, record):
    found = facts_of({"scribe": record})
    assert (found["basis"], found["faults"], found["by"], found["window_days"]) == ("promoted", [], "olga", 15.0)
    assert found["at"].endswith("UTC") and len(found["shown"]) == 8 and found["replayed"] == [["git", "--version"]]
    assert status(found) == {"enforce-was-earned": "pass", "burn-in-ends": "pass"}


def test_what_the_manifest_orders_is_shown_as_such(facts_of):
    found = facts_of(None, agent=1)
    assert found["basis"] == "ordered"
    assert status(found) == {"enforce-was-earned": "pass", "burn-in-ends": "pass"}


SPOILS = {
    "no conditions": lambda record: record.pop("conditions"),
    "not a list": lambda record: record.update(conditions="all"),
    "one is missing": lambda record: record["conditions"].pop(),
    "one did not hold": lambda record: record["conditions"][3].update(met=False),
    "no window": lambda record: record.pop("window"),
    "a short window": lambda record: record["window"].update(since=record["window"]["until"] - 13 * DAY),
    "empty": lambda record: record.clear(),
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
def test_a_record_that_does_not_hold_fails_the_check(facts_of, record, spoil):
    spoil(record)
    found = facts_of({"scribe": record})
    assert found["basis"] == "promoted" and found["faults"]
    assert status(found)["enforce-was-earned"] == "fail"


def test_a_window_longer_than_it_was_asked_for_since_is_told(facts_of, record, manifest):
    manifest[0]["burn_in"]["days"] = 30
    assert facts_of({"scribe": record})["faults"] == ["its window was 15.0 days, and the manifest asks for 30"]


@pytest.mark.parametrize("text", ["{", "[]", '{"scribe": 1}'])
def test_promotions_that_cannot_be_read_pass_nothing(facts_of, text):
    found = facts_of(text)
    assert found["basis"] is None and "/etc/cordon/promotions.json" in found["unreadable"]
    assert status(found) == {"enforce-was-earned": "fail", "burn-in-ends": "fail"}


@pytest.mark.parametrize(("days", "wanted"), [(3, "pass"), (27.9, "pass"), (28.2, "fail")])
def test_a_burn_in_that_never_ends_is_shown(facts_of, days, wanted):
    found = facts_of(None, collected={"collecting_since": time.time() - days * DAY})
    assert found["basis"] == "burn-in"
    assert status(found) == {"enforce-was-earned": "pass", "burn-in-ends": wanted}


def test_before_events_are_collected_the_load_of_the_profile_counts(facts_of):
    loaded = {"cordon.scribe.main": {"since": time.time() - 2 * DAY}}
    assert facts_of(None, loaded=loaded)["burn_in_days"] == 2.0
    ended = {"collecting_since": time.time() - 90 * DAY, "ended": time.time() - 60 * DAY}
    assert facts_of(None, loaded=loaded, collected=ended)["burn_in_days"] == 2.0
    assert status(facts_of(None, collected="[]"))["burn-in-ends"] == "fail"


def test_the_hosts_own_manifest_is_read_with_the_modes_that_were_ordered(manifest):
    recorded = {"agents": _promotions.effective(manifest, {"scribe": {}}), "ordered": {"scribe": "burn_in", "scout": "enforce"}}
    assert [agent["mode"] for agent in _facts._ordered(recorded)] == ["burn_in", "enforce"]
