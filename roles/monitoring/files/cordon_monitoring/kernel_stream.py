# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's log lines, and those of our resolver, from the journal, from a durable cursor.

journalctl follows and hands out the cursor of every line: it is on every host that has systemd, and
reads the formats of all its releases.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from typing import Any, Callable, Iterator

from . import resolver_line
from .firewall_line import KernelLine

# journalctl(1): "+" is a logical or.
_MATCHES = ["_TRANSPORT=kernel", "+", f"_SYSTEMD_UNIT={resolver_line.UNIT}"]
_COMMAND = ["journalctl", "--follow", "--no-tail", "--quiet", "--output=json", *_MATCHES]
_RETRY = 5.0  # seconds between starts of a journalctl that ended


class KernelStream:
    """Lines of the journal. `readable` is False while journalctl cannot be run or keeps ending."""

    def __init__(self, cursor: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.cursor = cursor
        self.gaps = 0
        self.readable = True
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._started = -_RETRY
        self._fresh = False  # the running journalctl has not yet said anything
        self._rest = b""

    def poll(self) -> Iterator[KernelLine]:
        """Lines that came since the last call."""
        if not self._running():
            return
        assert self._process and self._process.stdout
        while chunk := self._read(self._process.stdout.fileno()):
            *whole, self._rest = (self._rest + chunk).split(b"\n")
            for text in whole:
                self._fresh = False
                entry = json.loads(text)
                self.cursor = entry["__CURSOR"]
                yield _line(entry)

    def close(self) -> None:
        """End journalctl."""
        if self._process:
            self._process.terminate()
            self._process.wait()

    def _running(self) -> bool:
        if self._process and self._process.poll() is None:
            # It lives a while: it can read the journal.
            self.readable = self.readable or self._clock() - self._started > 1
            return True
        if self._clock() - self._started < _RETRY:
            return False
        if self._process:
            self._ended()
        return self._start()

    def _ended(self) -> None:
        self.readable = False
        if self._fresh and self.cursor:
            # The journal no longer knows the cursor (it was vacuumed or is volatile): begin with this boot.
            self.cursor = None
            self.gaps += 1

    def _start(self) -> bool:
        self._started, self._fresh, self._rest = self._clock(), True, b""
        where = ["--after-cursor", self.cursor] if self.cursor else ["--boot"]
        try:
            self._process = subprocess.Popen(_COMMAND + where, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        except OSError:
            self.readable = False
            return False
        assert self._process.stdout
        os.set_blocking(self._process.stdout.fileno(), False)
        return True

    @staticmethod
    def _read(descriptor: int) -> bytes:
        try:
            return os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return b""


def _line(entry: dict[str, Any]) -> KernelLine:
    message = entry.get("MESSAGE")
    if isinstance(message, list):  # bytes that are not UTF-8
        message = bytes(message).decode("utf-8", "replace")
    if entry.get("_TRANSPORT") != "kernel":
        # Two lines of a program may have one time; a cursor names one entry.
        stamp = hashlib.sha256(entry["__CURSOR"].encode()).hexdigest()[:24]
        unit = str(entry.get("_SYSTEMD_UNIT", "-"))
        return KernelLine(int(entry["__REALTIME_TIMESTAMP"]) / 1e6, stamp, message or "", unit)
    since_boot = entry.get("_SOURCE_MONOTONIC_TIMESTAMP") or entry["__MONOTONIC_TIMESTAMP"]
    stamp = f"{entry['_BOOT_ID'][:12]}:{since_boot}"
    return KernelLine(int(entry["__REALTIME_TIMESTAMP"]) / 1e6, stamp, message or "")
