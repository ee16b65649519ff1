# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private: open a vault for root's own use, where no other process can see it.

The module's process leaves the host's mount namespace and mounts the vault in its own.  The
namespace ends with its last process, so nothing stays behind that the host would have to unmount;
and should the module be killed, gocryptfs closes by itself after IDLE without use.
"""

from __future__ import annotations

import ctypes
import os
import resource
from contextlib import contextmanager
from typing import Callable, Iterator, List, Tuple

from ._gocryptfs import failure, mount_argv
from ._mountinfo import at
from ._vault import HOST_SECRET, Place, VaultError, unseal_argv

Run = Callable[..., Tuple[int, str, str]]  # run(argv, data=None) -> (rc, stdout, stderr)

ROOM = "/run/cordon/vault-admin"
IDLE = "20s"
_CLONE_NEWNS = 0x00020000  # sched.h; os.unshare() is there only from Python 3.12 on
# gocryptfs goes on in the background with the output it was given: a pipe would never end for the caller.
_TO_FILE = 'exec "$@" >"$0" 2>&1'


def enter_private_namespace(run: Run) -> None:
    """Give this process mounts of its own, and an empty tmpfs to mount vaults under."""
    # A crash of this process or of what it starts must not write secrets to disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise VaultError(f"a private mount namespace was refused ({reason}): a container needs CAP_SYS_ADMIN")
    os.makedirs(ROOM, mode=0o700, exist_ok=True)
    # Slave: our mounts stay ours, and a vault that its session closes meanwhile is not held open by our copy.
    _must(run, ["mount", "--make-rslave", "/"])
    _must(run, ["mount", "-t", "tmpfs", "-o", "mode=0700,size=1m,nosuid,nodev,noexec", "cordon-vault-admin", ROOM])


def unseal(run: Run, place: Place) -> str:
    """Return the key of a vault."""
    argv = unseal_argv(place, _text(place.key))
    rc, key, err = run(argv)
    if rc != 0 or not key:
        bound_to = HOST_SECRET if argv[0] == "openssl" else "/var/lib/systemd/credential.secret, or the TPM"
        raise VaultError(
            f"{place.key} cannot be unsealed on this host: {' '.join(err.split())}. A key is bound to the host "
            f"that sealed it ({bound_to}): restore both from the same backup"
        )
    return key


@contextmanager
def opened(run: Run, place: Place, read_only: bool) -> Iterator[int]:
    """Open a vault under ROOM and yield a descriptor of its top directory.

    All work goes through the descriptor: it keeps the vault from closing, and where the mount has
    died it fails, while a path would lead to the bare directory and secrets would land there in the clear.
    """
    point, log = f"{ROOM}/{place.name}", f"{ROOM}/{place.name}.log"
    os.mkdir(point, 0o700)
    argv = mount_argv(place.cipher, point, place.source, read_only, IDLE)
    rc, _out, _err = run(["bash", "-c", _TO_FILE, log, *argv], data=unseal(run, place))
    if rc != 0:
        raise VaultError(failure(f"vault of agent {place.name}", rc, _text(log)))
    try:
        yield from _through_descriptor(place, point)
    finally:
        _must(run, ["umount", point])


def _through_descriptor(place: Place, point: str) -> Iterator[int]:
    top = os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mount = at(_text("/proc/self/mountinfo"), point)
        if mount is None or mount.source != place.source or os.fstat(top).st_dev == os.stat(ROOM).st_dev:
            raise VaultError(f"vault of agent {place.name}: gocryptfs succeeded, but nothing is mounted at {point}")
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
