# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The answers that one client got, as long as they are good for something.

An answer has two lifetimes. So long as it is fresh it is given again. Somewhat longer its addresses stay open, because
a program connects a moment after it asked; if the table is replaced meanwhile, they have to be opened again.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Dict, NamedTuple, Optional, Tuple

from .policy import Element, Opening

LEAST_OPEN = 60.0  # seconds: programs ignore lifetimes that are shorter than it takes them to connect
GRACE = 60.0  # seconds for which addresses outlive the answer
LONGEST = 3600  # seconds; a change of the zone or of the manifest is not to wait longer
MOST = 1000  # answers of one client; the one not asked for longest goes first

Question = Tuple[str, int]  # name, type


class Answer(NamedTuple):
    """opening: what the policy made of the upstream's addresses. Times are of one clock."""

    rcode: int
    opening: Opening
    fresh_until: float
    open_until: float

    def lifetime(self, now: float) -> int:
        """Seconds for which a client may keep it."""
        return max(0, int(self.fresh_until - now))


def lasting(rcode: int, opening: Opening, ttl: int, now: float) -> Answer:
    """An answer that came now, with the lifetime that the upstream gave it."""
    ttl = min(ttl, LONGEST)
    return Answer(rcode, opening, now + ttl, now + max(ttl, LEAST_OPEN) + GRACE)


class Answers:
    """What is remembered for one client. Never shared: one agent cannot tell from it what another asked."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._held: OrderedDict[Question, Answer] = OrderedDict()

    def fresh(self, question: Question, now: float) -> Optional[Answer]:
        """The answer to give again."""
        answer = self._held.get(question)
        if answer is None or answer.fresh_until <= now:
            return None
        self._held.move_to_end(question)
        return answer

    def keep(self, question: Question, answer: Answer) -> None:
        """Remember; the newest answer to a question replaces the one before."""
        self._held[question] = answer
        self._held.move_to_end(question)
        if len(self._held) > self._most:
            self._held.popitem(last=False)

    def doubt(self) -> None:
        """What is open may not be so any more: everything is asked anew, and put back once that is possible."""
        for question, answer in self._held.items():
            self._held[question] = answer._replace(fresh_until=0.0)

    def forget(self) -> None:
        """Everything is asked anew."""
        self._held.clear()

    def held(self, now: float) -> Dict[Question, Answer]:
        """The answers whose addresses are still open; the others go."""
        for question in [question for question, answer in self._held.items() if answer.open_until <= now]:
            del self._held[question]
        return dict(self._held)

    def elements(self, now: float) -> Dict[Element, float]:
        """What is open because of them, each until the last moment that one of them wants."""
        found: Dict[Element, float] = {}
        for answer in self.held(now).values():
            for element in answer.opening.elements:
                found[element] = max(found.get(element, 0.0), answer.open_until)
        return found
