# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private: what opens a vault, and opening it for root's own use where no other process can see it.

The module's process leaves the host's mount namespace and mounts the vault in its own.  The
namespace ends with its last process, so nothing stays behind that the host would have to unmount;
and should the module be killed, gocryptfs closes by itself after IDLE without use.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import time
from contextlib import contextmanager
from typing import Callable, Iterator, List, NamedTuple, Sequence, Tuple

from ._gocryptfs import failure, mount_argv, wrong_password
from ._mountinfo import at
from ._vault import CIPHERS, HOST_SECRET, Place, VaultError, unseal_argv

Run = Callable[..., Tuple[int, str, str]]  # run(argv, data=None) -> (rc, stdout, stderr)

ROOM = "/run/cordon/vault-admin"
IDLE = "20s"
LOCK_WAIT = 60.0  # seconds
_CLONE_NEWNS = 0x00020000  # sched.h; os.unshare() is there only from Python 3.12 on
# gocryptfs goes on in the background with the output it was given: a pipe would never end for the caller.
_TO_FILE = 'exec "$@" >"$0" 2>&1'


class Key(NamedTuple):
    """Something that may open a vault: where it came from (a path, or "password"), and the line itself."""

    origin: str
    line: str


def no_core_dump() -> None:
    """A crash of this process or of what it starts must not write secrets to disk.

    1, not 0: a handler in kernel.core_pattern gets the memory of a process with any other limit (fs/coredump.c).
    """
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    except ValueError:  # a container that has 0 already, and no right to more
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def enter_private_namespace(run: Run) -> None:
    """Give this process mounts of its own, and an empty tmpfs to mount vaults under."""
    no_core_dump()
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise VaultError(f"a private mount namespace was refused ({reason}): a container needs CAP_SYS_ADMIN")
    os.makedirs(ROOM, mode=0o700, exist_ok=True)
    # Slave: our mounts stay ours, and a vault that its session closes meanwhile is not held open by our copy.
    _must(run, ["mount", "--make-rslave", "/"])
    _must(run, ["mount", "-t", "tmpfs", "-o", "mode=0700,size=1m,nosuid,nodev,noexec", "cordon-vault-admin", ROOM])


@contextmanager
def locked(place: Place, alone: bool) -> Iterator[None]:
    """Keep others from changing what opens the vault; alone: also from opening it meanwhile."""
    if not os.path.isdir(CIPHERS):  # nothing to guard yet
        yield
        return
    with held(place.lock, alone, f"vault of agent {place.name} is in use by another run or is just being opened"):
        yield


@contextmanager
def held(lock: str, alone: bool, else_: str) -> Iterator[None]:
    """Hold a lock; else_ says what it means that somebody else does."""
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _wait_for(handle, lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH, else_)
        yield
    finally:
        os.close(handle)


def _wait_for(handle: int, lock: str, kind: int, else_: str) -> None:
    until = time.monotonic() + LOCK_WAIT
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise VaultError(
                    f"{else_}: {lock} was held for {LOCK_WAIT:.0f} s. lslocks says by whom; try again"
                ) from None
        time.sleep(0.1)


def unseal(run: Run, place: Place, path: str) -> str:
    """Return the key that lies sealed in path."""
    argv = unseal_argv(place, path, _text(path))
    rc, key, err = run(argv)
    if rc != 0 or not key:
        bound_to = HOST_SECRET if argv[0] == "openssl" else "/var/lib/systemd/credential.secret, or the TPM"
        raise VaultError(
            f"{path} cannot be unsealed on this host: {' '.join(err.split())}. A key is bound to the host "
            f"that sealed it ({bound_to}): restore both from the same backup, or put the vault under a new key with "
            f"its master key (docs/vault.md, Escrow)"
        )
    return key


def candidates(run: Run, place: Place, passwords: Sequence[str]) -> Iterator[Key]:
    """What may open a vault, likeliest first; VaultError in the end when there was nothing.

    A sealed key that does not unseal is passed over while there is another: after a power loss one of the two is enough.
    """
    found, refused = 0, []
    for path in (place.key, place.next_key):
        if os.path.lexists(path):
            try:
                line = unseal(run, place, path)
            except VaultError as error:
                refused.append(error)
                continue
            found += 1
            yield Key(path, line)
    for password in passwords:
        found += 1
        yield Key("password", password)
    if refused and not found:
        raise refused[0]
    if not found:
        raise VaultError(
            f"vault of agent {place.name}: it is locked. An operator's password opens it, and none was given: give "
            f"passwords.{place.name}. If it should have a sealed key, {place.key} is missing: restore it from a backup"
        )


def not_opened(place: Place, tried: List[str]) -> str:
    """What to say when nothing that there is opens a vault."""
    return (
        f"vault of agent {place.name}: none of {', '.join(dict.fromkeys(tried))} opens it. A wrong password: give the right one. "
        f"A key of another time: put back the sealed key that belongs to {place.cipher}/gocryptfs.conf, or the matching "
        f"gocryptfs.conf. Damaged: gocryptfs_vault (the role) says whether the copy of it helps; else restore it from a "
        f"backup, or use the master key (docs/vault.md, Escrow)"
    )


def stored(directory: str) -> List[str]:
    """The names in an encrypted directory, without the files that gocryptfs keeps for itself.

    An encrypted name is base64url and has no dot; one too long for that lies as gocryptfs.longname.HASH, beside HASH.name.
    """
    found = os.listdir(directory)
    return [name for name in found if "." not in name or (name.startswith("gocryptfs.longname.") and not name.endswith(".name"))]


def hidden(place: Place, number: int) -> str:
    """What to say of names that do not decrypt: gocryptfs lists a directory without them, as if they had never been."""
    return (
        f"vault of agent {place.name}: {number} of the names in it do not decrypt, and gocryptfs passes over them: a "
        f"gocryptfs.diriv in {place.cipher}, or a name, is damaged. Nothing was changed, and the files are still there: put it "
        f"back from a backup (docs/vault.md, When it does not open), or move {place.cipher} away to start an empty vault"
    )


@contextmanager
def opened(run: Run, place: Place, read_only: bool, passwords: Sequence[str] = ()) -> Iterator[int]:
    """Open a vault under ROOM and yield a descriptor of its top directory.

    All work goes through the descriptor: it keeps the vault from closing, and where the mount has
    died it fails, while a path would lead to the bare directory and secrets would land there in the clear.
    """
    point, log, tried = f"{ROOM}/{place.name}", f"{ROOM}/{place.name}.log", []
    argv = mount_argv(place.cipher, point, place.source, read_only, IDLE)
    # Alone for writing: a session that begins meanwhile waits, and sees all that is written or nothing of it.
    with locked(place, alone=not read_only):
        os.mkdir(point, 0o700)
        try:
            for key in candidates(run, place, passwords):
                code = _mount(run, argv, log, key.line)
                if code == 0:
                    break
                if not wrong_password(code, ""):
                    raise VaultError(failure(f"vault of agent {place.name}", code, _text(log)))
                tried.append(key.origin)
            else:
                raise VaultError(not_opened(place, tried))
            with _unmounted_after(run, point):
                yield from _through_descriptor(place.source, point)
        finally:
            os.rmdir(point)


@contextmanager
def mounted(run: Run, argv: List[str], point: str, source: str, line: str) -> Iterator[int]:
    """Mount by this command line, whose password is line, and yield a descriptor of the top directory."""
    os.mkdir(point, 0o700)
    try:
        code = _mount(run, argv, f"{point}.log", line)
        if code != 0:
            raise VaultError(failure(argv[-2], code, _text(f"{point}.log")))
        with _unmounted_after(run, point):
            yield from _through_descriptor(source, point)
    finally:
        os.rmdir(point)


def _mount(run: Run, argv: List[str], log: str, line: str) -> int:
    rc, _out, _err = run(["bash", "-c", _TO_FILE, log, *argv], data=f"{line}\n")
    return rc


@contextmanager
def _unmounted_after(run: Run, point: str) -> Iterator[None]:
    try:
        yield
    finally:
        _must(run, ["umount", point])


def _through_descriptor(source: str, point: str) -> Iterator[int]:
    top = os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mount = at(_text("/proc/self/mountinfo"), point)
        if mount is None or mount.source != source or os.fstat(top).st_dev == os.stat(ROOM).st_dev:
            raise VaultError(f"{source}: gocryptfs succeeded, but nothing is mounted at {point}")
        yield top
    finally:
        os.close(top)


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read()


def _must(run: Run, argv: List[str]) -> None:
    rc, out, err = run(argv)
    if rc != 0:
        raise VaultError(f"{' '.join(argv)} failed: {' '.join((err or out).split())}")
