# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. Replace several files as one: all of them, or none.

Whatever can fail for want of space or of permission happens before the first file is touched: every new text is on
the disk under a temporary name, and every old file has a second name. Then there are only renames, and the second
names lead back. Left-overs of a run that was killed are removed by the next.
"""
from __future__ import annotations

import os
import re
import secrets
from typing import Dict, List, NamedTuple, Optional

from . import _files

# Hidden, so that neither apparmor_parser nor apparmor.service takes one for a profile.
LEFT_OVER = re.compile(r"\..*\.[0-9a-f]{12}\.cordon-(?:new|old)")


class Move(NamedTuple):
    """One prepared change in an open directory; new or old is "" where there is none."""

    parent: int
    name: str
    new: str
    old: str


class Replacement:
    """Prepared changes. Use as a context manager: leaving it without commit() changes nothing."""

    def __init__(self) -> None:
        self._moves: List[Move] = []
        self._parents: Dict[str, int] = {}
        self._done: List[Move] = []

    def __enter__(self) -> Replacement:
        return self

    def __exit__(self, *_problem: object) -> None:
        for move in self._moves:
            for name in (move.new, move.old):
                _unlink(move.parent, name)
        for parent in self._parents.values():
            os.close(parent)

    def add(self, path: str, wanted: Optional[_files.Entry]) -> None:
        """Prepare to replace path by a file, or to remove it (None). Raises OSError while nothing has changed."""
        parent, name, tag = self._parent(path), os.path.basename(path), secrets.token_hex(6)
        before = _files.observe(parent, name)
        if before.kind == "directory":
            raise IsADirectoryError(0, "it is a directory: remove it", path)
        move = Move(parent, name, ".%s.%s.cordon-new" % (name, tag) if wanted else "",
                    ".%s.%s.cordon-old" % (name, tag) if before.kind != "absent" else "")
        self._moves.append(move)
        try:
            if wanted:
                _files.write_file(parent, move.new, wanted)
            if move.old:
                os.link(name, move.old, src_dir_fd=parent, dst_dir_fd=parent, follow_symlinks=False)
        except OSError as problem:
            raise OSError(problem.errno, problem.strerror, path) from problem

    def commit(self) -> None:
        """Make everything visible. On OSError everything is as it was."""
        try:
            for move in self._moves:
                self._done.append(move)
                if move.new:
                    os.rename(move.new, move.name, src_dir_fd=move.parent, dst_dir_fd=move.parent)
                elif move.old:
                    os.unlink(move.name, dir_fd=move.parent)
        except OSError:
            self.undo()
            raise
        for parent in self._parents.values():
            os.fsync(parent)

    def undo(self) -> None:
        """Put back what commit() replaced."""
        for move in reversed(self._done):
            if move.old:
                os.rename(move.old, move.name, src_dir_fd=move.parent, dst_dir_fd=move.parent)
            else:
                _unlink(move.parent, move.name)
        self._done = []

    def _parent(self, path: str) -> int:
        directory = os.path.dirname(path)
        if directory not in self._parents:
            os.makedirs(directory, mode=0o755, exist_ok=True)
            parent = self._parents[directory] = _files.open_parent(path)
            for name in os.listdir(parent):
                if LEFT_OVER.fullmatch(name):
                    _unlink(parent, name)
        return self._parents[directory]


def _unlink(parent: int, name: str) -> None:
    try:
        if name:
            os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass
