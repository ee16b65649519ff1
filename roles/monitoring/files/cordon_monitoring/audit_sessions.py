# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which unit an audited act belongs to.

entry, the first program of every unit of an agent, begins a session of the kernel's audit system. Its number (`ses`) is
in every SYSCALL record of the unit from then on: processes inherit it, and without a capability that no agent has none
of them can change it. The kernel's LOGIN record of that moment comes with entry's command line, which names the unit. So
nothing is looked up in /proc, where a process that lives for a millisecond is gone before its record is read.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Mapping

from . import saved
from .act import Act, AuditEvent

SESSIONS = Path("/var/lib/cordon/events/sessions.json")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
KEPT = 1000  # sessions; of an agent's service, which may run for months, those of the last start are always kept

log = logging.getLogger("cordon-events")

_UNIT = re.compile(
    r"^(?:\S+ )?/usr/lib/cordon/entry --unit=(cordon-(?:agent@|session-)([a-z][a-z0-9_]*)(?:-[0-9a-f]+)?\.service)(?: |$)"
)


class AuditSessions:
    """The kernel's numbers of this boot and their units, kept across a restart of the writer."""

    def __init__(self, path: Path = SESSIONS, boot: str | None = None) -> None:
        self._path = path
        self._boot = boot or BOOT_ID.read_text().strip()
        known = saved.load(path)
        # The kernel counts from 1 again in each boot.
        self._units: dict[str, str] = dict(known["units"]) if known.get("boot") == self._boot else {}
        self._changed = False

    def take(self, event: AuditEvent, by_uid: Mapping[int, str]) -> None:
        """Note the session that a record begins."""
        login = next((record for record in event.records if record["type"] == "LOGIN"), None)
        unit = _begun(event, login, by_uid) if login else None
        if login and unit:
            self._units.pop(login["ses"], None)
            self._units[login["ses"]] = unit
            self._changed = True
            self._forget()

    def unit(self, event: AuditEvent) -> str | None:
        """The unit of an act, "cordon-session-scout-1a2b3c4d.service"; None where the record does not tell."""
        return self._units.get(Act(event).syscall.get("ses", ""))

    def save(self) -> bool:
        """To disk, before the place behind the record is saved. True: everything is there."""
        if self._changed:
            try:
                saved.save(self._path, {"boot": self._boot, "units": self._units}, durable=True)
            except OSError as error:
                log.error("cannot save %s: %s; trying again", self._path, error)
                return False
            self._changed = False
        return True

    def _forget(self) -> None:
        latest = {unit: number for number, unit in self._units.items() if "@" in unit}
        for number in list(self._units):
            if len(self._units) <= KEPT:
                return
            if latest.get(self._units[number]) != number:
                del self._units[number]


def _begun(event: AuditEvent, login: Mapping[str, str], by_uid: Mapping[int, str]) -> str | None:
    """The unit that a LOGIN record names, if the agent itself wrote it.

    Whoever has no session yet may begin one under any uid, so the uid that counts is that of the process. An agent's
    processes all have a session, but for entry.
    """
    act = Act(event)
    uid = act.syscall.get("uid", "")
    title = next((record.get("proctitle", "") for record in event.records if record["type"] == "PROCTITLE"), "")
    match = _UNIT.match(title)
    agent = by_uid.get(int(uid)) if uid.isdigit() else None
    succeeded = login.get("res") in ("1", "yes") and login.get("old-ses") in ("4294967295", "-1", "unset")
    return match[1] if match and agent == match[2] and succeeded else None
