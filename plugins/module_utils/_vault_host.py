# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private: observe one agent's vault on this host, and carry out the steps that _vault decides."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import stat
import struct
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from . import _files, _gocryptfs, _vault
from ._manifest_values import NAME
from ._mountinfo import at
from ._vault_keys import Keys
from ._vault_open import Run

# linux/fs.h: _IOR('f', 1, long) and _IOW('f', 2, long). The kernel moves an int in spite of the declared long.
_GETFLAGS = 0x80006601 | struct.calcsize("l") << 16
_SETFLAGS = 0x40006602 | struct.calcsize("l") << 16
_IMMUTABLE = 0x10
_CAP_LINUX_IMMUTABLE = 9  # linux/capability.h
POINT_MODE = 0o555
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# What a file system says that has no such flag.
_NO_FLAGS = (errno.ENOTTY, errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL, errno.ENOSYS)


def unusable(places: Sequence[_vault.Place]) -> List[str]:
    """Why these are not the places of agents' vaults.

    The mount table has paths without symbolic links. Under another path an open vault would be taken for a closed one.
    """
    names = [place.name for place in places]
    found = [
        f"agents: {name!r} is no agent's name: use a lower-case letter, then up to 25 of a-z, 0-9 and _"
        for name in names
        if not NAME.fullmatch(name)
    ]
    found += [f"agents: {name} is named {names.count(name)} times" for name in sorted(set(names)) if names.count(name) > 1]
    homes = [(place, os.path.realpath(place.home)) for place in places]
    return found + [
        f"agent {place.name}: its home {place.home} is really {real}, and the mount table knows that path only: give that "
        f"path, or put a bind mount in the place of the symbolic link"
        for place, real in homes
        if real != place.home
    ]


def observe(place: _vault.Place) -> _vault.Seen:
    """Look at one agent's vault; starts no program."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as table:  # users name mount points as they like
        mount = at(table.read(), place.point)
    covered = mount is not None
    return _vault.Seen(
        user=_user_exists(place.user),
        home=os.path.isdir(place.home),
        cipher=_cipher(place.cipher),
        key=os.path.lexists(place.key),
        next_key=os.path.lexists(place.next_key),
        copy=_copy(place),
        leftover=os.path.lexists(place.staging),
        loose=tuple(_loose(place)),
        mounted=mount.source if mount else None,
        stale=mount is not None and mount.source == place.source and _dead(place.point),
        point="covered" if covered else _point(place.point),
        immutable=None if covered or not _may_set_flags() else _immutable(place.point),
        inside=() if covered or _kind(place.point) != "directory" else tuple(_in_the_clear(place.point)),
    )


def config(place: _vault.Place) -> _gocryptfs.Config:
    """Read a vault's gocryptfs.conf."""
    with open(f"{place.cipher}/{_gocryptfs.CONFIG}", encoding="utf-8") as stream:
        return _gocryptfs.parse_config(stream.read())


def _user_exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _kind(path: str) -> str:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return "absent"
    return "directory" if stat.S_ISDIR(mode) else "other"


def _point(path: str) -> str:
    kind = _kind(path)
    if kind != "directory":
        return kind
    seen = os.lstat(path)
    return kind if (seen.st_uid, seen.st_gid, stat.S_IMODE(seen.st_mode)) == (0, 0, POINT_MODE) else "loose"


def _in_the_clear(point: str) -> List[str]:
    """What lies in the bare mount point; the notices of _vault_notice are links and hold nothing."""
    return sorted(name for name in os.listdir(point) if not os.path.islink(f"{point}/{name}"))


def _cipher(path: str) -> str:
    kind = _kind(path)
    if kind != "directory":
        return kind
    names = set(os.listdir(path))
    if not names:
        return "empty"
    if names <= {*_gocryptfs.OWN_FILES, f"{_gocryptfs.CONFIG}.tmp"} and not names >= _gocryptfs.OWN_FILES:
        return "half"
    try:
        os.stat(f"{path}/{_gocryptfs.IDENTITY}")
        with open(f"{path}/{_gocryptfs.CONFIG}", encoding="utf-8") as stream:
            _gocryptfs.parse_config(stream.read())
    except (OSError, ValueError):
        return "damaged"
    return "vault"


def _copy(place: _vault.Place) -> str:
    if not os.path.lexists(place.copy):
        return "absent"
    texts = []
    for path in (place.copy, f"{place.cipher}/{_gocryptfs.CONFIG}"):
        try:
            with open(path, "rb") as stream:
                texts.append(stream.read())
        except OSError:
            return "differs"
    return "same" if texts[0] == texts[1] else "differs"


def size(place: _vault.Place) -> int:
    """Bytes of the encrypted files; what vanishes meanwhile, or lies deeper than a path can say, is not counted."""
    found, pending = 0, [place.cipher]
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    found += entry.stat(follow_symlinks=False).st_size
    return found


def _modes(place: _vault.Place) -> Iterator[Tuple[str, int]]:
    """The modes of what is root's alone."""
    yield place.cipher, 0o700
    for path in (place.key, place.next_key, place.copy):
        yield path, 0o600


def _loose(place: _vault.Place) -> List[str]:
    found = []
    for path, mode in _modes(place):
        if os.path.lexists(path):
            seen = os.lstat(path)
            if (seen.st_uid, seen.st_gid, stat.S_IMODE(seen.st_mode)) != (0, 0, mode):
                found.append(path)
    return found


def _dead(path: str) -> bool:
    try:
        os.stat(path)
    except OSError as problem:
        return problem.errno == errno.ENOTCONN
    return False


def _may_set_flags() -> bool:
    """Whether this process has CAP_LINUX_IMMUTABLE; Docker takes it away even from root."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        words = [line.split()[1] for line in status if line.startswith("CapEff:")]
    return bool(words) and bool(int(words[0], 16) >> _CAP_LINUX_IMMUTABLE & 1)


def _immutable(path: str) -> Optional[bool]:
    if _kind(path) == "absent":
        return False
    try:
        handle = os.open(path, _DIRECTORY)
    except OSError:
        return None
    try:
        return bool(_flags(handle) & _IMMUTABLE)
    except OSError:
        return None
    finally:
        os.close(handle)


def _flags(handle: int) -> int:
    raw: Tuple[int] = struct.unpack("i", fcntl.ioctl(handle, _GETFLAGS, bytes(8))[:4])
    return raw[0]


class Refused(Exception):
    """A step that this host does not allow and the vault works without; the message says what that means."""


class Worker:
    """Carries out steps for one agent."""

    def __init__(self, run: Run, place: _vault.Place, keys: Keys) -> None:
        self._run = run
        self._place = place
        self._keys = keys

    def act(self, step: str) -> None:
        """Carry out one step of _vault.steps()."""
        acts: Dict[str, Callable[[], None]] = {
            _vault.SEAL: self._keys.seal,
            _vault.CREATE: self._keys.create,
            _vault.SETTLE: self._keys.settle,
            _vault.TO_PASSWORD: self._keys.to_password,
            _vault.TO_SEALED: self._keys.to_sealed,
            _vault.CLOSE_OFF: self._close_off,
            _vault.UNMOUNT_STALE: self._unmount,
            _vault.MAKE_POINT: self._make_point,
            _vault.FIX_POINT: self._fix_point,
        }
        acts[step]()

    def _close_off(self) -> None:
        for path, mode in _modes(self._place):
            if os.path.lexists(path):
                os.chown(path, 0, 0, follow_symlinks=False)
                os.chmod(path, mode)

    def _unmount(self) -> None:
        # Lazy: the process behind the mount is gone, and somebody may still stand in it.
        rc, _out, err = self._run(["umount", "--lazy", self._place.point])
        if rc != 0:
            raise _vault.VaultError(f"{self._place.point}: the dead mount cannot be unmounted: {' '.join(err.split())}")

    def _make_point(self) -> None:
        """Make it, or give it to root: where it cannot be immutable, its owner could write to it in the clear."""
        immutable = _immutable(self._place.point)
        if immutable:
            set_immutable(self._place, False)
        parent = _files.open_parent(self._place.point)
        try:
            _files.make_directory(parent, os.path.basename(self._place.point), _files.Entry("directory", POINT_MODE, 0, 0))
        finally:
            os.close(parent)
            if immutable:
                set_immutable(self._place, True)

    def _fix_point(self) -> None:
        """Without the flag a program run by root would write secrets to the bare directory, in the clear."""
        set_immutable(self._place, True)


def set_immutable(place: _vault.Place, wanted: bool) -> None:
    """Make a mount point immutable or not; Refused where this host has no such flag."""
    handle = os.open(place.point, _DIRECTORY)
    try:
        flags = _flags(handle)
        flags = flags | _IMMUTABLE if wanted else flags & ~_IMMUTABLE
        fcntl.ioctl(handle, _SETFLAGS, struct.pack("ii", flags, 0))
    except OSError as problem:
        if problem.errno not in _NO_FLAGS:
            raise
        raise Refused(_vault.not_immutable(place, str(problem.strerror))) from problem
    finally:
        os.close(handle)
