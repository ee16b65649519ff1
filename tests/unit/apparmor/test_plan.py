# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When something has to be written, loaded or removed, and why."""
from __future__ import annotations

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils._apparmor_plan import (
    Wanted,
    digest,
    explain,
    mistakes,
    new_record,
    plan,
)

TEXT = "profile cordon.a flags=(attach_disconnected) {\n}\n"
A = Wanted("cordon.a", "enforce", TEXT)
FILES = {"cordon.a": TEXT}
KERNEL = {"cordon.a": {"mode": "enforce", "hash": "1f"}}
RECORD = {"cordon.a": {"mode": "enforce", "hash": "1f", "source_sha256": digest(TEXT)}}
STANDS = {"wanted": [A], "files": FILES, "kernel": KERNEL, "record": RECORD}


def test_nothing_is_done_where_all_three_agree():
    assert not plan(**STANDS).anything()


def test_a_kernel_without_hashes_is_compared_by_mode_and_text():
    kernel, record = {"cordon.a": {"mode": "enforce", "hash": None}}, {"cordon.a": {**RECORD["cordon.a"], "hash": None}}
    assert not plan([A], FILES, kernel, record).anything()


@pytest.mark.parametrize(("change", "write", "load", "remove", "why"), [
    ({"files": {}}, ["cordon.a"], [], [], None),
    ({"files": {"cordon.a": TEXT + "#"}}, ["cordon.a"], [], [], None),
    ({"files": {"cordon.a": None}}, ["cordon.a"], [], [], None),
    ({"kernel": {}}, [], ["cordon.a"], [], "does not have it"),
    ({"kernel": {"cordon.a": {"mode": "complain", "hash": "1f"}}}, [], ["cordon.a"], [], "in complain"),
    ({"kernel": {"cordon.a": {"mode": "enforce", "hash": "2e"}}}, [], ["cordon.a"], [], "another policy"),
    ({"kernel": {"cordon.a": {"mode": "enforce", "hash": None}}}, [], ["cordon.a"], [], "another policy"),
    ({"record": {}}, [], ["cordon.a"], [], "not recorded"),
    ({"record": {"cordon.a": {**RECORD["cordon.a"], "source_sha256": "0"}}}, [], ["cordon.a"], [], "text is new"),
    ({"wanted": []}, [], [], ["cordon.a"], None),
    ({"wanted": [], "files": {}}, [], [], ["cordon.a"], None),
    ({"wanted": [], "kernel": {}}, [], [], ["cordon.a"], None),
    ({"kernel": {**KERNEL, "cordon.b": {"mode": "enforce", "hash": "1"}}}, [], [], ["cordon.b"], None),
    ({"kernel": {**KERNEL, "cordon.a//null-/usr/bin/x": {"mode": "complain", "hash": None}}}, [], [], [], None),
    ({"kernel": None}, [], [], [], None),
    ({"kernel": None, "files": {}}, ["cordon.a"], [], [], None),
])
def test_a_difference_is_mended(change, write, load, remove, why):
    found = plan(**{**STANDS, **change})
    assert (found.write, found.load, found.remove) == (write, load, remove)
    assert not why or why in found.reasons["cordon.a"]


@pytest.mark.parametrize(("profile", "part"), [
    (Wanted("firefox", "enforce", "profile firefox {\n}\n"), "not a name of ours"),
    (Wanted("cordon.a/../../x", "enforce", ""), "not a name of ours"),
    (Wanted("cordon.a\n", "enforce", TEXT), "not a name of ours"),
    (Wanted("cordon.b", "enforce", TEXT), "exactly that one"),
    (Wanted("cordon.a", "enforce", TEXT + "profile cordon.b {\n}\n"), "exactly that one"),
    (Wanted("cordon.a", "complain", TEXT), "mode is complain"),
    (Wanted("cordon.a", "enforce", TEXT.replace("attach", "complain, attach")), "mode is enforce"),
])
def test_a_request_that_does_not_fit_is_refused(profile, part):
    assert part in "; ".join(mistakes([profile]))


def test_a_profile_given_twice_is_refused():
    assert mistakes([A, A]) == ["profile cordon.a is given 2 times"]


def test_the_record_holds_what_the_kernel_has():
    gap = [{"class": "userns"}]
    expected = {"cordon.a": {**RECORD["cordon.a"], "since": 5.0}}
    assert new_record([A], KERNEL, {}, [], 5.0, gap) == {"enforced": True, "profiles": expected, "unenforced": gap}
    assert new_record([A], None, {}, [], 5.0, []) == {"enforced": False, "profiles": {}, "unenforced": []}


@pytest.mark.parametrize(("change", "loaded", "since"), [
    ({}, [], 3.0),
    ({}, ["cordon.a"], 5.0),
    ({"mode": "complain"}, [], 5.0),
    ({"hash": "2e"}, [], 5.0),
    ({"source_sha256": "0"}, [], 5.0),
    ({"since": None}, [], 5.0),
    ({"since": "x"}, [], 5.0),
])
def test_since_stays_while_nothing_changes(change, loaded, since):
    known = {"cordon.a": {**RECORD["cordon.a"], "since": 3.0, **change}}
    assert new_record([A], KERNEL, known, loaded, 5.0, [])["profiles"]["cordon.a"]["since"] == since


@pytest.mark.parametrize(("output", "said"), [
    ("AppArmor parser error for /tmp/x/cordon.a in profile /tmp/x/cordon.a at line 2: syntax error, "
     "unexpected TOK_ID\n",
     "profile cordon.a, line 2: syntax error, unexpected TOK_ID (}),"),
    ("AppArmor parser error for /tmp/x/cordon.a at line 1: Could not open 'abi/9'\n",
     "profile cordon.a, line 1: Could not open 'abi/9' (profile"),
    ("Unable to replace \"cordon.a\".  Permission denied\n", "Unable to replace"),
    ("", "it gave no reason"),
])
def test_the_parser_s_complaint_names_profile_and_line(output, said):
    assert explain(output, {"cordon.a": TEXT}).startswith(said.rstrip(","))
