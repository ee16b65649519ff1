# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long what is remembered."""

from __future__ import annotations

import pytest
from cordon_firewall.answers import GRACE, LEAST_OPEN, LONGEST, Answers, lasting
from cordon_firewall.bucket import Bucket, Limit
from cordon_firewall.policy import Opening

OPENING = Opening(("203.0.113.9",), (("203.0.113.9", "tcp", 22),), ())
OTHER = Opening(("203.0.113.9", "203.0.113.8"), (("203.0.113.9", "tcp", 22), ("203.0.113.8", "tcp", 22)), ())


@pytest.mark.parametrize(
    ("ttl", "fresh", "still"),
    [(0, 0, LEAST_OPEN + GRACE), (30, 30, LEAST_OPEN + GRACE), (300, 300, 300 + GRACE), (10**6, LONGEST, LONGEST + GRACE)],
)
def test_addresses_stay_open_longer_than_the_answer(ttl: int, fresh: float, still: float) -> None:
    answer = lasting(0, OPENING, ttl, 1000.0)
    assert (answer.fresh_until, answer.open_until) == (1000 + fresh, 1000 + still)
    assert answer.lifetime(1000.0) == fresh
    assert answer.lifetime(1000.0 + fresh + 5) == 0
    assert answer.lifetime(1000.0) + 60 <= still


def test_an_answer_is_given_again_while_it_is_fresh() -> None:
    answers = Answers()
    answers.keep(("a", 1), lasting(0, OPENING, 30, 0.0))
    assert answers.fresh(("a", 1), 29.9)
    assert answers.fresh(("a", 28), 1.0) is None
    assert answers.fresh(("a", 1), 30.0) is None
    assert answers.elements(119.0) == {("203.0.113.9", "tcp", 22): 120.0}
    assert answers.elements(120.0) == {}
    assert answers.held(120.0) == {}


def test_an_address_of_two_answers_is_open_as_long_as_either_wants() -> None:
    answers = Answers()
    answers.keep(("a", 1), lasting(0, OTHER, 300, 0.0))
    answers.keep(("b", 1), lasting(0, OPENING, 0, 0.0))
    assert answers.elements(0.0) == {("203.0.113.9", "tcp", 22): 360.0, ("203.0.113.8", "tcp", 22): 360.0}


def test_the_one_not_asked_for_longest_goes_first() -> None:
    answers = Answers(most=2)
    for name in "ab":
        answers.keep((name, 1), lasting(0, OPENING, 300, 0.0))
    assert answers.fresh(("a", 1), 1.0)
    answers.keep(("c", 1), lasting(0, OPENING, 300, 0.0))
    assert [question[0] for question in answers.held(1.0)] == ["a", "c"]


def test_a_bucket_holds_its_rate() -> None:
    bucket = Bucket(Limit(rate=10, burst=5))
    assert sum(bucket.take(1000.0) for _ in range(100)) == 5
    assert not bucket.take(1000.05)
    assert bucket.take(1000.11)
    assert sum(bucket.take(2000 + number / 1000) for number in range(1000)) in (14, 15)
    assert not bucket.take(1999.0), "a clock that goes back fills nothing"
