# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit log is read once, across rotation and restart, and decoded as recorded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cordon_monitoring.log_tail import LogTail

HERE = Path(__file__).parent
SAMPLES = HERE / "samples"
PROGRAM = HERE.parents[2] / "roles" / "monitoring" / "files"
SYSTEM_PYTHON = "/usr/bin/python3"


def texts(tail: LogTail) -> list[str]:
    return [line.text for line in tail.lines()]


@pytest.mark.parametrize("name", ["bookworm", "burn_in", "sessions"])
def test_libauparse_decodes_the_sample_as_recorded(name: str) -> None:
    has = (
        shutil.which(SYSTEM_PYTHON)
        and subprocess.run([SYSTEM_PYTHON, "-c", "import auparse"], capture_output=True).returncode == 0
    )
    if not has:
        pytest.skip("needs the Debian package python3-audit beside /usr/bin/python3")
    command = [SYSTEM_PYTHON, str(HERE / "decode_sample.py"), str(PROGRAM), str(SAMPLES / f"{name}.audit.log")]
    seen = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    wanted = json.loads((SAMPLES / f"{name}.records.json").read_text())
    # Names of users and groups are this machine's own.
    own = ("gid", "egid", "sgid", "fsgid", "suid", "ogid", "fsuid")
    for act in seen["acts"] + wanted:
        act[2] = [{name: value for name, value in record.items() if name not in own} for record in act[2]]
    assert seen["acts"] == wanted
    assert seen["settled"], "the cursor stands at the end once every act was handed out"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


def append(path: Path, text: str) -> None:
    with open(path, "a") as file:
        file.write(text)


def rotate(path: Path) -> None:
    """As auditd does: audit.log.1 becomes audit.log.2, and so on."""
    for number in range(8, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            os.rename(older, path.with_name(f"{path.name}.{number + 1}"))
    os.rename(path, path.with_name(f"{path.name}.1"))
    path.touch()


def test_lines_come_once_and_whole(log: Path) -> None:
    append(log, "one\ntwo\nthr")
    tail = LogTail(log)
    assert texts(tail) == ["one", "two"]
    append(log, "ee\nfour\n")
    assert texts(tail) == ["three", "four"]
    assert texts(tail) == []
    assert tail.lag() == 0


def test_a_log_that_does_not_exist_yet_is_waited_for(log: Path) -> None:
    tail = LogTail(log)
    assert texts(tail) == []
    append(log, "one\n")
    assert texts(tail) == ["one"]


def test_rotation_while_reading_loses_nothing(log: Path) -> None:
    append(log, "one\n")
    tail = LogTail(log)
    assert texts(tail) == ["one"]
    append(log, "two\n")
    rotate(log)
    append(log, "three\n")
    rotate(log)
    append(log, "four\n")
    assert texts(tail) == ["two", "three", "four"]
    assert tail.gaps == 0


@pytest.mark.parametrize("rotations", [0, 1, 3])
def test_restart_goes_on_at_the_cursor_across_rotations(log: Path, rotations: int) -> None:
    append(log, "zero\none\n")
    tail = LogTail(log)
    cursor = [line.start for line in tail.lines()][1]
    wanted = ["one"]
    for number in range(rotations):
        rotate(log)
        append(log, f"later {number}\n")
        wanted.append(f"later {number}")
    restarted = LogTail(log, cursor)
    assert texts(restarted) == wanted
    assert restarted.gaps == 0


def test_a_cursor_whose_file_is_gone_is_a_gap_and_reading_starts_at_the_oldest(log: Path) -> None:
    append(log, "gone\n")
    tail = LogTail(log)
    texts(tail)
    log.unlink()
    append(log, "older\n")
    rotate(log)
    append(log, "newer\n")
    restarted = LogTail(log, tail.position())
    assert texts(restarted) == ["older", "newer"]
    assert restarted.gaps == 1
