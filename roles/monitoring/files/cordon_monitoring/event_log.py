# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Append events to the log: whole lines only, on disk before the cursor moves on.

Durability: one fsync for each batch (at most every half second), then the cursor is saved. A crash
between the two makes the last batch be read again; events whose id is already in the log are left out.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Sequence

from .event import Event

EVENT_LOG = Path("/var/log/cordon/events.jsonl")
_LOOK_BACK = 4 << 20  # bytes at the end of the log in which a repeated event can be: some 10 s of the worst flood


class EventLog:
    """The log, opened again when logrotate has moved it away."""

    def __init__(self, path: Path = EVENT_LOG) -> None:
        self._path = path
        self._descriptor = -1
        self._known = self._ids()
        self.written = 0

    def append(self, batch: Sequence[Event]) -> None:
        """Write and sync; OSError (a full disk) leaves no part of a line behind, so it may be tried again."""
        fresh = [event for event in batch if event["id"] not in self._known]
        if not fresh:
            return
        self._open()
        size = os.fstat(self._descriptor).st_size
        data = "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in fresh).encode("utf-8", "replace")
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, size)
            raise
        self.written += len(fresh)

    def forget(self) -> None:
        """Stop looking for repeated events: the stream is past the saved cursor's place."""
        self._known = frozenset()

    def writable(self) -> bool:
        """Whether the log can be opened for writing and the disk has room."""
        try:
            self._open()
            room = os.fstatvfs(self._descriptor)
            return room.f_bavail * room.f_frsize > 1 << 20
        except OSError:
            return False

    def _open(self) -> None:
        if self._descriptor >= 0:
            try:
                here, there = os.fstat(self._descriptor), os.stat(self._path)
                if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
                    return
            except FileNotFoundError:
                pass
            os.close(self._descriptor)
            self._descriptor = -1
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o640)

    def _ids(self) -> frozenset[str]:
        """Ids at the end of the log, and of the one before it (rotation may just have happened)."""
        found: set[str] = set()
        for path in (self._path, self._path.with_name(self._path.name + ".1")):
            try:
                with open(path, "rb") as file:
                    file.seek(max(0, file.seek(0, os.SEEK_END) - _LOOK_BACK))
                    found.update(_ids_of(file.read()))
            except OSError:
                continue
        return frozenset(found)


def _ids_of(data: bytes) -> set[str]:
    found: set[str] = set()
    for line in data.splitlines():
        try:
            event = json.loads(line)
            found.update(value for value in (event.get("id"), event.get("also")) if value)
        except (ValueError, AttributeError):
            continue  # the first line may be cut
    return found
