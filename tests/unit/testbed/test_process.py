# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A recorded process is signalled only while it is surely the recorded one."""

from __future__ import annotations

import dataclasses
import os

import pytest

from testbed import process, signals
from testbed.show import Interrupted


@pytest.fixture
def sleeper(tmp_path):
    record = process.launch(["sleep", "60"], tmp_path, tmp_path / "log", tmp_path / "pid")
    yield record
    process.end(record)


def test_a_program_s_name_may_look_like_fields():
    assert process.parse_stat("7 (a) S 1 (b) R " + " ".join(str(n) for n in range(4, 30))) == ("R", 22)


def test_a_launched_process_is_on_record_and_ends(sleeper, tmp_path):
    assert process.load(tmp_path / "pid") == sleeper
    assert process.alive(sleeper)
    assert process.end(sleeper) is True
    assert not process.alive(sleeper) and process.end(sleeper) is False


@pytest.mark.parametrize("change", [{"start": 1}, {"boot": "another"}])
def test_a_reused_id_is_left_alone(sleeper, change):
    stranger = dataclasses.replace(sleeper, **change)
    assert not process.alive(stranger)
    assert process.end(stranger) is False
    assert process.alive(sleeper)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"pid": 1}', "half a rec"])
def test_an_unreadable_record_is_none(tmp_path, text):
    (tmp_path / "pid").write_text(text)
    assert process.load(tmp_path / "pid") is None
    assert process.load(tmp_path / "absent") is None
    assert process.end(None) is False


def test_an_interruption_waits_for_the_record(monkeypatch):
    monkeypatch.setattr(signals.signal, "signal", lambda *_: None)
    done = []
    with pytest.raises(Interrupted, match="SIGINT"), signals.held():
        signals._interrupt(2, None)
        done.append(os.getpid())
    assert done
