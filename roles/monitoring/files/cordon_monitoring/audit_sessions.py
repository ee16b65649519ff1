# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which unit an audited act belongs to.

entry, the first program of every unit of an agent, begins a session of the kernel's audit system. Its number (`ses`) is
in every SYSCALL record of the unit from then on: processes inherit it, and without a capability that no agent has none
of them can change it. The kernel's records of that moment have the command line that systemd started, which names the unit. So
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

_PENDING = 100  # logins, of whomever, of which the rest has not come
_NONE = ("4294967295", "-1", "unset", None)

_UNIT = re.compile(
    r"^/usr/bin/env -- /usr/lib/cordon/entry --unit=(cordon-(?:agent@|session-)([a-z][a-z0-9_]*)(?:-[0-9a-f]+)?\.service)(?: |$)"
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
        self._logins: dict[str, Mapping[str, str]] = {}  # by stamp, until the rest of the act comes

    def take(self, event: AuditEvent, by_uid: Mapping[int, str]) -> None:
        """Note the session that a record begins.

        libauparse hands out LOGIN by itself, before the other records of the same act.
        """
        login = next((record for record in event.records if record["type"] == "LOGIN"), None)
        if login:
            self._logins = dict([*self._logins.items(), (event.stamp, login)][-_PENDING:])
        elif event.stamp in self._logins:
            self._begin(self._logins.pop(event.stamp), event, by_uid)

    def _begin(self, login: Mapping[str, str], event: AuditEvent, by_uid: Mapping[int, str]) -> None:
        unit, number = _begun(login, event, by_uid), login.get("ses", "")
        if unit:
            self._units.pop(number, None)
            self._units[number] = unit
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


def _begun(login: Mapping[str, str], event: AuditEvent, by_uid: Mapping[int, str]) -> str | None:
    """The unit that the records of a login name, if the agent itself wrote it.

    Whoever has no session yet may begin one under any uid, so the uid that counts is that of the process. An agent's
    processes all have a session, but for entry. The command line is what systemd started: the kernel keeps the one of a
    process's first record.
    """
    act = Act(event)
    uid = act.syscall.get("uid", "")
    title = next((record.get("proctitle", "") for record in event.records if record["type"] == "PROCTITLE"), "")
    match = _UNIT.match(title)
    agent = by_uid.get(int(uid)) if uid.isdigit() else None
    succeeded = login.get("res") in ("1", "yes") and login.get("old-ses") in _NONE and login.get("ses") not in _NONE
    return match[1] if match and agent == match[2] and succeeded else None
