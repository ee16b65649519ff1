# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Let an operation die at its n-th step, as by a kill or by a loss of power.

A step is a call that changes a file system, and a program before and after it ran. The operation runs in a child that ends
there at once: no `finally` tidies up. A loss of power also takes what was not on disk yet: the content of files that
nobody synced, and renames and removals whose directory nobody synced are undone. That is worse than most disks are.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.cordon.agent_host.plugins.module_utils import _vault_backup, _vault_keys

DIED, DONE, FAILED = 99, 0, 1
CALLS = ("rename", "unlink", "rmdir", "mkdir", "fsync", "open", "chmod")
Inode = tuple[int, int]


def inode(seen: os.stat_result) -> Inode:
    return seen.st_dev, seen.st_ino


class Machine:
    """The calls of one process, counted, with what a loss of power would undo."""

    def __init__(self, die_at: int, power: bool, watched: Path, attics: list[str]) -> None:
        self.left, self.power, self.watched, self.attics = die_at, power, watched, attics
        self.real: dict[str, Callable[..., Any]] = {name: getattr(os, name) for name in CALLS}
        self.unsynced: dict[Inode, int] = {}  # descriptors of files whose content may not be on disk
        self.undo: list[tuple[set[Inode], Callable[[], Any]]] = []  # directories that must be synced, how to undo

    def install(self) -> None:
        for name in CALLS:
            setattr(os, name, getattr(self, name))
        _vault_keys.exchange = _vault_backup.exchange = self.exchange

    def step(self) -> None:
        if self.left == 0:
            if self.power:
                self.lose()
            os._exit(DIED)
        self.left -= 1

    def lose(self) -> None:
        for name, call in self.real.items():
            setattr(os, name, call)
        for _directories, undo in reversed(self.undo):
            with contextlib.suppress(OSError):
                undo()
        for descriptor in self.unsynced.values():
            os.truncate(f"/proc/self/fd/{descriptor}", 0)

    # --- The calls ------------------------------------------------------------------------------

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_CREAT:
            self.step()
        handle: int = self.real["open"](path, flags, mode, dir_fd=dir_fd)
        if self.power and flags & os.O_CREAT and flags & os.O_EXCL:
            self.suspect(os.dup(handle))
        return handle

    def suspect(self, handle: int) -> None:
        self.unsynced[inode(os.fstat(handle))] = handle

    def fsync(self, handle: int) -> None:
        self.step()
        found = inode(os.fstat(handle))
        self.unsynced.pop(found, None)
        for directories, _undo in self.undo:
            directories.discard(found)
        self.undo = [(directories, undo) for directories, undo in self.undo if directories]
        self.real["fsync"](handle)

    def rename(self, source: Any, target: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
        self.step()
        if not self.power:
            return self.real["rename"](source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        kept = self.keep(target, dst_dir_fd)
        ends = [os.dup(fd) if fd is not None else None for fd in (src_dir_fd, dst_dir_fd)]
        self.real["rename"](source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

        def undo() -> None:
            os.rename(target, source, src_dir_fd=ends[1], dst_dir_fd=ends[0])
            if kept:
                os.link(kept, target, dst_dir_fd=ends[1])

        where = [self.parent(path, fd) for path, fd in ((source, src_dir_fd), (target, dst_dir_fd))]
        self.undo.append(({where[1]}, undo))
        return None

    def unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self.step()
        if not self.power:
            return self.real["unlink"](path, dir_fd=dir_fd)
        kept = self.keep(path, dir_fd)
        end = os.dup(dir_fd) if dir_fd is not None else None
        where = self.parent(path, dir_fd)
        self.real["unlink"](path, dir_fd=dir_fd)
        if kept:
            self.undo.append(({where}, lambda: os.link(kept, path, dst_dir_fd=end)))
        return None

    def keep(self, path: Any, dir_fd: int | None) -> str:
        """Keep a second name of a file that is about to lose its own."""
        for attic in self.attics:
            kept = f"{attic}/{len(self.undo)}-{self.left}"
            with contextlib.suppress(OSError):
                os.link(path, kept, src_dir_fd=dir_fd, follow_symlinks=False)
                return kept
        return ""

    @staticmethod
    def parent(path: Any, dir_fd: int | None) -> Inode:
        return inode(os.fstat(dir_fd) if dir_fd is not None else os.stat(os.path.dirname(path)))

    def exchange(self, one: str, other: str) -> None:
        self.step()
        # Undone until it has synced the directory itself.
        self.undo.append(({self.parent(other, None)}, lambda: _exchange(one, other)))
        _exchange(one, other)

    def rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        self.step()
        self.real["rmdir"](path, dir_fd=dir_fd)

    def mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        self.step()
        self.real["mkdir"](path, mode, dir_fd=dir_fd)

    def chmod(self, *given: Any, **named: Any) -> None:
        self.step()
        self.real["chmod"](*given, **named)

    def run(self, argv: list[str], data: str | None = None) -> tuple[int, str, str]:
        self.step()
        answer = run(argv, data)
        if argv[0] == "sync":
            self.unsynced.clear()
        for path in self.watched.rglob("*"):
            if self.power and path.is_file() and not path.is_symlink() and argv[0] != "sync":
                self.suspect(self.real["open"](str(path), os.O_RDONLY | os.O_CLOEXEC))
        self.step()
        return answer


_exchange = _vault_keys.exchange


def run(argv: list[str], data: str | None = None) -> tuple[int, str, str]:
    """Run a program as the modules do."""
    done = subprocess.run(argv, input=data, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def die_at(number: int, power: bool, watched: Path, operation: Callable[[Callable[..., Any]], None]) -> int:
    """Run operation(run) in a child that dies at its step `number`, counted from 0. Return DIED or DONE."""
    with contextlib.ExitStack() as stack:
        attics = [
            stack.enter_context(tempfile.TemporaryDirectory(dir=top, prefix=".attic-"))
            for top in ("/var/lib/cordon", "/etc/cordon")
        ]
        child = os.fork()
        if child == 0:
            code = FAILED
            try:
                machine = Machine(number, power, watched, attics)
                machine.install()
                operation(machine.run)
                code = DONE
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        _pid, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (DIED, DONE), f"step {number}: the operation failed by itself"
    return code
