# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Answer the questions of one client: decide, look, ask, sort out, open, answer. In that order, and no step is skipped.

An address is told only when the firewall is open to it. What cannot be done is SERVFAIL, which programs take for
passing trouble; what is not allowed is REFUSED, and no packet leaves because of it.
"""

from __future__ import annotations

import asyncio
import time
from typing import Awaitable, Callable, Dict, NamedTuple, Optional

import dns.rcode

from . import message, policy, routes
from .answers import Answer, Answers, Question, lasting
from .bucket import Bucket, Limit
from .journal import ANSWERED, FAILED, FILTERED, REFUSED, Journal
from .message import Request
from .nft_sets import SetError, Sets
from .settings import Client
from .upstream import Given, UpstreamError

# A build that fetches hundreds of packages asks fewer. What is over is not even read, only counted.
QUESTIONS = Limit(rate=500, burst=1000)
# Under a wildcard, names can carry a message to the zone's owner, so what leaves the host has a narrower limit.
ASKED = Limit(rate=20, burst=200)
# Less than the agent's own timeout (2 s in its resolv.conf), so that it gets an error and does not wait for nothing.
PATIENCE = 1.7

Ask = Callable[[str, int], Awaitable[Given]]
Clock = Callable[[], float]


class Outcome(NamedTuple):
    """What is told: to the client, and in the journal (outcome, reason)."""

    rcode: int
    outcome: str
    reason: str = ""
    answer: Optional[Answer] = None


class Resolver:
    """One client's. Others are not touched by what it asks."""

    def __init__(self, client: Client, ask: Ask, sets: Sets, journal: Journal, clock: Clock = time.monotonic,
                 own: policy.Own = routes.leads_back) -> None:  # fmt: skip
        self.client = client
        self.ask = ask
        self._sets, self._journal, self._clock = sets, journal, clock
        self._own = own
        self._answers = Answers()
        self._questions, self._asked = Bucket(QUESTIONS), Bucket(ASKED)
        self._under_way: Dict[Question, asyncio.Task[Answer]] = {}

    def admit(self) -> bool:
        """Whether one more question is read now."""
        if self._questions.take(self._clock()):
            return True
        self._journal.question(self.client.name, None, None, REFUSED, time.time(), reason="flood")
        return False

    async def reply(self, wire: bytes, room: Optional[int] = None) -> Optional[bytes]:
        """What to send back; None: nothing. room: octets that the way back takes, by default what the asker says."""
        request = message.read(wire)
        if not isinstance(request, Request):
            self._journal.question(self.client.name, None, None, REFUSED, time.time(), reason="it is no question")
            return request
        outcome = await self._outcome(request)
        answer = outcome.answer
        addresses = answer.opening.addresses if answer else ()
        self._journal.question(
            self.client.name, request.name.lower(), request.kind_text, outcome.outcome, time.time(), addresses, outcome.reason
        )
        return message.write(request, outcome.rcode, addresses, answer.lifetime(self._clock()) if answer else 0, room)

    async def _outcome(self, request: Request) -> Outcome:
        decision = policy.decide(self.client, request.labels, request.kind, request.internet)
        if decision.ask is None:
            return Outcome(dns.rcode.NOERROR if decision.empty else dns.rcode.REFUSED, REFUSED, decision.reason)
        try:
            answer = await self._answer((decision.ask, request.kind))
        except (UpstreamError, SetError, OSError) as error:
            return Outcome(dns.rcode.SERVFAIL, FAILED, str(error))
        dropped = answer.opening.dropped
        return Outcome(answer.rcode, FILTERED if dropped else ANSWERED, "; ".join(dropped[:3]), answer)

    async def _answer(self, question: Question) -> Answer:
        """A fresh one, or one that is asked for now; whoever asks the same meanwhile waits for the same."""
        now = self._clock()
        found = self._answers.fresh(question, now)
        if found is not None:
            return found
        task = self._under_way.get(question)
        if task is None:
            if not self._asked.take(now):
                raise UpstreamError(f"more than {ASKED.rate:.0f} new names a second")
            task = self._under_way[question] = asyncio.ensure_future(self._fetch(question))
            task.add_done_callback(lambda done: self._finished(question, done))
        done, _pending = await asyncio.wait({task}, timeout=PATIENCE)
        if not done:
            # It goes on: who asks again soon will find the answer.
            raise UpstreamError(f"no answer within {PATIENCE} s")
        return task.result()

    def _finished(self, question: Question, task: asyncio.Task[Answer]) -> None:
        self._under_way.pop(question, None)
        if not task.cancelled():
            task.exception()  # nobody may be waiting any more, and asyncio would complain

    async def _fetch(self, question: Question) -> Answer:
        given = await self.ask(*question)
        # The allowlist may have changed while the upstream thought: what counts is the one of now.
        opening = self._opening(question[0], given)
        now = self._clock()
        answer = lasting(given.rcode, opening, given.ttl, now)
        try:
            self._sets.place(self.client.set, dict.fromkeys(opening.elements, answer.open_until), now)
        except SetError:
            self._answers.doubt()  # the table is gone, and what the other answers opened with it
            raise
        self._answers.keep(question, answer)
        return answer

    def _opening(self, name: str, given: Given) -> policy.Opening:
        """What of an answer is handed out and opened."""
        metadata = policy.leads_to_metadata(given.aliases)
        if metadata:
            return policy.Opening((), (), (f"its alias {metadata} is a metadata service",))
        return policy.open_for(policy.grants_for(self.client.grants, name), given.addresses, self._own)

    def change(self, client: Client) -> None:
        """Another allowlist holds from now on; answers of which it would drop, or did drop, an address are forgotten."""
        self.client = client
        held = self._answers.held(self._clock())
        self._answers.forget()
        for question, answer in held.items():
            grants = policy.grants_for(client.grants, question[0])
            opening = policy.open_for(grants, answer.opening.addresses, self._own)
            if grants and not answer.opening.dropped and not opening.dropped:
                self._answers.keep(question, answer._replace(opening=opening))

    def put_back(self) -> None:
        """The sets hold what the living answers opened, and nothing else. Raises SetError: then all is asked anew."""
        now = self._clock()
        try:
            self._sets.replace(self.client.set, self._answers.elements(now), now)
        except SetError:
            # Somebody who flushes all tables is followed by whoever loads ours again: those elements are wanted then.
            self._answers.doubt()
            raise

    def close(self) -> None:
        """Nobody waits for it any more."""
        for task in list(self._under_way.values()):
            task.cancel()
