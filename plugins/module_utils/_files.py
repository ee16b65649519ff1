# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private: read and replace files as root without being led astray by a planted symbolic link.

Every path is walked component by component with openat(2).  A symbolic link on the way is followed
only where an unprivileged user could not have planted it: in a directory that root owns and nobody
else may write.  The last component is never followed.  (ansible.posix CVE-2026-11837 is what happens
otherwise: root wrote through a link in a directory that the user owned.)
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from typing import List, NamedTuple, Optional, Tuple

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_GROUP_OR_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class UnsafePath(Exception):
    """A path that leads, or may lead, somewhere else than it says; the message names it."""


class Entry(NamedTuple):
    """What stands at a path: kind is absent, file, directory, link or other."""

    kind: str
    mode: int = 0
    uid: int = 0
    gid: int = 0
    text: Optional[str] = None  # a file's content, a link's target


ABSENT = Entry("absent")


def split(path: str) -> Tuple[List[str], str]:
    """Split an absolute, normalised path into parent components and last name."""
    if not path.startswith("/") or path != os.path.normpath(path) or path == "/":
        raise UnsafePath(f"{path!r}: give an absolute path without '.', '..', '//' or a trailing '/'")
    parts = path.lstrip("/").split("/")
    return parts[:-1], parts[-1]


def open_parent(path: str) -> int:
    """Open the directory that holds path; FileNotFoundError where it does not exist yet."""
    parents, _name = split(path)
    here = os.open("/", _OPEN_DIRECTORY)
    try:
        for number, name in enumerate(parents):
            deeper = _step(here, name, "/" + "/".join(parents[: number + 1]))
            os.close(here)
            here = deeper
    except BaseException:
        os.close(here)
        raise
    return here


def _step(parent: int, name: str, shown: str) -> int:
    """Enter one component; follow a link only where nobody but root could have made it."""
    if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        owner = os.fstat(parent)
        if owner.st_uid != os.geteuid() or owner.st_mode & _GROUP_OR_OTHERS_WRITE:
            raise UnsafePath(f"{shown} is a symbolic link in a directory that others may write: remove it")
        return os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
    return os.open(name, _OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)


def observe(parent: int, name: str) -> Entry:
    """Describe an entry of an open directory without following it."""
    try:
        seen = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return ABSENT
    text: Optional[str] = None
    kind = "other"
    if stat.S_ISREG(seen.st_mode):
        kind, text = "file", _read(parent, name)
    elif stat.S_ISLNK(seen.st_mode):
        kind, text = "link", os.readlink(name, dir_fd=parent)
    elif stat.S_ISDIR(seen.st_mode):
        kind = "directory"
    return Entry(kind, stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid, text)


def _read(parent: int, name: str) -> str:
    # O_NONBLOCK: a FIFO swapped in after the stat must not hang the run.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(
        os.open(name, flags, dir_fd=parent), encoding="utf-8", errors="surrogateescape", newline=""
    ) as file:
        return file.read()


def write_file(parent: int, name: str, wanted: Entry) -> None:
    """Replace a file in one rename, on disk before it is visible."""
    temporary = f".{name[:200]}.{secrets.token_hex(6)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(temporary, flags, 0o600, dir_fd=parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(wanted.text or "")
            file.flush()
            os.fchown(file.fileno(), wanted.uid, wanted.gid)
            os.fchmod(file.fileno(), wanted.mode)
            os.fsync(file.fileno())
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        os.unlink(temporary, dir_fd=parent)
        raise
    os.fsync(parent)


def make_directory(parent: int, name: str, wanted: Entry) -> None:
    """Create a directory, or correct the owner and mode of the one that is there."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
    handle = os.open(name, _OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        os.fchown(handle, wanted.uid, wanted.gid)
        os.fchmod(handle, wanted.mode)
    finally:
        os.close(handle)


def make_link(parent: int, name: str, target: str) -> None:
    """Point a symbolic link at target in one rename."""
    temporary = f".{name[:200]}.{secrets.token_hex(6)}"
    os.symlink(target, temporary, dir_fd=parent)
    os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)


def remove(parent: int, name: str) -> None:
    """Remove a file, a link, or a directory with all that is in it; links inside are removed, not followed."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=parent)
        return
    directory = os.open(name, _OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        for inside in os.listdir(directory):
            remove(directory, inside)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=parent)
