# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What agents in burn-in do that enforce would refuse: /var/lib/cordon/burn_in/AGENT.json, its keys in docs/burn-in.md.

The gate of the promotion rests on these files, so they must not miss an act. Each is on disk before the place in the
audit log behind its acts is saved (Writer._settle()). A crash between the two makes the last seconds be read again:
counts may then be a little too high, but an act, a day, a time or a loss is only entered once more as it stands. The
other way round could lose an act for good. Whatever may have been missed becomes an entry in `lost`.
"""

from __future__ import annotations

import logging
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Iterable

from . import saved, verdict
from .act import Act, AuditEvent
from .audit_status import AuditStatus
from .config import Agents

DIRECTORY = Path("/var/lib/cordon/burn_in")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
ACTS = 5000  # of one agent
_LOSSES = 20
_DAYS = 60
_PAUSE = 5.0  # seconds between savings
_SAME_LOSS = 600.0  # seconds in which a loss that goes on is one entry

_KEY = ("verdict", "class", "profile", "operation", "path", "access", "family", "sock_type", "protocol", "detail", "program")
# A process number means nothing afterwards, and each would be an entry of its own.
_NUMBERS = re.compile(r"^/proc/\d+(/task/\d+)?(?=/|$)")
# auditd could not write for a while, and says so once it can again.
_NOT_WRITTEN = frozenset({"DAEMON_ERR", "DAEMON_RESUME"})

log = logging.getLogger("cordon-events")


class Collector:
    """Follows the agents that are in burn-in. Times are seconds since 1970, but for save()."""

    def __init__(self, directory: Path = DIRECTORY, boot: str | None = None, continued: bool = True) -> None:
        """continued: reading goes on where it ended. Otherwise acts since then may never be read."""
        self._directory = directory
        self._boot = boot or BOOT_ID.read_text().strip()
        self._continued = continued
        self._windows: dict[str, Window] = {}
        self._ended: list[Window] = []
        self._saved_at = float("-inf")
        self._off = False
        self._off_said = 0.0

    def follow(self, agents: Agents, now: float) -> None:
        """Begin with agents that are in burn-in now, end with those that no longer are: their files stay."""
        for name in agents.burning - self._windows.keys():
            window = self._windows[name] = Window.load(self._directory / f"{name}.json", name, self._boot, now)
            if window.resumed and not self._continued:
                window.lose("the place to read on from was not known any more", now)
        for name in self._windows.keys() - agents.burning:
            window = self._windows.pop(name)
            window.end(now)
            self._ended.append(window)

    def take(self, event: AuditEvent, agents: Agents) -> None:
        """An act of whomever, from the audit log."""
        if not self._windows:
            return
        act = Act(event)
        if act.avcs:
            self._take_verdicts(act)
        elif event.records[0]["type"] in _NOT_WRITTEN:
            self.lose("auditd could not write its log for a while", event.seconds)
        if act.call in ("execve", "execveat") and act.error is None:
            window = self._windows.get(agents.by_uid.get(int(act.syscall.get("uid", "-1")), ""))
            if window:
                window.started(event.seconds)

    def _take_verdicts(self, act: Act) -> None:
        for found in verdict.verdicts(act):
            window = self._windows.get(found["agent"])
            if window:
                window.add(found, act.event.seconds)

    def take_status(self, status: AuditStatus | None, now: float) -> None:
        """The state of the kernel's audit system."""
        off = not (status and status.enabled)
        # Said when it begins and when it ends, and now and then: on a host without audit it never ends.
        if off != self._off or (off and now - self._off_said > _SAME_LOSS / 2):
            self.lose("the kernel's audit was off", now)
            self._off_said = now
        self._off = off
        if status:
            for window in self._windows.values():
                window.count_lost(status.lost, self._boot, now)

    def lose(self, what: str, at: float) -> None:
        """Something that may have hidden an act of any agent."""
        for window in self._windows.values():
            window.lose(what, at)

    def save(self, now: float, at_once: bool = False) -> bool:
        """Save what changed, at most every few seconds; now is monotonic. True: everything is on disk."""
        changed = [window for window in (*self._ended, *self._windows.values()) if window.changed]
        if changed and now - self._saved_at < _PAUSE and not at_once:
            return False
        for window in changed:
            try:
                window.save()
            except OSError as error:
                log.error("cannot save %s: %s; trying again", window.path, error)
                return False
        if changed:
            self._saved_at, self._ended = now, []
        return True


class Window:
    """One agent's file: from the beginning of a burn-in on."""

    def __init__(self, path: Path, data: dict[str, Any], acts: Iterable[dict[str, Any]] = ()) -> None:
        self.path = path
        self.changed = False
        self.resumed = False  # the file is of an earlier run
        self._data = data
        self._acts = {_key(act): act for act in acts}

    @classmethod
    def load(cls, path: Path, agent: str, boot: str, now: float) -> Window:
        """Go on with the file; begin anew if there is none, or if it is of an earlier burn-in, which has ended."""
        data = saved.load(path)
        if data.get("agent") == agent and data.get("ended") is None and isinstance(data.get("acts"), list):
            window = cls(path, data, data["acts"])
            window.resumed = True
            return window
        fresh = {"agent": agent, "collecting_since": now, "ended": None, "boot": boot, "audit_lost": None, "lost": []}
        window = cls(path, {**fresh, "days": [], "execs": 0, "last_exec": None, "acts": []})
        window.changed = True
        if path.exists() and not data:
            window.lose(f"{path} was damaged: begun anew", now)
        return window

    def add(self, found: verdict.Verdict, at: float) -> None:
        """One verdict."""
        entry = {name: found[name] for name in _KEY}
        if entry["path"]:
            entry["path"] = _NUMBERS.sub(_numbered, entry["path"])
        self.changed = True
        known = self._acts.get(_key(entry))
        if known:
            known["count"] += 1
            known["last"] = max(known["last"], at)
        elif len(self._acts) < ACTS:
            self._acts[_key(entry)] = {**entry, "layer": found["layer"], "count": 1, "first": at, "last": at}
        else:
            self.lose(f"more than {ACTS} different acts", at)

    def started(self, at: float) -> None:
        """The agent started a program."""
        self.changed = True
        data = self._data
        day = datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d")
        if day not in data["days"]:
            data["days"] = sorted([*data["days"], day])[-_DAYS:]
        data["execs"] += 1
        data["last_exec"] = max(data["last_exec"] or 0, at)

    def count_lost(self, lost: int, boot: str, now: float) -> None:
        """The kernel's count of lost records, which begins with each boot. It is kept: nobody may be looking when it rises."""
        data = self._data
        known = 0 if data["boot"] != boot else lost if data["audit_lost"] is None else data["audit_lost"]
        if lost > known:
            self.lose(f"the kernel lost audit records ({lost} since its boot)", now)
        if (data["boot"], data["audit_lost"]) != (boot, lost):
            data.update(boot=boot, audit_lost=lost)
            self.changed = True

    def lose(self, what: str, at: float) -> None:
        """Enter a loss, unless it is from before this burn-in. One that goes on is one entry, with its latest time."""
        if at < self._data["collecting_since"] or {"at": at, "what": what} in self._data["lost"]:
            return
        kept = [one for one in self._data["lost"] if _kind(one["what"]) != _kind(what) or at - one["at"] > _SAME_LOSS]
        self._data["lost"] = sorted([*kept, {"at": at, "what": what}], key=lambda one: float(one["at"]))[-_LOSSES:]
        self.changed = True

    def end(self, now: float) -> None:
        """The agent left burn-in."""
        self._data["ended"] = now
        self.changed = True

    def save(self) -> None:
        """Replace the file."""
        saved.save(self.path, {**self._data, "acts": list(self._acts.values())}, durable=True)
        self.changed = False


def _key(act: dict[str, Any]) -> tuple[object, ...]:
    return tuple(act[name] for name in _KEY)


def _kind(what: str) -> str:
    return re.sub(r"\d+", "", what)


def _numbered(match: re.Match[str]) -> str:
    return "/proc/[0-9]*" + ("/task/[0-9]*" if match[1] else "")
