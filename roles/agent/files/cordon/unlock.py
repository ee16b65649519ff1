# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""cordonctl unlock: bring an operator's password to the vault that waits for it (locked.py), and say what became of it.

The password is read after this program's memory was locked and its core dumps switched off, and goes out as one
message to a socket that only root reaches. It is in no argument, no environment and no file.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import socket
import sys
import termios
import time
from contextlib import contextmanager
from typing import Any, Dict, Iterator, Mapping

from . import _facts_memory, _mountinfo, host, locked
from ._facts_source import Source

STARTED_WITHIN = 60  # seconds until the vault's unit waits, once it was asked to start
OPENED_WITHIN = 180  # seconds: gocryptfs's scrypt, on a slow and busy machine
_MCL_CURRENT_AND_FUTURE = 3  # sys/mman.h
_PR_SET_DUMPABLE = 4  # sys/prctl.h


class Refused(Exception):
    """The vault was not opened; the message says why and what to do."""


def one(agent: str) -> int:
    """Open one vault with the password from the terminal or standard input; exit code 0 when it is open."""
    entry = _checked(agent)
    if is_open(entry):
        print(f"the vault of agent {agent} is already open")
        return 0
    lock_memory()
    _await_question(agent)
    password = _asked(f"Password of the vault of agent {agent}: ") if sys.stdin.isatty() else _read(sys.stdin.fileno())
    _must_open(entry, password)
    print(f"the vault of agent {agent} is open; what waited for it goes on")
    return 0


def several() -> int:
    """Open vaults with passwords by name, JSON from standard input; say what became of each, as JSON. 1 if one stays closed."""
    lock_memory()
    given = _passwords(_read(sys.stdin.fileno(), 64 * locked.LONGEST))
    found = {agent: _outcome(agent, given[agent]) for agent in sorted(given)}
    print(json.dumps(found, indent=2))
    return 0 if all(outcome["open"] for outcome in found.values()) else 1


def states() -> Dict[str, str]:
    """locked or open, for each agent of this host whose vault an operator opens."""
    entries = [entry for entry in host.agents() if locked.unlock_of(entry) == "operator"]
    return {entry["name"]: "open" if is_open(entry) else "locked" for entry in entries}


def _outcome(agent: str, password: bytearray) -> Dict[str, Any]:
    try:
        entry = _checked(agent)
        if is_open(entry):
            return {"open": True, "changed": False, "message": "already open"}
        _await_question(agent)
        _must_open(entry, password)
    except (Refused, host.HostError) as error:
        return {"open": False, "changed": False, "message": str(error)}
    return {"open": True, "changed": True, "message": "opened"}


def _passwords(text: bytearray) -> Dict[str, bytearray]:
    try:
        given = json.loads(text)
    except ValueError:
        given = None
    locked.wipe(text)
    if not isinstance(given, Mapping) or not all(isinstance(value, str) and value for value in given.values()):
        raise Refused('standard input is not JSON of the form {"AGENT": "PASSWORD"}')
    return {agent: bytearray(password.encode()) for agent, password in given.items()}


def _checked(agent: str) -> Dict[str, Any]:
    entry = host.require(agent)
    if locked.unlock_of(entry) != "operator":
        raise Refused(f"no operator unlocks the vault of agent {agent}: this host opens it by itself for each session (the "
                      f"manifest has vault.unlock: sealed). If it does not open: journalctl -u cordon-vault@{agent} -n 30")
    return entry


def is_open(entry: Mapping[str, Any]) -> bool:
    """Whether the agent's own vault is mounted at its place."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as table:
        mount = _mountinfo.at(table.read(), f"{entry['home']}/.vault")
    return mount is not None and mount.source == f"cordon-vault-{entry['name']}"


def lock_memory() -> None:
    """Keep this process out of swap and core dumps; Refused where neither a lock nor the swap keeps it off the disk."""
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if library.mlockall(_MCL_CURRENT_AND_FUTURE) == 0:
        return
    reason = os.strerror(ctypes.get_errno())
    clear = _facts_memory.in_the_clear(_facts_memory.swaps(Source(host.run)))
    if clear:
        raise Refused(f"the memory of this program cannot be locked ({reason}), and swap lies on a disk in the clear "
                      f"({', '.join(clear)}): swapoff -a, or encrypt it (crypttab(5), option swap)")


def _await_question(agent: str) -> None:
    """Have the vault's unit wait for the password: it does since something started that needs it, or the agent is started now."""
    unit, vault, asked = f"cordon-agent@{agent}.service", f"cordon-vault@{agent}.service", False
    end = time.monotonic() + STARTED_WITHIN
    while not _connects(agent):
        # A unit that has just failed for too many wrong passwords is still on its way down.
        if not asked and not _starts(vault):
            _start(unit, vault)
            asked = True
        if time.monotonic() > end:
            raise Refused(f"nothing asked for the password of agent {agent} within {STARTED_WITHIN} s: "
                          f"systemctl status {unit}; journalctl -u {vault} -n 30")
        time.sleep(0.2)


def _start(unit: str, vault: str) -> None:
    host.run(["systemctl", "reset-failed", unit, vault])
    rc, _out, err = host.run(["systemctl", "start", "--no-block", unit])
    if rc != 0:
        raise Refused(f"{unit} cannot be started: {err.strip()}")


def _starts(unit: str) -> bool:
    """Whether a unit is about to start, for whoever that may be."""
    _rc, shown, _err = host.run(["systemctl", "show", "--property=ActiveState,Job", unit])
    return bool(re.search(r"^(ActiveState=(de)?activating|Job=[1-9])", shown, re.MULTILINE))


def _connects(agent: str) -> bool:
    """Whether somebody listens: the socket of a unit that was killed is still there."""
    try:
        with _connection(agent):
            return True
    except (FileNotFoundError, ConnectionRefusedError):
        return False


@contextmanager
def _connection(agent: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        channel.connect(locked.path(agent, locked.DIRECTORY))
        yield channel


def _must_open(entry: Mapping[str, Any], password: bytearray) -> None:
    """Hand the password over and wait for the answer; Refused with the reason where it did not open the vault."""
    agent = entry["name"]
    if not 0 < len(password) <= locked.LONGEST:
        locked.wipe(password)
        raise Refused(f"the password has no character, or more than {locked.LONGEST} bytes")
    try:
        with _connection(agent) as channel:
            channel.settimeout(OPENED_WITHIN)
            channel.sendall(password)
            answer = channel.recv(4096)
    except OSError as error:
        answer = json.dumps({"opened": False, "message": f"its unit gave no answer ({error})"}).encode()
    finally:
        locked.wipe(password)
    verdict = json.loads(answer) if answer else {"opened": False, "message": "its unit ended without an answer"}
    # Somebody else may have been quicker.
    if not verdict["opened"] and not is_open(entry):
        raise Refused(f"the vault of agent {agent} is not open: {verdict['message']}. journalctl -u cordon-vault@{agent} -n 30")


def _read(descriptor: int, most: int = locked.LONGEST + 2) -> bytearray:
    """What a descriptor gives until its end, without the last line end; into one buffer, which the caller overwrites."""
    buffer, size = bytearray(most), 0
    while size < most:
        got = os.readv(descriptor, [memoryview(buffer)[size:]])
        if not got:
            break
        size += got
    while size and buffer[size - 1] in b"\r\n":
        size -= 1
    del buffer[size:]
    return buffer


def _asked(question: str) -> bytearray:
    """A line from the terminal, which does not show it."""
    terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    before = termios.tcgetattr(terminal)
    silent = before[:3] + [before[3] & ~termios.ECHO] + before[4:]
    try:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, silent)
        os.write(terminal, question.encode())
        buffer = bytearray(locked.LONGEST + 2)
        size = os.readv(terminal, [buffer])
        del buffer[size:]
        if buffer.endswith(b"\n"):
            del buffer[-1]
        return buffer
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
        os.write(terminal, b"\n")
        os.close(terminal)
