# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judging: what passes, what fails, and above all what must not pass."""

from __future__ import annotations

import builtins

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils import _checks

BASE = {
    "id": "x",
    "title": "X holds",
    "scope": "host",
    "control": "agent",
    "expression": "host.x",
    "expected": 1,
    "controls": {"soc2": ["CC6.1"]},
    "remedy": "mend {agent}",
}


def check(**changes):
    made = dict(BASE, **changes)
    return {key: value for key, value in made.items() if value is not ...}


def judge(facts, **changes):
    return _checks.evaluate([check(**changes)], dict({"support": {}, "agents": {}}, **facts))[0]


@pytest.mark.parametrize(
    ("observed", "compare", "expected", "status"),
    [
        (1, "equal", 1, "pass"),
        (2, "equal", 1, "fail"),
        (None, "equal", 1, "fail"),
        (None, "equal", None, "pass"),
        (0, "equal", None, "fail"),
        (1, "equal", True, "fail"),
        (True, "equal", 1, "fail"),
        (0, "equal", False, "fail"),
        ([], "equal", [], "pass"),
        (None, "equal", [], "fail"),
        ([1], "equal", [True], "fail"),
        ({"a": [1]}, "equal", {"a": [1]}, "pass"),
        ({"a": 1}, "equal", {"a": 1, "b": None}, "fail"),
        ({"a": None}, "equal", {"a": False}, "fail"),
        (90, "at_least", 90, "pass"),
        (89, "at_least", 90, "fail"),
        (None, "at_least", 90, "fail"),
        ("91", "at_least", 90, "fail"),
        (True, "at_least", 0, "fail"),
        (3, "at_most", 3, "pass"),
        (4, "at_most", 3, "fail"),
    ],
)
def test_observed_is_compared_with_expected_without_leniency(observed, compare, expected, status):
    assert judge({"x": observed}, compare=compare, expected=expected)["status"] == status


@pytest.mark.parametrize(("recorded", "status"), [("abc", "pass"), ("abd", "fail"), (None, "fail")])
def test_what_was_recorded_is_expected_and_a_missing_record_fails(recorded, status):
    result = judge({"x": "abc", "r": recorded}, expected=..., expected_from="host.r")
    assert (result["status"], result["expected"]) == (status, recorded)


def test_nothing_observed_and_nothing_recorded_do_not_agree():
    assert judge({"x": None, "r": None}, expected=..., expected_from="host.r")["status"] == "fail"


def test_parts_that_are_null_on_both_sides_do_not_agree():
    facts = {"x": {"a": 1, "b": [None]}, "r": {"a": 1, "b": [None]}}
    assert judge(facts, expected=..., expected_from="host.r")["status"] == "fail"


def test_an_expression_that_cannot_be_evaluated_is_an_error_and_says_why():
    result = judge({"x": None}, expression="length(host.x)", expected=0)
    assert result["status"] == "error"
    assert "length()" in result["observed"]


@pytest.mark.parametrize(
    ("supported", "waived", "status"),
    [
        (True, [], "pass"),
        (True, ["apparmor"], "pass"),
        (False, ["apparmor"], "not_enforced"),
        (False, ["audit"], "fail"),
        (False, [], "fail"),
        (None, ["apparmor"], "error"),
        ("declined", [], "not_enforced"),
    ],
)
def test_what_the_kernel_lacks_is_not_enforced_only_where_that_was_accepted(supported, waived, status):
    facts = {"x": 1, "support": {"apparmor": supported}, "allow_unenforced": waived}
    assert judge(facts, needs="apparmor")["status"] == status


def test_a_waiver_does_not_excuse_a_check_that_needs_nothing_of_the_kernel():
    facts = {"x": 2, "support": {"apparmor": False}, "allow_unenforced": ["apparmor", "audit"]}
    assert judge(facts)["status"] == "fail"


def test_agent_checks_are_judged_per_agent_and_name_it_in_the_remedy():
    facts = {"agents": {"b": {"x": 2}, "a": {"x": 1}}}
    results = _checks.evaluate([check(scope="agent", expression="agent.x"), check(id="h")], facts)
    assert [(r["id"], r["agent"], r["status"], r["remedy"]) for r in results] == [
        ("x", "a", "pass", "mend a"),
        ("x", "b", "fail", "mend b"),
        ("h", None, "fail", "mend NAME"),
    ]


def test_one_agent_can_be_judged_alone_and_a_preflight_takes_its_own_checks_only():
    facts = {"x": 1, "agents": {"a": {}, "b": {}}}
    checks = [check(scope="agent", expression="agent.x"), check(id="p", preflight=True)]
    assert [r["agent"] for r in _checks.evaluate(checks, facts, agent="b")] == ["b", None]
    assert [r["id"] for r in _checks.evaluate(checks, facts, agent="b", preflight=True)] == ["p"]


def test_an_agent_without_facts_is_refused_by_name():
    with pytest.raises(_checks.ChecksError, match=r"'ghost'.*manifest"):
        _checks.evaluate([check()], {"agents": {}}, agent="ghost")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"remedy": ...}, "x: remedy is missing"),
        ({"expect": 1}, "x: expect is not a key"),
        ({"scope": "fleet"}, "x: scope: 'fleet' is not one of host, agent"),
        ({"needs": "selinux"}, "x: needs: 'selinux'"),
        ({"compare": "<"}, "x: compare: '<'"),
        ({"expected": ...}, "x: give exactly one of expected and expected_from"),
        ({"expected_from": "host.y"}, "x: give exactly one"),
        ({"expression": "host.["}, "x: expression: "),
    ],
)
def test_a_malformed_check_is_named_with_its_mistake(changes, message):
    with pytest.raises(_checks.ChecksError) as caught:
        _checks.evaluate([check(**changes)], {"agents": {}})
    assert message in str(caught.value)


def test_every_mistake_is_reported_at_once():
    mistakes = _checks.validate([check(id="a", needs="x"), check(id="a", scope="x")])
    assert [mistake.split(":")[0] for mistake in mistakes] == ["a", "a", "a"]
    assert mistakes[2] == "a: this id is used twice"


def test_a_missing_jmespath_names_the_package_of_host_and_controller(monkeypatch):
    real = builtins.__import__
    monkeypatch.setattr(
        builtins,
        "__import__",
        lambda name, *rest: (_ for _ in ()).throw(ImportError(name)) if name == "jmespath" else real(name, *rest),
    )
    with pytest.raises(_checks.ChecksError, match=r"python3-jmespath.*pip install jmespath"):
        _checks.evaluate([check()], {"agents": {}})


@pytest.mark.parametrize(
    ("statuses", "worst"),
    [
        (["pass", "not_enforced"], "not_enforced"),
        (["not_enforced", "error"], "error"),
        (["error", "fail"], "fail"),
        (["pass"], "pass"),
        ([], None),
    ],
)
def test_the_worst_status_is_the_one_that_asks_for_attention(statuses, worst):
    assert _checks.worst(statuses) == worst
