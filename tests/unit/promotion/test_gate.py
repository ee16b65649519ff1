# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate as the host itself shows it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from cordon import gate

from .conftest import NOW, PROFILES


@pytest.fixture
def here(host, tmp_path, monkeypatch) -> Any:
    """The well host, with its profiles as files; returns it."""
    for name in PROFILES:
        (tmp_path / name).write_text("text of " + name)
        host.record["profiles"][name]["source_sha256"] = hashlib.sha256(f"text of {name}".encode()).hexdigest()
    monkeypatch.setattr(gate, "PROFILES", str(tmp_path))
    monkeypatch.setattr(gate._facts, "collect", lambda run, agent: host.facts)
    monkeypatch.setattr(gate, "look", lambda source, name, facts, now: host.seen())
    return host


def judged(here: Any) -> list[dict[str, Any]]:
    return gate.conditions(here.agent, gate.PROFILES)


def test_the_host_judges_all_but_the_replay(here):
    found = judged(here)
    assert [one["met"] for one in found] == [True] * 7
    assert "all that can be judged here holds" in gate.lines(found)[0]
    assert any("15.0 of 14 days" in line for line in gate.lines(found))


def test_an_edited_file_is_another_policy(here, tmp_path):
    (tmp_path / "cordon.scribe.main").write_text("edited")
    (tmp_path / "cordon.scribe_two").write_text("another agent's")
    text = "\n".join(gate.lines(judged(here)))
    assert "1 of 7 conditions do not hold" in text
    assert "NO   The policy is the one that was burnt in. cordon.scribe.main: its text is not the one that was loaded." in text
    assert "remedy: run the playbook" in text


def test_an_agent_in_enforce_waits_for_no_gate(here):
    here.agent["mode"] = "enforce"
    assert judged(here) == [] and gate.lines([]) == []


def test_whoever_is_ready_is_told_of(here, tmp_path, monkeypatch):
    spool = tmp_path / "spool"
    spool.mkdir()
    monkeypatch.setattr(gate.spool.put, "__defaults__", (str(spool),))
    monkeypatch.setattr(gate.conditions, "__defaults__", (gate.PROFILES,))
    assert gate.notify([here.agent]) == ["scribe"]
    (path,) = spool.iterdir()
    alert = json.loads(path.read_text())
    assert (alert["alert"], alert["agent"], alert["severity"]) == ("burn-in-ready", "scribe", "info")
    here.collected["lost"] = [{"at": NOW - 60, "what": "x"}]
    assert gate.notify([here.agent]) == []
    assert len(list(spool.iterdir())) == 1
