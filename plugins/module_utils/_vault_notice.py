# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private: what whoever reads a secret finds while the vault is closed: an error, and how to open the vault.

In the bare mount point each secret has a symbolic link that leads nowhere and whose target is the text.  To open
it fails, so nothing can be taken for the secret; to write through it fails too, because the mount point is
immutable; `ls -l` and `readlink` tell.  A plain file with the text would be sent somewhere as a password.

A session covers the mount point.  So these functions need a mount namespace of their own (_vault_open), in which
they uncover it; the session's stays as it is.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
from typing import Dict, List, Mapping, Sequence

from . import _vault_open
from ._files import make_link
from ._mountinfo import at
from ._vault import VaultError

# linux/fs.h: _IOR('f', 1, long) and _IOW('f', 2, long). The kernel moves an int in spite of the declared long.
_GETFLAGS = 0x80006601 | struct.calcsize("l") << 16
_SETFLAGS = 0x40006602 | struct.calcsize("l") << 16
_IMMUTABLE = 0x10
_MNT_DETACH = 2  # sys/mount.h
_NO_FLAGS = (errno.ENOTTY, errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL, errno.ENOSYS)


def text(agent: str) -> str:
    """Where the link of a secret leads: a name that nobody can make there. One name, so no '/' in it."""
    return f"the vault is closed: 'cordonctl secrets {agent}' says how to open it"


def differing(agent: str, secrets: Sequence[str], present: Mapping[str, str]) -> List[str]:
    """The names whose link is missing, wrong or of no secret; present: the links' targets."""
    wanted = dict.fromkeys(secrets, text(agent))
    return sorted(name for name in {*wanted, *present} if wanted.get(name) != present.get(name))


def converge(agent: str, point: str, secrets: Sequence[str], check: bool) -> List[str]:
    """Give every secret its link, and return the names that were, or with check would be, changed."""
    if not os.path.isdir(point):
        return []  # in check mode, on a host that has no mount point yet
    top = _uncovered(point)
    try:
        found = differing(agent, secrets, _links(top))
        if found and not check:
            _write(top, found, dict.fromkeys(secrets, text(agent)))
        return found
    finally:
        os.close(top)


def _uncovered(point: str) -> int:
    """A descriptor of the bare mount point."""
    libc = ctypes.CDLL(None, use_errno=True)
    while _mounted(point):
        if not _mounted(_vault_open.ROOM):  # it is there only in a namespace of _vault_open
            raise VaultError(f"{point} is not uncovered in the host's own mount namespace: that would close the session's vault")
        if libc.umount2(os.fsencode(point), _MNT_DETACH) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise VaultError(f"{point} cannot be looked under while its vault is open: {reason}. Close it and run the role again")
    return os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _mounted(point: str) -> bool:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as table:  # users name mount points as they like
        return at(table.read(), point) is not None


def _links(top: int) -> Dict[str, str]:
    """Every link there with its target. What is no link is none of ours: it is reported as lying in the clear."""
    return {name: os.readlink(name, dir_fd=top) for name in os.listdir(top)
            if stat.S_ISLNK(os.stat(name, dir_fd=top, follow_symlinks=False).st_mode)}


def _write(top: int, names: Sequence[str], wanted: Mapping[str, str]) -> None:
    flags = _flags(top)
    if flags & _IMMUTABLE:
        _set(top, flags & ~_IMMUTABLE)
    try:
        for name in names:
            if name in wanted:
                make_link(top, name, wanted[name])
            else:
                os.unlink(name, dir_fd=top)
        os.fsync(top)
    finally:
        if flags & _IMMUTABLE:
            _set(top, flags)


def _flags(handle: int) -> int:
    """The flags of a directory; none where the file system has none."""
    try:
        raw: int = struct.unpack("i", fcntl.ioctl(handle, _GETFLAGS, bytes(8))[:4])[0]
    except OSError as problem:
        if problem.errno in _NO_FLAGS:
            return 0
        raise
    return raw


def _set(handle: int, flags: int) -> None:
    fcntl.ioctl(handle, _SETFLAGS, struct.pack("ii", flags, 0))
