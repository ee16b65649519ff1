# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One connection, one event: join what the firewall logged with what the audit system saw of the same act.

The firewall knows address, port and verdict; the audit record of the failed connect(2) knows program,
process and profile, but an error like EHOSTUNREACH may as well be an ordinary failure. So a connection
event waits a moment for its twin. Pure but for the clock that is passed in.
"""

from __future__ import annotations

from typing import Iterator

from .event import Event

HOLD = 2.0  # seconds; a refused TCP connect fails at the second SYN, one second after the first
REMEMBER = 150.0  # seconds; the kernel sends SYNs again for about 130
_TOLD_BY_AUDIT = ("program", "pid", "profile", "session")

Key = tuple[object, ...]


class Correlator:
    """Holds connection events back for HOLD seconds; every other event passes at once."""

    def __init__(self) -> None:
        self._held: list[tuple[float, Event]] = []
        self._firewall: dict[Key, float] = {}  # what the firewall has told of, for late audit records
        self._flows: dict[Key, float] = {}

    def offer(self, event: Event, now: float) -> Iterator[Event]:
        """Take an event; gives back those that need not wait."""
        if event["kind"] != "connection" or event.get("address") is None:
            yield event
        elif event["source"] == "nftables":
            self._firewall_event(event, now)
        else:
            self._audit_event(event, now)

    def due(self, now: float) -> list[Event]:
        """Events that have waited long enough."""
        ready = [event for since, event in self._held if since <= now - HOLD]
        self._held = [(since, event) for since, event in self._held if since > now - HOLD]
        for memory in (self._firewall, self._flows):
            for key in [key for key, since in memory.items() if since < now - REMEMBER]:
                del memory[key]
        return ready

    def all(self) -> list[Event]:
        """Everything held, at the end."""
        return self.due(float("inf"))

    def _firewall_event(self, event: Event, now: float) -> None:
        flow = (*_key(event), event["outcome"], event["protocol"], event["source_port"])
        repeated = event["source_port"] is not None and flow in self._flows
        self._flows[flow] = self._firewall[_key(event)] = now
        if repeated:
            return  # the same SYN once more
        twin = self._take(event, "audit")
        if twin:
            _join(event, twin)
        self._held.append((now, event))

    def _audit_event(self, event: Event, now: float) -> None:
        twin = next((held for _since, held in self._held if held["source"] == "nftables" and _key(held) == _key(event)), None)
        if twin:
            _join(twin, event)
        elif event["reason"] == "apparmor" or _key(event) not in self._firewall:
            self._held.append((now, event))

    def _take(self, event: Event, source: str) -> Event | None:
        for number, (_since, held) in enumerate(self._held):
            if held["source"] == source and _key(held) == _key(event) and held["reason"] != "apparmor":
                return self._held.pop(number)[1]
        return None


def _key(event: Event) -> Key:
    return (event["agent"], event["address"], event["port"])


def _join(firewall: Event, audit: Event) -> None:
    """Give the firewall's event what only the audit record knows."""
    for name in _TOLD_BY_AUDIT:
        firewall[name] = firewall[name] or audit[name]
    if firewall["outcome"] == "allowed":
        firewall["reason"] = audit["reason"]
    firewall["also"] = audit["id"]
