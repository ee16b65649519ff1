# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One line of JSON for each question, on standard output.

What repeats is written a few times in each window and then counted; the count is a line of its own when the window
ends ("suppressed": how many lines like it were not written). So is what an agent asks beyond its ceiling.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime, timezone
from typing import Any, Callable, Dict, Iterable, Optional, Tuple

WINDOW = 60.0  # seconds
SAME = 10  # lines about one question with one outcome, in a window
CEILING = 1000  # lines of one agent, in a window

ANSWERED, REFUSED, FILTERED, FAILED = "answered", "refused", "filtered", "failed"

Key = Tuple[str, ...]
# wall, name, type, outcome, addresses, reason
What = Tuple[float, Optional[str], Optional[str], str, Tuple[str, ...], str]


def to_stdout(line: str) -> None:
    """The journal reads it (systemd.exec(5), StandardOutput=)."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Journal:
    """Writes or counts."""

    def __init__(self, write: Callable[[str], None] = to_stdout, same: int = SAME, ceiling: int = CEILING) -> None:
        self._write, self._same, self._ceiling = write, same, ceiling
        self._started = 0.0
        self._seen: Dict[Key, int] = {}
        self._last: Dict[Key, What] = {}

    def question(self, agent: str, name: Optional[str], kind: Optional[str], outcome: str, wall: float,
                 addresses: Iterable[str] = (), reason: str = "") -> None:  # fmt: skip
        """Note what became of one question. wall: seconds since 1970."""
        same, every = (agent, str(name), str(kind), outcome, reason), (agent,)
        # What repeats does not count against the agent as a whole, or a flood would hide what else it asks.
        if self._count(same) > self._same:
            self._last[same] = (wall, name, kind, outcome, tuple(addresses), reason)
        elif self._count(every) > self._ceiling:
            self._last[every] = (wall, None, None, outcome, (), "more questions than can be told one by one")
        else:
            self._write(_text(agent, (wall, name, kind, outcome, tuple(addresses), reason)))

    def _count(self, key: Key) -> int:
        self._seen[key] = self._seen.get(key, 0) + 1
        return self._seen[key]

    def due(self, now: float, at_once: bool = False) -> None:
        """At the end of a window (or at once, when the program ends): write the counts. now: a clock's seconds."""
        if now - self._started < WINDOW and not at_once:
            return
        for key, last in self._last.items():
            most = self._ceiling if len(key) == 1 else self._same
            self._write(_text(key[0], last, suppressed=self._seen[key] - most))
        self._started = now
        self._seen.clear()
        self._last.clear()


def _text(agent: str, what: What, **more: int) -> str:
    wall, name, kind, outcome, addresses, reason = what
    line: Dict[str, Any] = {"at": when(wall), "agent": agent, "event": "dns", "name": name, "type": kind, "outcome": outcome,
                            "addresses": list(addresses)}  # fmt: skip
    return json.dumps({**line, **({"reason": reason} if reason else {}), **more})


def when(seconds: float) -> str:
    """1970 and so many seconds -> "2026-11-23T04:30:00.123Z", as in the event log."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
