# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a vault's unit asks of the library: to wait for an operator's password, and two things that are rarely needed.

    wait NAME GOCRYPTFS...  wait until cordonctl unlock brings the password that opens the vault; exit code 3 when the host got a
                            key of its own for it meanwhile
    swap                    exit code 1 where swapped memory would lie on a disk in the clear
    left NAME PATH...       tell that something like a key was found after a session; exit code 1

No file holds the password. It comes as one message to a socket that only root reaches, goes on to gocryptfs through
a pipe, and its buffer is overwritten. The kernel swaps out neither sockets nor pipes, and nothing of this unit
(MemorySwapMax=0). docs/vault.md says why this is not systemd-ask-password.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import struct
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from typing import Any, Dict, Iterator, List

from . import _facts_memory, host, spool
from ._facts_source import Source

DIRECTORY = "/run/cordon/unlock"  # one socket for each vault that waits, by the agent's name
LONGEST = 2000  # bytes of a password, as gocryptfs_vault takes it
ATTEMPTS = 5  # wrong passwords before the start fails; the next unlock starts it again
PATIENCE = 10  # seconds that a caller has to send; it connects only when it has the password
LOCK = "/var/lib/cordon/vault/.%s.lock"  # held alone by a run that changes what opens the vault, or writes to it
LOCKED_FOR = 60.0  # seconds that such a run is waited for
BUSY = 75  # EX_TEMPFAIL, sysexits.h
KEY = "/etc/cordon/vault/%s.cred"  # there when the vault was handed back to the host: vault.unlock: sealed
SEALED = 3
LOOKS = 5.0  # seconds between looks for it
WRONG_PASSWORD = 12  # gocryptfs, internal/exitcodes/exitcodes.go


def path(agent: str, directory: str = DIRECTORY) -> str:
    """Where the vault of an agent waits, while it does."""
    return os.path.join(directory, agent)


def wait(agent: str, command: List[str], directory: str = DIRECTORY) -> int:
    """Take passwords until one opens the vault: exit code 0. 1 after ATTEMPTS wrong ones, and after a fault that none mends.

    SEALED when none is needed any more.
    """
    left = ATTEMPTS
    with _listening(path(agent, directory)) as listener:
        while left:
            if not _called(listener, agent):
                return SEALED
            with _caller(listener) as caller:
                password = _received(caller)
                if not password:
                    continue
                code = _open(LOCK % agent, command, password)
                left -= code == WRONG_PASSWORD
                answer = _answer(code, left)
                left = left if answer["again"] else 0
                _reply(caller, answer)
                if answer["opened"]:
                    return 0
                print(f"vault of agent {agent}: {answer['message']}", file=sys.stderr, flush=True)
    return 1


def _answer(code: int, left: int) -> Dict[str, Any]:
    """What the caller is told of gocryptfs's exit code. again: whether the vault goes on waiting."""
    if code == 0:
        return {"opened": True, "again": False, "message": "opened"}
    if code == BUSY:
        return {"opened": False, "again": True, "message": f"a run of the role changes it; try again ({LOCKED_FOR:.0f} s waited)"}
    if code != WRONG_PASSWORD:
        # gocryptfs's own words are in the journal: it keeps the output that it was given for as long as it runs.
        return {"opened": False, "again": False, "message": f"gocryptfs could not open it (exit code {code})"}
    more = f"{left} more before the start fails" if left else "that was one too many: the start has failed"
    return {"opened": False, "again": left > 0, "message": f"wrong password, {more}"}


@contextmanager
def _listening(place: str) -> Iterator[socket.socket]:
    os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
    new = f"{place}.new"
    with suppress(FileNotFoundError):
        os.unlink(new)
    # Whole messages or nothing: half a password is never tried.
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(new)
        os.chmod(new, 0o600)
        listener.listen(8)
        os.rename(new, place)
        try:
            yield listener
        finally:
            with suppress(FileNotFoundError):
                os.unlink(place)


def _called(listener: socket.socket, agent: str) -> bool:
    """Wait for the next caller. Until there is one, systemd is told what is waited for.

    False when the host can open the vault by itself: nobody would call any more.
    """
    _notify(f"STATUS=locked: cordonctl unlock {agent}")
    try:
        while not os.path.exists(KEY % agent):
            if select.select([listener], [], [], LOOKS)[0]:
                return True
        return False
    finally:
        _notify("STATUS=")  # systemd shows a unit's last word for as long as it runs


@contextmanager
def _caller(listener: socket.socket) -> Iterator[socket.socket]:
    caller, _address = listener.accept()
    with caller:
        caller.settimeout(PATIENCE)
        yield caller


def _notify(text: str) -> None:
    """sd_notify(3); nothing where systemd did not start this."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(text.encode(), "\0" + address[1:] if address.startswith("@") else address)


def _received(caller: socket.socket) -> bytearray:
    """The password; empty from somebody who is not root, says nothing, or says too much.

    The directory lets only root in. This holds where somebody opened it by mistake.
    """
    credentials = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    buffer = bytearray(LONGEST + 1)
    try:
        size = caller.recv_into(buffer) if struct.unpack("3i", credentials)[1] == os.getuid() else 0
    except OSError:
        size = 0
    if not 0 < size <= LONGEST:
        wipe(buffer)
        size = 0
    del buffer[size:]
    return buffer


def _open(lock: str, command: List[str], password: bytearray) -> int:
    """Run gocryptfs with the password on its standard input; its exit code, or BUSY. The buffer is empty afterwards."""
    try:
        with open(lock, "ab") as guard:
            return _typed_in(command, password) if _shared(guard.fileno()) else BUSY
    finally:
        wipe(password)


def _typed_in(command: List[str], password: bytearray) -> int:
    # bufsize=0: no Python object in between keeps a copy.
    with subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0) as child:
        try:
            os.write(child.stdin.fileno() if child.stdin else -1, password)
        except BrokenPipeError:
            pass  # it ended before it asked: its exit code says why
        finally:
            if child.stdin:
                child.stdin.close()
        return child.wait()


def _shared(guard: int) -> bool:
    """Keep others from changing what opens the vault meanwhile. gocryptfs does not inherit this (PEP 446)."""
    end = time.monotonic() + LOCKED_FOR
    while True:
        try:
            fcntl.flock(guard, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
        time.sleep(0.1)


def wipe(buffer: bytearray) -> None:
    """Overwrite what a buffer holds."""
    buffer[:] = bytes(len(buffer))


def _reply(caller: socket.socket, answer: Dict[str, Any]) -> None:
    try:
        caller.send(json.dumps(answer).encode())
    except OSError as error:
        print(f"the caller did not wait for the answer ({error}): {answer['message']}", file=sys.stderr)


def swap() -> int:
    """Exit code 1, and why, where memory that is swapped out would lie on a disk in the clear."""
    source = Source(host.run)
    clear = _facts_memory.in_the_clear(_facts_memory.swaps(source))
    if not clear:
        return 0
    print(f"swap lies on a disk in the clear ({', '.join(clear)}), and this kernel does not keep the unit's memory out of it: "
          "swapoff -a, or encrypt it (crypttab(5), option swap), or boot with cgroup v2 and its memory controller",
          file=sys.stderr)
    return 1


def left(agent: str, paths: List[str]) -> int:
    """Tell in the journal and by an alert what was found after a session. It may be the key: nobody removes it unseen."""
    summary = f"after a session of agent {agent} this lay in memory-backed files, and may be a key: {', '.join(paths)}"
    print(f"vault of agent {agent}: {summary}", file=sys.stderr)
    try:
        spool.put("vault-residue", "critical", agent, summary)
    except OSError as error:
        print(f"no alert could be left: {error}", file=sys.stderr)
    return 1


def main(arguments: List[str]) -> int:
    """Exit code 0 done, 1 not; what went wrong is told on standard error."""
    verb, rest = arguments[0], arguments[1:]
    if verb == "swap":
        return swap()
    if verb == "left":
        return left(rest[0], rest[1:])
    if verb != "wait":
        raise SystemExit(f"vault-operator: wait, swap or left, not {verb}")
    agent = rest[0]
    try:
        entry = host.require(agent)
    except host.HostError as error:
        print(f"vault of agent {agent}: {error}", file=sys.stderr)
        return 1
    if unlock_of(entry) != "operator":
        print(f"vault of agent {agent}: the sealed key /etc/cordon/vault/{agent}.cred is missing: restore it from a backup of "
              "this host, or run the role cordon.agent_host.vault", file=sys.stderr)
        return 1
    return wait(agent, rest[1:])


def unlock_of(entry: Dict[str, Any]) -> str:
    """Who opens an agent's vault: sealed (this host by itself) or operator."""
    return str((entry.get("vault") or {}).get("unlock", "sealed"))
