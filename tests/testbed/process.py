# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes that outlive this program: started apart from the terminal, ended only when surely ours.

A process id alone proves nothing, ids are reused. A record therefore holds the start time too (field 22 of
/proc/PID/stat, clock ticks since boot, see proc(5)), and a process is signalled only while both agree.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from testbed import signals
from testbed.files import write_atomically


@dataclass(frozen=True)
class Record:
    """Identity of one process: its id, its start time in clock ticks, and the boot of the machine."""

    pid: int
    start: int
    boot: str


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def parse_stat(text: str) -> tuple[str, int]:
    """(state, start time) from /proc/PID/stat; the program's name in it may hold spaces and parentheses."""
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def start_time(pid: int) -> int | None:
    """Start time of a living process, None for one that is gone or a zombie."""
    try:
        state, start = parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except (OSError, ValueError, IndexError):
        return None
    return None if state in "ZX" else start


def launch(argv: Sequence[str], where: Path, log: Path, record_file: Path) -> Record:
    """Start `argv` in directory `where` and record it; in a session of its own, out of reach of our Ctrl-C."""
    with signals.held(), log.open("ab") as output:
        child = subprocess.Popen(
            argv, cwd=where, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        record = Record(child.pid, start_time(child.pid) or 0, boot_id())
        save(record, record_file)
    return record


def save(record: Record, path: Path) -> None:
    write_atomically(path, json.dumps(asdict(record)) + "\n")


def load(path: Path) -> Record | None:
    """The record in `path`; None if there is none, or only an unreadable one."""
    try:
        return Record(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def alive(record: Record | None) -> bool:
    """Whether the recorded process, and not a later one with the same id, still runs."""
    return record is not None and record.boot == boot_id() and start_time(record.pid) == record.start


def _wait_gone(record: Record, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while alive(record):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def end(record: Record | None, patience: float = 5.0) -> bool:
    """End the process, politely first. True if it was running."""
    if record is None or not alive(record):
        return False
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(record.pid, number)
        except ProcessLookupError:
            return True
        if _wait_gone(record, patience):
            break
    return True
