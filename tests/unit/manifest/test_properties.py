# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever is put in, the filter answers or reports mistakes, and no control character comes out."""

from __future__ import annotations

import copy
from typing import Any

from ansible.errors import AnsibleFilterError
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.cordon.agent_host.plugins.filter.agents import agents as resolve

WORDS = st.sampled_from(
    ["/usr/bin/x", "git", "tcp", "ssh", "10.0.0.0/8", "::/0", "4G", "200%", "4h", "enforce", "NAME", "a_1"]
    + ["..", "\n", "\0"]
)
TEXT = st.one_of(st.text(), WORDS, st.builds(lambda one, two: one + two, WORDS, st.text(max_size=3)))
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.dates(), st.binary(), TEXT)
KEYS = st.one_of(
    st.sampled_from(
        ["name", "user", "home", "command", "tools", "environment", "workspace", "path", "read_only", "secrets"]
        + ["broker", "egress", "cidr", "inspect", "networks", "requests"]
        + ["port", "protocol", "log", "critical_apis", "limits", "cpu", "memory", "tasks"]
        + ["gpu", "devices", "monitoring", "silence", "mode", "read_write", "execute", "programs", "denied", "inner_sandbox"]
        + ["burn_in", "days", "active_days", "replay", "unconfined", "vault", "unlock", "writable", "idle"]
    ),
    SCALARS,
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=6)),
    max_leaves=25,
)
HOSTS = st.one_of(TEXT, st.from_regex(r"(\*\.)?[a-zA-Z0-9*_-]{1,5}(\.[a-zA-Z0-9_-]{1,5}){1,3}\.?", fullmatch=True))
EGRESS = st.one_of(
    st.fixed_dictionaries({"cidr": TEXT}, optional={"port": SCALARS, "protocol": TEXT, "log": SCALARS, "name": TEXT}),
    st.fixed_dictionaries({"name": HOSTS}, optional={"port": SCALARS, "protocol": TEXT, "networks": st.lists(TEXT, max_size=2)}),
)
#: Mappings with the right keys, whose values are now and then right too.
AGENTS = st.fixed_dictionaries(
    {"name": TEXT, "command": st.lists(TEXT, max_size=3)},
    optional={
        "tools": st.lists(TEXT, max_size=2),
        "environment": st.dictionaries(TEXT, TEXT, max_size=3),
        "workspace": st.fixed_dictionaries({"read_only": st.lists(TEXT, max_size=2)}),
        "denied": st.lists(TEXT, max_size=2),
        "burn_in": st.dictionaries(KEYS, ANYTHING, max_size=3),
        "secrets": st.lists(st.fixed_dictionaries({"name": TEXT}), max_size=2),
        "vault": st.dictionaries(KEYS, SCALARS, max_size=3),
        "egress": st.lists(EGRESS, max_size=2),
        "limits": st.dictionaries(KEYS, SCALARS, max_size=3),
        "critical_apis": st.lists(HOSTS, max_size=2),
        "mode": TEXT,
    },
)


# The machine may be busy: how long one example takes says nothing.
PATIENT = settings(deadline=None)


def outcome(value: Any) -> list[dict[str, Any]] | None:
    """The resolved manifest; None if mistakes were reported, each on one printable line."""
    try:
        return resolve(value)
    except AnsibleFilterError as error:
        count, *lines = str(error).splitlines()
        assert count == ("1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes") + " in the manifest:"
        for line in lines:
            assert line.startswith("agents"), line
            assert line.isprintable(), line
        return None


def texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = [*value, *value.values()]
    return [text for item in value for text in texts(item)] if isinstance(value, list) else []


@PATIENT
@given(ANYTHING)
def test_no_input_breaks_the_filter(value: Any) -> None:
    outcome(value)


@PATIENT
@given(st.lists(AGENTS, max_size=3))
def test_nothing_that_comes_out_holds_a_control_character(value: list[dict[str, Any]]) -> None:
    for text in texts(outcome(copy.deepcopy(value))):
        assert text.isprintable()


@PATIENT
@given(TEXT, TEXT, TEXT, TEXT)
def test_text_in_every_place_comes_out_whole_or_not_at_all(argument: str, value: str, path: str, cidr: str) -> None:
    agent = {
        "name": "a",
        "command": ["/bin/x", argument],
        "environment": {"NAME": value},
        "workspace": {"read_only": [path]},
        "egress": [{"cidr": cidr}],
    }
    resolved = outcome([agent])
    if resolved is not None:
        assert resolved[0]["command"][1] == argument
        assert resolved[0]["environment"] == {"NAME": value}
        assert resolved[0]["workspace"]["read_only"] == [path]
        assert not set(path) & set(" \t\"'*?[]{},;#\\$%^()<>|&!~`")
        assert all(text.isprintable() for text in texts(resolved))


@PATIENT
@given(st.lists(AGENTS, max_size=3))
def test_resolving_twice_is_resolving_once(value: list[dict[str, Any]]) -> None:
    resolved = outcome(value)
    if resolved is not None:
        assert resolve(resolved) == resolved
