# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the proxy and the resolver serve the agents that need them: an alert when one stops, and one when it is back.

What is looked at: plugins/module_utils/_facts_egress.py. A restart takes a moment, which wakes nobody. One that ends again and
again is never down for long, and every tunnel through it ends each time: that is an alert of its own.
"""

from __future__ import annotations

from typing import Any, Callable, Iterator, Mapping, NamedTuple

from cordon import _facts_egress
from cordon._facts_source import Source

PATIENCE = 15.0  # seconds: three looks
UNSTEADY, TIMES = 600.0, 3  # seconds, and how often in them a service may be found down before somebody is told
MOST = 5  # agents that a summary names

Facts = Mapping[str, Mapping[str, Any]]


class Change(NamedTuple):
    """What is to be told: the alert's rule, severity and summary."""

    rule: str
    severity: str
    summary: str


def _no_commands(argv: list[str], data: str | None = None) -> tuple[int, str, str]:
    raise AssertionError(argv)  # the facts that are read here need no program


def look() -> Facts:
    """The facts of this host now."""
    return _facts_egress.read(Source(_no_commands))


class Served:
    """Remembers since when each service is down, and whether that was told."""

    def __init__(self, read: Callable[[], Facts] = look) -> None:
        self._read = read
        self._since: dict[str, float] = {}
        self._told: set[str] = set()
        self._ends: dict[str, list[float]] = {}  # when each was found down that had been up
        self._unsteady: set[str] = set()

    def changes(self, now: float) -> Iterator[Change]:
        """What has changed by now; `now` is a clock's seconds."""
        for name, facts in self._read().items():
            yield from self._again(name, _facts_egress.down(facts), now)
            if not _facts_egress.down(facts):
                self._since.pop(name, None)
                if name in self._told:
                    self._told.remove(name)
                    yield Change(f"{name}-up", "info", f"the {name} serves every agent again")
            elif now - self._since.setdefault(name, now) >= PATIENCE and name not in self._told:
                self._told.add(name)
                yield Change(f"{name}-down", "critical", _summary(name, facts["unserved"]))

    def _again(self, name: str, down: bool, now: float) -> Iterator[Change]:
        ends = [when for when in self._ends.get(name, []) if now - when < UNSTEADY]
        if down and name not in self._since:
            ends.append(now)
        self._ends[name] = ends
        if not ends:
            self._unsteady.discard(name)
        elif len(ends) >= TIMES and name not in self._unsteady:
            self._unsteady.add(name)
            often = f"{len(ends)} times within {UNSTEADY / 60:.0f} minutes"
            yield Change(f"{name}-unsteady", "critical", f"the {name} was down {often}: journalctl -u cordon-{name} says why")


def _summary(name: str, agents: list[str]) -> str:
    shown = ", ".join(agents[:MOST]) + (f" and {len(agents) - MOST} more" if len(agents) > MOST else "")
    return f"the {name} does not serve {shown}: their names are refused until it does. systemctl status cordon-{name}"
