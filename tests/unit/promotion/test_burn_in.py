# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate's conditions: each can fail, says its figures, and takes nothing that is missing for a yes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.cordon.agent_host.plugins.module_utils import _burn_in, _burn_in_seen, _promotions
from ansible_collections.cordon.agent_host.plugins.module_utils._burn_in_seen import DAY
from ansible_collections.cordon.agent_host.plugins.plugin_utils._catalogue import load_catalogue

from .conftest import NOW, stamp, well

LATE = NOW - 3 * DAY


def judge(host: Any) -> list[dict[str, Any]]:
    return _burn_in.conditions(host.agent, host.seen(), host.rendered, host.replay)


def missing(host: Any) -> set[str]:
    return {one["id"] for one in _burn_in.missing(judge(host))}


def observed(host: Any, name: str) -> str:
    (found,) = (one for one in judge(host) if one["id"] == name)
    return found["observed"] + " " + found["remedy"]


def test_a_burn_in_in_which_all_went_well_lacks_nothing(host):
    found = judge(host)
    assert [one["id"] for one in found] == list(_burn_in.IDS)
    assert [one for one in found if one["met"] is not True or one["remedy"]] == []
    assert _burn_in.lines("scribe", found) == ["scribe: ready, all 8 conditions hold"]


def put(path: str, value: Any):
    """A spoiler: assign VALUE at PATH of the host, e.g. collected.lost."""

    def spoil(host: Any) -> None:
        place, *keys = path.split("/")
        if not keys:
            setattr(host, place, value)
            return
        here = getattr(host, place)
        for key in keys[:-1]:
            here = here[key]
        here[keys[-1]] = value

    spoil.__name__ = f"{path} = {value!r}"[:60]
    return spoil


AGENT = "facts/agents/scribe/"
FAILURES = [
    # What is wrong, what does not hold, a word of what is said.
    (put("record/profiles/cordon.scribe.git/since", LATE), {"window"}, "3.0 of 14 days since 2026-11-"),
    (put("collected/collecting_since", LATE), {"window"}, "the collecting of events began"),
    (put("now", NOW - 2 * DAY), {"window", "complete"}, "wait until"),
    (put("collected/days", ["2026-01-01"]), {"active"}, "active on 1 days of the window"),
    (put("collected/last_exec", NOW - 8 * DAY), {"active"}, "lately"),
    (put("collected/last_exec", None), {"active"}, "last never"),
    (put("collected/lost", [{"at": LATE, "what": "7 records were lost"}]), {"window", "complete"}, "7 records were lost"),
    (put("collected/audit_lost", 1), {"complete"}, "lost 1 audit records just now"),
    (put("writer/collected_until", stamp(NOW - 60)), {"complete"}, "collected what happened until 2026-"),
    (put("writer/audit_enabled", False), {"complete"}, "the kernel does not audit"),
    (put("writer/audit_daemon", False), {"complete"}, "no audit daemon"),
    (put("rendered", {"cordon.scribe": "text-cordon.scribe"}), {"policy"}, "the manifest does not give it"),
    (put("rendered/cordon.scribe.main", "another"), {"policy"}, "its text is not the one that was loaded"),
    (put("facts/apparmor/profiles/cordon.scribe.main", {"mode": "complain", "hash": "x"}), {"policy"}, "another policy"),
    (put("facts/apparmor/profiles/cordon.scribe", {"mode": "complain", "hash": "hash-cordon.scribe"}), {"policy"},
     "the kernel has it in complain"),
    (put("facts/apparmor/profiles/cordon.scribe.extra", {"mode": "complain", "hash": "x"}), {"policy"},
     "cordon.scribe.extra: the manifest does not give it"),
    (put("applied/limits", {}), {"policy"}, "was not applied: limits"),
    (put("facts/support/apparmor", False), {"kernel"}, "no AppArmor"),
    (put("facts/apparmor/features", ["domain/stack"]), {"kernel"}, "the kernel lacks"),
    (put("facts/apparmor/unenforced", None), {"kernel"}, "not recorded"),
    (put(AGENT + "weakened", ["pid 9"]), {"kernel"}, "does not hold pid 9"),
    (put(AGENT + "firewall", {"bound": None}), {"kernel"}, "packet filter"),
    (put(AGENT + "misplaced", ["pid 9 (sh): unconfined"]), {"confined"}, "pid 9 (sh): unconfined"),
    (put(AGENT + "processes", []), {"confined"}, "nothing of the agent runs"),
    (put("replay", None), {"replay"}, "not run"),
    (put("replay", []), {"replay"}, "nothing to replay"),
    (put("replay", [{"argv": ["make", "x"], "exit": 2, "seconds": 1, "acts": [], "said": "no rule"}]), {"replay"},
     "make x: exit code 2: no rule"),
    (put("replay", [{"argv": ["a"], "exit": 0, "seconds": 1, "acts": None, "said": ""}]), {"replay"}, "did not catch up"),
    (put("replay", [{"argv": ["a"], "exit": 0, "seconds": 1, "acts": ["open r /x"], "said": ""}]), {"replay"},
     "enforce would refuse open r /x"),
]


@pytest.mark.parametrize(("spoil", "wanted", "said"), FAILURES, ids=[each[0].__name__ for each in FAILURES])
def test_each_thing_that_is_wrong_is_found_and_told(host, spoil, wanted, said):
    spoil(host)
    if "complete" in wanted and host.now != NOW:
        host.writer["collected_until"] = stamp(host.now - 60)
    assert missing(host) == wanted
    text = " ".join(one["title"] + ": " + one["observed"] + one["remedy"] for one in _burn_in.missing(judge(host)))
    assert said in text
    assert all(one["remedy"] for one in _burn_in.missing(judge(host)))


def test_every_condition_can_fail_alone():
    assert {next(iter(wanted)) for _spoil, wanted, _said in FAILURES if len(wanted) == 1} | {"unresolved"} == set(_burn_in.IDS)


def test_an_act_that_enforce_would_refuse_is_unresolved_while_it_is_in_the_window(host, act):
    host.collected["acts"].append(act("allowed", LATE, 4))
    assert missing(host) == {"unresolved"}
    assert "open r /etc/fstab by /usr/bin/cat in cordon.scribe.main" in observed(host, "unresolved")
    host.collected["acts"][-1]["last"] = NOW - 20 * DAY
    assert missing(host) == set()


@pytest.mark.parametrize("key", ["last", "verdict"])
def test_an_act_that_cannot_be_read_counts_against_the_agent(host, act, key):
    host.collected["acts"] = [dict(act("allowed", LATE, 1), **{key: "?"})]
    assert missing(host) == {"unresolved"}


def test_a_collecting_that_has_ended_or_a_time_that_is_none_leaves_no_window(host):
    host.collected["ended"] = NOW - 60
    assert missing(host) == {"window", "active", "unresolved"}
    host.collected.update(ended=None, collecting_since=0)
    assert missing(host) == {"window", "active", "unresolved"}


def test_a_loss_restarts_the_window(host):
    host.collected["lost"] = [{"at": NOW - 14.5 * DAY, "what": "old"}]
    assert missing(host) == set()
    assert "when old." in observed(host, "window")


def test_the_first_day_of_the_window_is_a_day_of_it_only_when_something_ran_after_its_beginning(host):
    begin = _burn_in_seen.began(host.agent, host.seen()).at
    first = _burn_in_seen.day(begin)
    assert _burn_in._active_days([first], begin, begin - 1) == []
    assert _burn_in._active_days([first], begin, begin + 1) == [first]


def test_a_kernel_without_hashes_is_judged_by_modes_and_texts(host):
    for where in (host.record["profiles"], host.facts["apparmor"]["profiles"]):
        for known in where.values():
            known["hash"] = None
    assert missing(host) == set()


def test_what_complain_mode_adds_below_a_profile_is_no_profile_of_its_own(host):
    host.facts["apparmor"]["profiles"]["cordon.scribe.main//null-/usr/bin/x"] = {"mode": "complain", "hash": None}
    assert missing(host) == set()


def test_another_agent_whose_name_begins_the_same_is_another_agent(host):
    host.facts["apparmor"]["profiles"]["cordon.scribe_two"] = {"mode": "enforce", "hash": "x"}
    host.record["profiles"]["cordon.scribe_two"] = {"mode": "enforce", "hash": "y", "source_sha256": "z", "since": NOW}
    assert missing(host) == set()


@pytest.mark.parametrize("place", ["collected", "record", "writer", "applied", "rendered", "replay"])
def test_what_could_not_be_read_is_never_met(host, place):
    setattr(host, place, None)
    assert missing(host)


def every_leaf(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inside in items:
        found += every_leaf(inside, (*path, key))
    return found


SPOILT = ["collected", "record", "writer", "facts"]
NOBODY_MINDS = {
    # Not evidence, or of other acts: a denied act, and one from before the window.
    ("collected", "agent"), ("collected", "boot"), ("collected", "execs"), ("record", "enforced"),
    ("facts", "agents", "scribe", "processes", 0), ("facts", "agents", "scribe", "processes", 0, "pid"),
}


def leaves() -> list[tuple[Any, ...]]:
    host = well(AGENT_OF_LEAVES)
    found = [(place, *path) for place in SPOILT for path in every_leaf(getattr(host, place))]
    return [path for path in found if path not in NOBODY_MINDS and len(path) > 1
            and path[:2] not in (("collected", "acts"), ("collected", "days"))
            and path[:3] != ("facts", "apparmor", "unenforced")]


AGENT_OF_LEAVES: dict[str, Any] = {
    "name": "scribe", "mode": "burn_in", "tools": [], "burn_in": {"days": 14, "active_days": 3, "replay": []}}


@pytest.mark.parametrize("path", leaves(), ids=lambda path: "/".join(map(str, path)))
def test_each_value_that_is_lost_keeps_the_agent_in_burn_in(path):
    host = well(AGENT_OF_LEAVES)
    here = getattr(host, path[0])
    for key in path[1:-1]:
        here = here[key]
    here[path[-1]] = None
    assert missing(host), path


@given(spoils=st.lists(st.sampled_from(FAILURES), min_size=1, max_size=4))
def test_no_promotion_whatever_else_holds_while_one_condition_does_not(spoils):
    host = copy.deepcopy(well(AGENT_OF_LEAVES))
    done = []
    for spoil, _wanted, _said in spoils:
        try:
            spoil(host)
            done.append(spoil)
        except (TypeError, KeyError):  # what it would spoil is gone already
            continue
    assert missing(host)
    assert "not ready" in _burn_in.lines("scribe", judge(host))[0]


@given(verdict=st.sampled_from(_burn_in.IDS), met=st.sampled_from([False, None, "yes", 1]))
def test_a_record_with_a_condition_that_did_not_hold_is_faulty(verdict, met):
    found = [{"id": name, "met": met if name == verdict else True} for name in _burn_in.IDS]
    window = {"since": 1000.0, "until": 1000.0 + 14 * DAY}
    assert _promotions.faults({"window": window, "conditions": found}, 14) == [f"condition {verdict}: it did not hold"]


def test_the_replay_is_the_manifests_or_the_proof_of_every_tool(host):
    catalogue = load_catalogue()
    found = _burn_in.commands(host.agent, catalogue)
    assert catalogue["git"]["proof"] in found and catalogue["shell"]["proof"] in found
    host.agent["burn_in"]["replay"] = [["make", "test"]]
    assert _burn_in.commands(host.agent, catalogue) == [["make", "test"]]


def test_many_offenders_are_counted_not_listed(host):
    host.facts["agents"]["scribe"]["misplaced"] = [f"pid {number}" for number in range(9)]
    assert "pid 4; and 4 more" in observed(host, "confined")
