# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private: observe one agent's vault on this host, and carry out the steps that _vault decides."""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import secrets
import stat
import struct
from typing import Callable, Dict, List, Optional, Tuple

from . import _files, _gocryptfs, _vault
from ._mountinfo import at
from ._vault_open import unseal

Run = Callable[..., Tuple[int, str, str]]  # run(argv, data=None) -> (rc, stdout, stderr)

# linux/fs.h: _IOR('f', 1, long) and _IOW('f', 2, long). The kernel moves an int in spite of the declared long.
_GETFLAGS = 0x80006601 | struct.calcsize("l") << 16
_SETFLAGS = 0x40006602 | struct.calcsize("l") << 16
_IMMUTABLE = 0x10
_CAP_LINUX_IMMUTABLE = 9  # linux/capability.h
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# What a file system says that has no such flag.
_NO_FLAGS = (errno.ENOTTY, errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL, errno.ENOSYS)


def observe(place: _vault.Place) -> _vault.Seen:
    """Look at one agent's vault; starts no program."""
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        mount = at(table.read(), place.point)
    covered = mount is not None
    return _vault.Seen(
        user=_user_exists(place.user),
        home=os.path.isdir(place.home),
        cipher=_cipher(place.cipher),
        key=os.path.lexists(place.key),
        loose=tuple(_loose(place)),
        mounted=mount.source if mount else None,
        stale=mount is not None and mount.source == place.source and _dead(place.point),
        point="covered" if covered else _kind(place.point),
        immutable=None if covered or not _may_set_flags() else _immutable(place.point),
        inside=() if covered or _kind(place.point) != "directory" else tuple(sorted(os.listdir(place.point))),
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


def _cipher(path: str) -> str:
    kind = _kind(path)
    if kind != "directory":
        return kind
    names = os.listdir(path)
    if not names:
        return "empty"
    try:
        with open(f"{path}/{_gocryptfs.CONFIG}", encoding="utf-8") as stream:
            _gocryptfs.parse_config(stream.read())
    except (OSError, ValueError):
        return "damaged"
    return "vault"


def _loose(place: _vault.Place) -> List[str]:
    found = []
    for path, mode in ((place.cipher, 0o700), (place.key, 0o600)):
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

    def __init__(self, run: Run, place: _vault.Place, seal: str, program: str) -> None:
        self._run = run
        self._place = place
        self._seal_with = seal
        self._program = program

    def act(self, step: str) -> None:
        """Carry out one step of _vault.steps()."""
        acts: Dict[str, Callable[[], None]] = {
            _vault.SEAL: self._seal,
            _vault.CREATE: self._create,
            _vault.CLOSE_OFF: self._close_off,
            _vault.UNMOUNT_STALE: self._unmount,
            _vault.MAKE_POINT: self._make_point,
            _vault.FIX_POINT: self._fix_point,
        }
        acts[step]()

    def _seal(self) -> None:
        """Make a key and keep it sealed only; in the clear it passes through pipes."""
        _private_directory(_vault.KEYS)
        if self._program == "openssl" and not os.path.lexists(_vault.HOST_SECRET):
            os.makedirs(os.path.dirname(_vault.HOST_SECRET), mode=0o755, exist_ok=True)
            _write(_vault.HOST_SECRET, secrets.token_hex(32))
        argv = _vault.seal_argv(self._place, self._seal_with, self._program, os.path.exists(_vault.TPM))
        _write(self._place.key, self._must(argv, data=secrets.token_hex(32)))

    def _create(self) -> None:
        """Make the vault under another name and rename it when it is on disk: it exists whole or not at all."""
        _private_directory(_vault.CIPHERS)
        staging, parent = self._place.staging, _files.open_parent(self._place.staging)
        try:
            if os.path.lexists(staging):
                _files.remove(parent, os.path.basename(staging))
            os.mkdir(staging, 0o700)
            rc, out, err = self._run(_gocryptfs.init_argv(staging), data=unseal(self._run, self._place))
            if rc != 0:
                raise _vault.VaultError(_gocryptfs.failure(f"{self._place.cipher} was not made", rc, err or out))
            _sync(staging)
            os.rename(staging, self._place.cipher)
            os.fsync(parent)
        finally:
            os.close(parent)

    def _close_off(self) -> None:
        for path, mode in ((self._place.cipher, 0o700), (self._place.key, 0o600)):
            os.chown(path, 0, 0, follow_symlinks=False)
            os.chmod(path, mode)

    def _unmount(self) -> None:
        # Lazy: the process behind the mount is gone, and somebody may still stand in it.
        self._must(["umount", "--lazy", self._place.point])

    def _make_point(self) -> None:
        parent = _files.open_parent(self._place.point)
        try:
            _files.make_directory(parent, os.path.basename(self._place.point), _files.Entry("directory", 0o555, 0, 0))
        finally:
            os.close(parent)

    def _fix_point(self) -> None:
        """Without the flag a program run by root would write secrets to the bare directory, in the clear."""
        handle = os.open(self._place.point, _DIRECTORY)
        try:
            fcntl.ioctl(handle, _SETFLAGS, struct.pack("ii", _flags(handle) | _IMMUTABLE, 0))
        except OSError as problem:
            if problem.errno not in _NO_FLAGS:
                raise
            raise Refused(_vault.not_immutable(self._place, str(problem.strerror))) from problem
        finally:
            os.close(handle)

    def _must(self, argv: List[str], data: Optional[str] = None) -> str:
        rc, out, err = self._run(argv, data=data)
        if rc != 0:
            raise _vault.VaultError(f"{' '.join(argv)} failed: {' '.join((err or out).split())}")
        return out


def _write(path: str, text: str) -> None:
    """Write a file for root alone, on disk before it is visible."""
    parent = _files.open_parent(path)
    try:
        _files.write_file(parent, os.path.basename(path), _files.Entry("file", 0o600, 0, 0, text))
    finally:
        os.close(parent)


def _private_directory(path: str) -> None:
    """Make a directory for root alone."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    parent = _files.open_parent(path)
    try:
        _files.make_directory(parent, os.path.basename(path), _files.Entry("directory", 0o700, 0, 0))
    finally:
        os.close(parent)


def _sync(directory: str) -> None:
    """Put a directory and its files on disk."""
    for path in [*(f"{directory}/{name}" for name in os.listdir(directory)), directory]:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
