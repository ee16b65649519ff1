# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the person on call types and reads."""

from __future__ import annotations

import argparse
import json

import pytest

from ansible_collections.cordon.agent_host.plugins.lookup import host_library
from cordon import control, events, preflight, sessions, status, table

RESULT = {
    "id": "vault-open",
    "title": "the vault is open",
    "control": "vault",
    "scope": "agent",
    "agent": "scout",
    "status": "pass",
    "expected": True,
    "observed": True,
    "compare": "equal",
    "remedy": "systemctl start cordon-vault@scout",
    "controls": {},
}
FAILING = {**RESULT, "status": "fail", "observed": False}
WAIVED = {**RESULT, "control": "apparmor", "status": "not_enforced", "observed": "this kernel does not offer apparmor"}
GAP = {"class": "userns", "why": "this kernel does not have it", "control": "RestrictNamespaces=", "remains": ""}
FACTS = {
    "collected_at": "now",
    "apparmor": {"unenforced": [GAP]},
    "agents": {"scout": {"unit": {"ActiveState": "active"}, "processes": [{}, {}]}},
}
AGENT = {"name": "scout", "mode": "enforce"}


def test_preflight_lets_pass_what_passes_or_was_waived():
    assert preflight.refusal("scout", [RESULT, WAIVED]) == ""


@pytest.mark.parametrize("status_", ["fail", "error"])
def test_preflight_names_what_fails_and_the_remedy(status_):
    text = preflight.refusal("scout", [RESULT, {**FAILING, "status": status_}])
    assert "1 of 2" in text and "the vault is open" in text and "systemctl start cordon-vault@scout" in text


def test_preflight_without_checks_refuses():
    assert "no check" in preflight.refusal("scout", [])


def test_status_shows_each_control_and_how_to_mend_it():
    text = status.text(status.report([AGENT], FACTS, [FAILING, WAIVED]))
    row = next(line for line in text.splitlines() if line.startswith("scout"))
    assert row.split()[:4] == ["scout", "enforce", "active", "2"]
    assert "FAILS" in row and "not enforced" in row
    assert "remedy: systemctl start cordon-vault@scout" in text
    assert [line.split() for line in text.splitlines() if "userns" in line] == [["userns", "RestrictNamespaces="]]


def test_status_as_data_says_the_same():
    report = json.loads(json.dumps(status.report([AGENT], FACTS, [FAILING, WAIVED])))
    assert report["agents"][0]["controls"]["vault"] == "fail"
    assert report["agents"][0]["controls"]["firewall"] is None
    assert [result["id"] for result in report["attention"]] == ["vault-open", "vault-open"]


def test_a_session_goes_through_entry_and_has_its_own_unit():
    first, second = (sessions.unit("scout") for _ in range(2))
    assert first != second and first.startswith("cordon-session-scout-")
    argv = sessions.argv("scout", first, ["id", "-u"], terminal=False)
    assert argv[argv.index("--") :] == ["--", "/usr/bin/env", "--", "/usr/lib/cordon/entry", f"--unit={first}", "id", "-u"]
    assert "--pipe" in argv and "--pty" in sessions.argv("scout", first, ["id"], terminal=True)


@pytest.mark.parametrize("text", ["4x", "soon", ""])
def test_since_refuses_what_is_no_time(text):
    with pytest.raises(argparse.ArgumentTypeError, match="30m"):
        control.since(text)


def test_since_keeps_a_time():
    assert control.since("2026-11-23T04:00") == "2026-11-23T04:00"


def write_log(path, *entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries) + '{"half')


def test_events_come_from_the_rotated_file_too_and_a_half_written_line_is_left(tmp_path):
    log = tmp_path / "events.jsonl"
    write_log(tmp_path / "events.jsonl.1", {"time": "2026-01-01T00:00", "agent": "scout", "outcome": "denied"})
    write_log(
        log, {"time": "2026-01-02", "agent": "other"}, {"time": "2026-01-03", "agent": "scout", "outcome": "allowed"}
    )
    assert [event["time"] for event in events.read(agent="scout", log=str(log))] == ["2026-01-01T00:00", "2026-01-03"]
    assert [event["time"] for event in events.read(since="2026-01-02", log=str(log))] == ["2026-01-02", "2026-01-03"]
    assert len(events.read(denied=True, log=str(log))) == 1


def test_control_characters_of_an_agent_do_not_reach_the_terminal():
    event = {"kind": "process", "argv": ["printf", "\x1b[2J\n"], "agent": "scout", "time": "t"}
    assert "\x1b" not in events.rows([event])


def test_a_table_has_straight_columns():
    lines = table.table(["A", "B"], [["long cell", "x"], ["s", "y"]]).splitlines()
    assert {line.index(mark) for line, mark in zip(lines, "Bxy")} == {11}


def test_the_library_holds_all_that_its_modules_import():
    sources = host_library.closure(["_facts", "_checks"])
    for source in sources.values():
        assert host_library.siblings(source) <= set(sources)
    assert {"_facts", "_checks", "_facts_source"} <= set(sources)
