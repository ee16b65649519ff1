# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read a log that is rotated by renaming (audit.log, audit.log.1, ...) line by line, from a durable cursor.

auditd renames its log itself and never writes to the old file again. A writer that is told afterwards (squid) goes on
in the old one for a moment: such a file is left only when it has been quiet for a while (linger).
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import BinaryIO, Callable, Iterator, NamedTuple

_CHUNK = 1 << 20
_HEAD = 64  # bytes; an audit record starts with time and serial, so this much tells two files apart


class Cursor(NamedTuple):
    """A place in the log. head: the file's first bytes, because inode numbers are used again."""

    inode: int
    head: str
    offset: int


class Line(NamedTuple):
    """One whole line without its end, and the place where it starts."""

    start: Cursor
    text: str


class LogTail:
    """Yields each line once, across rotation and restart. `gaps` counts rotations that were missed."""

    def __init__(self, path: Path, cursor: Cursor | None = None, linger: float = 0,
                 clock: Callable[[], float] = time.time) -> None:  # fmt: skip
        """linger: seconds for which a file that was rotated away must not have grown."""
        self._path = path
        self._linger = linger
        self._clock = clock
        self._rotated: float | None = None  # when the file being read was first seen to be rotated away
        self._file: BinaryIO | None = None
        self._cursor = cursor
        self._rest = b""
        self.gaps = 0

    def lines(self) -> Iterator[Line]:
        """All whole lines that are there now."""
        while self._open():
            # Looked up before reading: a file that was rotated away by then is written no more,
            # so its end is its end.
            newer = self._newer()
            quiet = newer is not None and self._quiet()
            yield from self._current_file()
            if newer is None:
                return
            if not quiet:
                newer.close()
                return
            self._start(newer)

    def position(self) -> Cursor | None:
        """The place behind the last line that was yielded."""
        return self._cursor

    def lag(self) -> int:
        """Bytes of the current file not yet read; whole files before it are read within one call of lines()."""
        try:
            stat = self._path.stat()
        except OSError:
            return 0
        done = self._cursor.offset if self._cursor and self._cursor.inode == stat.st_ino else 0
        return max(0, stat.st_size - done)

    def _open(self) -> bool:
        if self._file:
            return True
        chain = self._chain()
        if not chain:
            return False
        chosen = chain[-1]  # where the cursor's file is gone: the oldest that is left
        if self._cursor is None:
            chosen = chain[0]
        else:
            found = [path for path in chain if self._is_cursor_file(path)]
            self.gaps += 0 if found else 1
            chosen = found[0] if found else chosen
        self._start(open(chosen, "rb"))  # noqa: SIM115
        return True

    def _quiet(self) -> bool:
        """Whether the file that was rotated away will not grow any more."""
        assert self._file
        now = self._clock()
        self._rotated = now if self._rotated is None else self._rotated
        return now - max(self._rotated, os.fstat(self._file.fileno()).st_mtime) >= self._linger

    def _chain(self) -> list[Path]:
        """The log's files, newest first."""
        paths = [self._path]
        while paths[-1].exists():
            paths.append(self._path.with_name(f"{self._path.name}.{len(paths)}"))
        return paths[:-1]

    def _is_cursor_file(self, path: Path) -> bool:
        assert self._cursor
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            same = stat.st_ino == self._cursor.inode and stat.st_size >= self._cursor.offset
            return same and _head(file).startswith(self._cursor.head)

    def _start(self, file: BinaryIO) -> None:
        if self._file:
            self._file.close()
        self._file = file
        inode, head = os.fstat(file.fileno()).st_ino, _head(file)
        if self._cursor is None or self._cursor.inode != inode or not head.startswith(self._cursor.head):
            self._cursor = Cursor(inode, head, 0)
        file.seek(self._cursor.offset)
        self._rest = b""
        self._rotated = None

    def _current_file(self) -> Iterator[Line]:
        assert self._file and self._cursor
        while chunk := self._file.read(_CHUNK):
            *whole, self._rest = (self._rest + chunk).split(b"\n")
            for line in whole:
                start = self._cursor
                # A file that was empty when it was opened gets its head from its first line.
                head = start.head or line[:_HEAD].decode("ascii", "replace")
                self._cursor = Cursor(start.inode, head, start.offset + len(line) + 1)
                yield Line(start, line.decode("utf-8", "replace"))

    def _newer(self) -> BinaryIO | None:
        """The next newer file, opened, if the current one was rotated away."""
        assert self._file
        inode = os.fstat(self._file.fileno()).st_ino
        if not self._path.exists() or self._path.stat().st_ino == inode:
            return None
        chain = self._chain()
        place = [number for number, path in enumerate(chain) if path.stat().st_ino == inode]
        self.gaps += 0 if place else 1
        return open(chain[place[0] - 1] if place else chain[-1], "rb")


def _head(file: BinaryIO) -> str:
    file.seek(0)
    return file.read(_HEAD).split(b"\n")[0].decode("ascii", "replace")
