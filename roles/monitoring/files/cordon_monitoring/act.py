# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the records of one audited act: who, what, where, and what the kernel said. Pure."""

from __future__ import annotations

import errno
import os.path
import re
from typing import Mapping, NamedTuple

from . import socket_address

Record = Mapping[str, str]

_PROFILE = re.compile(r"cordon\.([a-z][a-z0-9_]*)")
_LONGEST = 1000  # characters of one argument in the event log
_UNTRUSTED = frozenset({"profile", "name", "comm", "target", "srcname", "peer"})
_HEX = re.compile(r"(?:[0-9A-F]{2})+")
_CURRENT_DIRECTORY = "AT_FDCWD"


class AuditEvent(NamedTuple):
    """All records of one act. records: [{"type": "SYSCALL", "syscall": "openat", "exit": "-13", ...}]."""

    seconds: float
    stamp: str  # "1700000000.123:456", unique on this host
    records: list[dict[str, str]]


def plain(name: str, raw: str) -> str:
    """A field of an AVC as the kernel wrote it, without quotes; text that it does not trust is hex if it needs quoting
    (audit_log_untrustedstring(), kernel/audit.c)."""
    if name in _UNTRUSTED and _HEX.fullmatch(raw):
        return bytes.fromhex(raw).decode("utf-8", "replace")
    return raw.strip('"')


def _cut(argument: str) -> str:
    """An argument may be 128 KiB long; the audit log has all of it."""
    return argument if len(argument) <= _LONGEST else f"{argument[:_LONGEST]}... ({len(argument)} characters)"


class Act:
    """The records of an event, found by type."""

    def __init__(self, event: AuditEvent) -> None:
        self.event = event
        self.syscall: Record = self._first("SYSCALL")
        self.avcs = [record for record in event.records if record["type"] == "AVC" and "apparmor" in record]

    def _first(self, kind: str) -> Record:
        return next((record for record in self.event.records if record["type"] == kind), {})

    @property
    def call(self) -> str:
        """Name of the system call, or ''."""
        return self.syscall.get("syscall", "")

    @property
    def error(self) -> str | None:
        """Name of the error that the call ended with."""
        number = self.syscall.get("exit", "0")
        return errno.errorcode.get(-int(number), number) if re.fullmatch(r"-\d+", number) else None

    @property
    def keys(self) -> list[str]:
        """Keys of the rule that made the record (several are joined with \x01)."""
        return re.split(r"[\x01 ]", self.syscall.get("key", ""))

    def verdict(self) -> Record:
        """The AVC that decided: a denial before a note that an access was watched, that before burn-in."""
        for word in ("DENIED", "AUDIT", "ALLOWED"):
            for record in self.avcs:
                if record["apparmor"] == word:
                    return record
        return {}

    def agent(self, by_uid: Mapping[int, str]) -> str | None:
        """The agent who acted: by uid, or by the name of the AppArmor profile."""
        uid = self.syscall.get("uid") or self.verdict().get("fsuid", "")
        known = by_uid.get(int(uid)) if uid.isdigit() else None
        match = _PROFILE.match(self.verdict().get("profile", ""))
        return known or (match[1] if match else None)

    def profile(self) -> str | None:
        """The whole label, without the mode and without the '=' that the kernel puts before some."""
        label = self.syscall.get("subj") or self.verdict().get("profile", "")
        return re.sub(r" \(.*\)$", "", label).lstrip("=") or None

    def argv(self) -> list[str]:
        """The arguments; a long one comes in pieces a1[0], a1[1], and several records."""
        parts: dict[int, str] = {}
        for record in self.event.records:
            if record["type"] == "EXECVE":
                for name, value in record.items():
                    match = re.fullmatch(r"a(\d+)(\[\d+\])?", name)
                    if match:
                        parts[int(match[1])] = parts.get(int(match[1]), "") + value
        return [_cut(parts[number]) for number in sorted(parts)]

    def path(self) -> str | None:
        """The path acted on: AppArmor's is resolved and whole; else PATH, made absolute with CWD."""
        if self.verdict().get("name"):
            return self.verdict()["name"]
        items = [item for item in self.event.records if item["type"] == "PATH" and item.get("name", "(null)") != "(null)"]
        named = [item for item in items if item.get("nametype") not in ("PARENT", "UNKNOWN")] or items
        return self._absolute(named[0]["name"]) if named else None

    def _absolute(self, name: str) -> str:
        """A final slash stays: where a read-only file system refuses, the kernel names the directory only."""
        whole = os.path.normpath(os.path.join(self._base(), name))
        return whole + "/" if name.endswith("/") and whole != "/" else whole

    def _base(self) -> str:
        """Where a relative name starts; '' where the record does not tell (another directory's descriptor)."""
        relative_to_descriptor = self.call.endswith(("at", "at2")) and self.syscall.get("a0") != _CURRENT_DIRECTORY
        return "" if relative_to_descriptor else self._first("CWD").get("cwd", "")

    def socket(self) -> socket_address.SocketAddress | None:
        """Where a connection was to go."""
        return socket_address.decode(self._first("SOCKADDR").get("saddr", ""))

    def target_program(self) -> str | None:
        """Name of the process that a signal was meant for."""
        return self._first("OBJ_PID").get("ocomm")
