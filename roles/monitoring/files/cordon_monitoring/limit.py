# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep a flood out of the event log without ever being silent about it.

The same act many times over is written a few times and then counted; the count is an event of its own
when the window ends. Each agent also has a ceiling, so that one agent cannot fill the disk or hide
another's acts. What was counted here is still in the audit log.
"""

from __future__ import annotations

import time

from . import event as events
from .event import Event

WINDOW = 60.0  # seconds
SAME = 10  # events of one act in a window
CEILING = 3000  # events of one agent in a window

# What only one event is about, and a count of many is not.
_ITS_OWN = ("program", "pid", "path", "argv", "address", "addresses", "name", "type", "port", "secret", "declared", "listed",
            "session", "apparmor", "sni", "method", "url_path", "status", "sent", "received", "milliseconds",
            "refusal")  # fmt: skip

# What the count of reads beyond the ceiling still tells; the name only of a secret of the manifest, of which there are
# not more than the operator gave.
_TOLD = ("declared", "session", "listed", "outcome")

Key = tuple[object, ...]


class Limiter:
    """Decides for each event whether it is written or counted."""

    def __init__(self, host: str, same: int = SAME, ceiling: int = CEILING) -> None:
        self.suppressed = 0
        self._host = host
        self._limits = {"same": same, "agent": ceiling}
        self._started = 0.0
        self._written: dict[Key, int] = {}
        self._counted: dict[Key, int] = {}
        self._last: dict[Key, Event] = {}

    def allow(self, event: Event) -> bool:
        """True: write it. Process starts and calls of APIs are only under the agent's ceiling: every one of them counts.

        Only what is written counts towards a limit, so that a flood of one act leaves room for others, and so that there
        are never more acts to count by than were written.
        """
        each = event["kind"] in ("process", "api_call") and event["outcome"] == "allowed"
        limits = [*([] if each else [_same(event)]), _ceiling(event)]
        over = next((key for key in limits if self._written.get(key, 0) >= self._limits[str(key[0])]), None)
        if over is None:
            for key in limits:
                self._written[key] = self._written.get(key, 0) + 1
            return True
        key = over + _told(event) if over[0] == "agent" else over
        self.suppressed += 1
        self._counted[key] = self._counted.get(key, 0) + 1
        self._last[key] = event
        return False

    def due(self, now: float, wall: float | None = None) -> list[Event]:
        """At the end of a window: one event for each thing that was counted. Times in seconds."""
        if now - self._started < WINDOW:
            return []
        wall = time.time() if wall is None else wall
        counts = [self._count(key, last, wall) for key, last in self._last.items()]
        self._started = now
        for memory in (self._written, self._counted, self._last):
            memory.clear()
        return counts

    def _count(self, key: Key, last: Event, wall: float) -> Event:
        """Like the last event that was not written, with the number of them."""
        counted = {**last, "time": events.when(wall), "id": f"{last['id']}:suppressed", "suppressed": self._counted[key]}
        if key[0] == "agent":
            kept = _kept(last)
            for name in _ITS_OWN:
                if name not in kept:
                    counted.pop(name, None)
            counted["operation"] = "any"
        return counted


def _same(event: Event) -> Key:
    names = ("agent", "kind", "outcome", "program", "operation", "path", "address", "name", "type", "port", "reason", "profile",
             "refusal")  # fmt: skip
    session = event["session"] if event["kind"] == "secret" else None
    return ("same", session, *(event.get(name) for name in names))


def _ceiling(event: Event) -> Key:
    """Secrets have one of their own: a flood of other acts must not hide which one was read."""
    return ("agent", event["agent"], event["kind"] == "secret")


def _kept(event: Event) -> tuple[str, ...]:
    if event["kind"] != "secret":
        return ()
    return ("path", "secret", *_TOLD) if event.get("declared") else _TOLD


def _told(event: Event) -> Key:
    return tuple(event.get(name) for name in _kept(event))
