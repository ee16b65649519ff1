# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Alerts that other parts of the host leave: each is taken once, and what is no alert goes away."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cordon_monitoring.spool import Spool

ALERT = {"alert": "demoted", "severity": "warning", "agent": "scout", "summary": "scout was demoted", "time": 1_700_000_000.5}


def leave(directory: Path, name: str, body: Any) -> None:
    (directory / name).write_text(json.dumps(body))


def test_an_alert_is_taken_once_in_its_shape(tmp_path: Path) -> None:
    leave(tmp_path, "2.json", {**ALERT, "agent": None})
    leave(tmp_path, "1.json", ALERT)
    leave(tmp_path, ".3.json.new", ALERT)
    spool = Spool("host-1", tmp_path)
    first, second = spool.alerts()
    assert first == {
        "alert": "demoted", "severity": "warning", "agent": "scout", "host": "host-1", "time": "2023-11-14T22:13:20.500Z",
        "summary": "scout was demoted", "event": None,
    }  # fmt: skip
    assert second["agent"] is None
    assert list(spool.alerts()) == []
    assert os.listdir(tmp_path) == [".3.json.new"]


def test_the_file_stays_until_the_alert_was_taken(tmp_path: Path) -> None:
    leave(tmp_path, "1.json", ALERT)
    taken = Spool("h", tmp_path).alerts()
    next(taken)
    assert (tmp_path / "1.json").exists(), "a crash here sends it again"
    assert list(taken) == []
    assert not (tmp_path / "1.json").exists()


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "{}", json.dumps({**ALERT, "severity": "loud"}), json.dumps({**ALERT, "alert": "../x"}),
        json.dumps({**ALERT, "time": "now"}), json.dumps({**ALERT, "time": 1e300}), json.dumps({**ALERT, "summary": None}),
        json.dumps({**ALERT, "agent": 5}), json.dumps({**ALERT, "summary": "x" * 70000}),
    ],
)  # fmt: skip
def test_what_is_no_alert_is_said_once_and_deleted(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "bad.json").write_text(text)
    spool = Spool("h", tmp_path)
    for _round in range(3):
        assert list(spool.alerts()) == []
    assert len(caplog.records) == 1 and "bad.json" in caplog.text
    assert os.listdir(tmp_path) == []


def test_a_link_or_a_pipe_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe.json")
    assert list(Spool("h", tmp_path).alerts()) == []
    assert os.listdir(tmp_path) == []


def test_a_file_that_cannot_be_deleted_is_handed_out_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(tmp_path, "1.json", ALERT)
    monkeypatch.setattr(os, "unlink", lambda _path: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    spool = Spool("h", tmp_path)
    assert [len(list(spool.alerts())) for _round in range(3)] == [1, 0, 0]


def test_no_spool_yet(tmp_path: Path) -> None:
    assert list(Spool("h", tmp_path / "none").alerts()) == []
