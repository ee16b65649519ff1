# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's audit records, as whole events, from auditd's own log.

Why the log and not auditd's socket plugin: the log is kept while nobody reads, so a restart loses
nothing; it is the same in auditd 3 (where the plugin is built in) and 4 (where it is a package of its
own); and with auditd running, AppArmor's records go there and nowhere else.
Records are put together and decoded by libauparse, the audit project's own parser.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import auparse  # Debian and Ubuntu: python3-audit

from .act import AuditEvent, plain
from .log_tail import Cursor, LogTail

AUDIT_LOG = Path("/var/log/audit/audit.log")
_STAMP = re.compile(r"msg=audit\((\d+\.\d+:\d+)\)")
# An event whose parts never become whole must not hold the cursor back for ever.
_GIVE_UP = 60.0  # seconds

# Left as the record has them: numbers that decisions rest on, and bytes that we decode ourselves.
_RAW = frozenset({"uid", "auid", "euid", "fsuid", "ouid", "pid", "ppid", "exit", "success", "saddr", "item", "nametype"})
# Fields of AppArmor that libauparse takes for other records' (family="inet" for a number, flags for those of mmap), or
# leaves in hex.
_APPARMOR = frozenset({"family", "flags", "target", "srcname", "peer"})


class AuditStream:
    """Whole events from the log. `safe_cursor` never passes an event that was not yielded."""

    def __init__(self, path: Path = AUDIT_LOG, cursor: Cursor | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.tail = LogTail(path, cursor)
        self.malformed = 0
        self._clock = clock
        self._waiting: dict[str, tuple[Cursor, float]] = {}
        self._ready: list[AuditEvent] = []
        self._parser = auparse.AuParser(auparse.AUSOURCE_FEED)
        self._parser.set_escape_mode(auparse.AUPARSE_ESC_RAW)
        self._parser.add_callback(_whole, self._ready)  # the binding takes no bound method

    def poll(self) -> Iterator[AuditEvent]:
        """Events that are whole by now (one without an end mark takes libauparse two seconds)."""
        for line in self.tail.lines():
            stamp = _STAMP.search(line.text)
            if stamp:
                self._waiting.setdefault(stamp[1], (line.start, self._clock()))
                self._parser.feed(line.text + "\n")
                yield from self._taken()
            elif line.text:
                self.malformed += 1
        self._parser.feed_age_events()
        yield from self._taken()
        self._give_up()

    def safe_cursor(self) -> Cursor | None:
        """Where to go on after a restart."""
        waiting = next(iter(self._waiting.values()), None)
        return waiting[0] if waiting else self.tail.position()

    def waiting(self) -> float:
        """For how many seconds the oldest event that is not whole yet has been waiting."""
        oldest = next(iter(self._waiting.values()), None)
        return self._clock() - oldest[1] if oldest else 0.0

    def _taken(self) -> Iterator[AuditEvent]:
        while self._ready:
            event = self._ready.pop(0)
            self._waiting.pop(event.stamp, None)
            yield event

    def _give_up(self) -> None:
        limit = self._clock() - _GIVE_UP
        for stamp in [stamp for stamp, (_start, since) in self._waiting.items() if since < limit]:
            del self._waiting[stamp]
            self.malformed += 1


def _whole(parser: Any, reason: int, ready: list[AuditEvent]) -> None:
    if reason == auparse.AUPARSE_CB_EVENT_READY:
        stamp = parser.get_timestamp()
        text = f"{stamp.sec}.{stamp.milli:03d}"
        ready.append(AuditEvent(float(text), f"{text}:{stamp.serial}", list(_records(parser))))


def _records(parser: Any) -> Iterator[dict[str, str]]:
    parser.first_record()
    while True:
        kind = parser.get_type_name()
        record = {"type": kind}
        parser.first_field()
        while True:
            name = parser.get_field_name()
            if name != "type":
                ours = kind == "AVC" and name in _APPARMOR
                record[name] = plain(name, str(parser.get_field_str())) if ours else _value(parser, name)
            if not parser.next_field():
                break
        yield record
        if not parser.next_record():
            return


def _value(parser: Any, name: str) -> str:
    raw = str(parser.get_field_str())
    if name in _RAW:
        return raw
    decoded = str(parser.interpret_field())
    # A field that libauparse has no notion of comes back with its quotes; one that it decoded has none,
    # and quotes in it are its own.
    return raw.strip('"') if decoded == raw else decoded
