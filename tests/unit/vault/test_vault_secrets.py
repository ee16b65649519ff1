# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which secrets differ, and how every mistake is named at once without a value."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.cordon.agent_host.plugins.module_utils import _vault_secrets as secrets

Stored = secrets.Stored


@pytest.mark.parametrize(
    ("declared", "values", "says"),
    [
        ({"scout": ["token"]}, {"scout": {"token": "v"}}, []),
        ({"scout": []}, {}, []),
        ({"scout": []}, {"scout": None}, []),
        ({"scout": ["token"]}, {}, ["vault_secrets.scout.token: no value"]),
        ({"scout": ["token"]}, {"scout": {"token": ""}}, ["vault_secrets.scout.token: the value is empty"]),
        ({"scout": ["token"]}, {"scout": {"token": 5}}, ["vault_secrets.scout.token: the value is of type int"]),
        ({"scout": ["token"]}, {"scout": {"token": None}}, ["token: the value is of type NoneType"]),
        ({"scout": []}, {"scout": {"x": "v"}}, ["vault_secrets.scout.x: the manifest does not declare it"]),
        (
            {"scout": []},
            {"scuot": {}},
            ["vault_secrets.scuot: agent_host_agents has no such agent (did you mean scout?)"],
        ),
        ({"scout": ["a"]}, {"scout": "text"}, ["vault_secrets.scout: give a mapping"]),
        (
            {"scout": ["a", "b"], "scribe": ["c"]},
            {"scout": {"b": 1, "d": "v"}, "other": {}},
            [
                "vault_secrets.other",
                "scout.a: no value",
                "scout.d: the manifest",
                "scout.b: the value",
                "scribe.c: no value",
            ],
        ),
    ],
)
def test_every_mistake_is_named_with_its_path(
    declared: dict[str, list[str]], values: dict[str, Any], says: list[str]
) -> None:
    found = secrets.mistakes(declared, values)
    assert len(found) == len(says), found
    for mistake, words in zip(found, says):
        assert words in mistake


def test_a_mistake_never_shows_a_value() -> None:
    given_values = {"scout": {"token": 77123, "other": "hunter2"}, "x": {"y": "hunter3"}}
    said = " ".join(secrets.mistakes({"scout": ["token", "more"]}, given_values))
    for value in ("77123", "hunter2", "hunter3"):
        assert value not in said


@pytest.mark.parametrize(
    ("wanted", "present", "removed", "changes"),
    [
        ({"a": "1"}, {"a": Stored(0o400, "1")}, [], []),
        ({"a": "1"}, {}, [], [("a", "absent", "set")]),
        ({"a": "1"}, {"a": Stored(0o400, "2")}, [], [("a", "set", "set to another value")]),
        ({"a": "1"}, {"a": Stored(0o400, "1\n")}, [], [("a", "set", "set to another value")]),
        ({"a": "1"}, {"a": Stored(0o644, "1")}, [], [("a", "mode 0644", "mode 0400")]),
        ({"a": "1"}, {"a": Stored(0, None)}, [], [("a", "unreadable", "set")]),
        # The right value under a second name, or in the agent's own file: the agent could change it any time.
        ({"a": "1"}, {"a": Stored(0o400, "1", sole=False)}, [], [("a", "not root's alone", "set")]),
        ({}, {}, ["a"], [("a", "set", "removed")]),
        (
            {"b": "2", "a": "1"},
            {},
            ["c"],
            [("a", "absent", "set"), ("b", "absent", "set"), ("c", "set", "removed")],
        ),
    ],
)
def test_only_what_differs_is_changed(
    wanted: dict[str, str], present: dict[str, secrets.Stored], removed: list[str], changes: list[tuple[str, str, str]]
) -> None:
    assert [tuple(change) for change in secrets.changes(wanted, present, removed)] == changes


values = st.dictionaries(st.text("ab", min_size=1, max_size=2), st.text(min_size=1, max_size=4), max_size=4)


@given(values, values)
def test_applying_the_changes_gives_exactly_the_wanted_secrets(wanted: dict[str, str], before: dict[str, str]) -> None:
    present = {name: Stored(0o400, value) for name, value in before.items()}
    for change in secrets.changes(wanted, present, set(before) - set(wanted)):
        if change.name in wanted:
            present[change.name] = Stored(0o400, wanted[change.name])
        else:
            del present[change.name]
    assert {name: stored.value for name, stored in present.items()} == wanted
    assert secrets.changes(wanted, present, []) == []


def test_a_diff_has_names_and_no_values() -> None:
    changes = secrets.changes(
        {"token": "hunter2"}, {"token": Stored(0o400, "hunter1"), "old": Stored(0o400, "hunter0")}, ["old"]
    )
    shown = secrets.diff({"scout": changes})
    assert shown == {
        "before": "scout/token: set\nscout/old: set\n",
        "after": "scout/token: set to another value\nscout/old: removed\n",
    }


def test_the_record_has_changes_of_values_and_nothing_else() -> None:
    changes = [
        secrets.Change("a", "absent", "set"),
        secrets.Change("b", "set", "set to another value"),
        secrets.Change("c", "mode 0644", "mode 0400"),
        secrets.Change("d", "set", "removed"),
        secrets.Change(".a.0123456789ab", "set", "removed"),
    ]
    assert secrets.acts("scout", changes) == [
        ("scout", "secret a", "set"),
        ("scout", "secret b", "changed"),
        ("scout", "secret d", "removed"),
    ]
