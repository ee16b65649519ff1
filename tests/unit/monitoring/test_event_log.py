# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The event log: whole lines, never twice, never silently fewer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cordon_monitoring import event as events
from cordon_monitoring.event_log import EventLog
from cordon_monitoring.limit import WINDOW, Limiter


def event(identity: str, **changes: Any) -> events.Event:
    made = events.new(identity, 0.0, "host", "probe", "audit")
    made.update(kind="file", outcome="denied", operation="open", path="/etc/shadow")
    made.update(changes)
    return made


def ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def test_each_event_is_a_line(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log")
    log.append([event("1", path="/a\nb \udce9 é"), event("2")])
    log.append([event("3")])
    assert ids(tmp_path / "log") == ["1", "2", "3"]
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o640 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_log_that_was_rotated_away_is_opened_again(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log")
    log.append([event("1")])
    (tmp_path / "log").rename(tmp_path / "log.1")
    log.append([event("2")])
    assert ids(tmp_path / "log") == ["2"]


def test_after_a_crash_what_is_already_there_is_left_out(tmp_path: Path) -> None:
    EventLog(tmp_path / "log").append([event("1"), event("2", also="twin")])
    again = EventLog(tmp_path / "log")
    again.append([event("1"), event("twin"), event("3")])
    assert ids(tmp_path / "log") == ["1", "2", "3"]


def test_a_full_disk_leaves_no_part_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventLog(tmp_path / "log")
    log.append([event("1")])
    real = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space left"):
        log.append([event("2")])
    monkeypatch.undo()
    log.append([event("2")])
    assert ids(tmp_path / "log") == ["1", "2"]


def test_the_same_act_is_written_a_few_times_and_then_counted() -> None:
    limiter = Limiter("host", same=3)
    assert [limiter.allow(event(str(number))) for number in range(5)] == [True] * 3 + [False] * 2
    assert limiter.allow(event("x", path="/etc/gshadow")), "another act is not held back"
    counted = limiter.due(WINDOW)
    assert [(found["suppressed"], found["path"], found["outcome"]) for found in counted] == [
        (2, "/etc/shadow", "denied")
    ]
    assert limiter.allow(event("6")), "a new window has begun"
    assert limiter.due(WINDOW + 1) == []


def test_every_process_start_is_written_up_to_the_agents_ceiling() -> None:
    limiter = Limiter("host", same=1, ceiling=4)
    starts = [event(str(number), kind="process", outcome="allowed", argv=["x"]) for number in range(6)]
    assert [limiter.allow(start) for start in starts] == [True] * 4 + [False] * 2
    assert limiter.allow(event("x", agent="other")), "another agent has a ceiling of its own"
    (counted,) = limiter.due(WINDOW)
    assert (counted["suppressed"], counted["operation"], "argv" in counted) == (2, "any", False)


def test_a_flood_of_one_act_leaves_room_for_others_and_is_counted_once() -> None:
    limiter = Limiter("host", same=3, ceiling=10)
    flood = [event(str(number)) for number in range(50)]
    assert len([one for one in flood if limiter.allow(one)]) == 3
    assert limiter.allow(event("x", path="/etc/gshadow"))
    assert [count["suppressed"] for count in limiter.due(WINDOW)] == [47]


def test_many_floods_at_once_make_few_counts() -> None:
    limiter = Limiter("host", same=3, ceiling=30)
    flood = [event(f"{path}.{number}", path=f"/etc/{path}") for path in range(500) for number in range(5)]
    written = [one for one in flood if limiter.allow(one)]
    counts = limiter.due(WINDOW)
    assert (len(written), len(counts)) == (30, 11)
    assert len(written) + sum(count["suppressed"] for count in counts) == len(flood)
