# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One client's questions from the wire to the wire, with an upstream and a packet filter of the test's."""

from __future__ import annotations

import asyncio
import json
from typing import List, Tuple

import dns.flags
import dns.message
import dns.rcode
import pytest
from cordon_firewall import resolver as under_test
from cordon_firewall.journal import Journal
from cordon_firewall.nft_sets import SetError, Sets
from cordon_firewall.resolver import Resolver
from cordon_firewall.settings import Client, Grant
from cordon_firewall.upstream import Given, UpstreamError

from .conftest import Filter

GIVEN = Given(0, (), ("203.0.113.9",), 300)
OPEN = {"203.0.113.9 . tcp . 22": 360}


class Bench:
    """A resolver with everything around it."""

    def __init__(self, client: Client, packets: Filter) -> None:
        self.packets, self.lines, self.asked = packets, [], []  # type: Filter, List[Dict[str, Any]], List[Tuple[str, int]]
        self.now, self.answers, self.delay = 1000.0, {}, 0.0  # type: float, Dict[str, Any], float
        self.own: object = None
        journal = Journal(lambda line: self.lines.append(json.loads(line)))
        self.sets = Sets(packets)
        self.resolver = Resolver(client, self._ask, self.sets, journal, lambda: self.now, self._own)

    def _own(self, address: str) -> bool:
        if isinstance(self.own, OSError):
            raise self.own
        return address == self.own

    async def _ask(self, name: str, kind: int) -> Given:
        self.asked.append((name, kind))
        await asyncio.sleep(self.delay)
        found = self.answers.get(name, GIVEN)
        if isinstance(found, Exception):
            raise found
        return found

    async def ask(self, name: str, kind: str = "A") -> dns.message.Message:
        query = dns.message.make_query(name, kind)
        wire = await self.resolver.reply(query.to_wire())
        assert wire is not None
        response = dns.message.from_wire(wire)
        assert query.is_response(response)
        return response

    def __call__(self, name: str, kind: str = "A") -> Tuple[int, List[str]]:
        response = asyncio.run(self.ask(name, kind))
        return int(response.rcode()), [rdata.address for rrset in response.answer for rdata in rrset]


@pytest.fixture
def bench(client: Client, packets: Filter) -> Bench:
    return Bench(client, packets)


def test_the_firewall_is_open_before_the_answer_is_given(bench: Bench) -> None:
    assert bench("git.example.org") == (dns.rcode.NOERROR, ["203.0.113.9"])
    assert bench.packets.sets["named4_autopilot"] == OPEN
    assert bench.lines[0]["outcome"] == "answered"
    assert bench.lines[0]["addresses"] == ["203.0.113.9"]


def test_without_a_set_no_address_is_told(bench: Bench) -> None:
    bench.packets.sets.clear()
    assert bench("git.example.org") == (dns.rcode.SERVFAIL, [])
    assert bench("git.example.org") == (dns.rcode.SERVFAIL, [])
    assert bench.lines[0]["outcome"] == "failed"
    assert "load the table" in bench.lines[0]["reason"]


def test_an_address_of_this_host_is_left_out_and_told(bench: Bench) -> None:
    assert bench("git.example.org") == (dns.rcode.NOERROR, ["203.0.113.9"])
    bench.now += 1000
    bench.own = "203.0.113.9"
    assert bench("git.example.org") == (dns.rcode.NOERROR, [])
    assert (bench.lines[-1]["outcome"], "203.0.113.9 is an address of this very host" in bench.lines[-1]["reason"]) == (
        "filtered", True)


def test_where_the_kernel_does_not_say_whose_an_address_is_none_is_told(bench: Bench) -> None:
    bench.own = OSError(24, "Too many open files")
    assert bench("git.example.org") == (dns.rcode.SERVFAIL, [])
    assert bench.packets.sets["named4_autopilot"] == {}
    assert bench.lines[-1]["outcome"] == "failed"


def test_what_is_refused_asks_nobody(bench: Bench) -> None:
    assert bench("secret.git.example.org") == (dns.rcode.REFUSED, [])
    assert bench("git.example.org", "TXT") == (dns.rcode.NOERROR, [])
    assert bench("secret.git.example.org", "TXT") == (dns.rcode.REFUSED, [])
    assert bench.asked == []
    assert [line["outcome"] for line in bench.lines] == ["refused"] * 3
    assert not any(bench.packets.sets.values())


def test_spelling_does_not_reach_the_upstream(bench: Bench) -> None:
    assert bench("GiT.eXample.Org") == (dns.rcode.NOERROR, ["203.0.113.9"])
    assert bench("git.EXAMPLE.org") == (dns.rcode.NOERROR, ["203.0.113.9"])
    assert bench.asked == [("git.example.org", 1)]
    assert bench.lines[0]["name"] == "git.example.org"


def test_an_answer_is_given_again_with_what_is_left_of_its_time(bench: Bench) -> None:
    assert asyncio.run(bench.ask("git.example.org")).answer[0].ttl == 300
    bench.now += 100
    assert asyncio.run(bench.ask("git.example.org")).answer[0].ttl == 200
    assert len(bench.asked) == 1
    bench.now += 200
    assert asyncio.run(bench.ask("git.example.org")).answer[0].ttl == 300
    assert len(bench.asked) == 2


def test_many_who_ask_the_same_are_one_question(bench: Bench) -> None:
    async def many() -> None:
        bench.delay = 0.05
        answers = await asyncio.gather(*(bench.ask("git.example.org") for _ in range(50)))
        assert all(answer.answer for answer in answers)

    asyncio.run(many())
    assert len(bench.asked) == 1


@pytest.mark.parametrize("bad", ["10.0.0.1", "127.0.0.1", "169.254.169.254", "100.100.100.200"])
def test_a_private_address_is_filtered(bench: Bench, bad: str) -> None:
    bench.answers["git.example.org"] = Given(0, (), (bad,), 300)
    assert bench("git.example.org") == (dns.rcode.NOERROR, [])
    assert not any(bench.packets.sets.values())
    assert bench.lines[0]["outcome"] == "filtered"
    assert bad in bench.lines[0]["reason"]


def test_an_alias_of_metadata_is_filtered(bench: Bench) -> None:
    bench.answers["git.example.org"] = Given(0, ("cdn.example", "metadata.google.internal"), ("203.0.113.9",), 300)
    assert bench("git.example.org") == (dns.rcode.NOERROR, [])
    assert not any(bench.packets.sets.values())


def test_an_upstream_that_fails_is_a_failure(bench: Bench) -> None:
    bench.answers["git.example.org"] = UpstreamError("192.0.2.53: it answered REFUSED")
    assert bench("git.example.org") == (dns.rcode.SERVFAIL, [])
    assert bench.lines[0]["reason"] == "192.0.2.53: it answered REFUSED"
    bench.answers["git.example.org"] = Given(dns.rcode.NXDOMAIN, (), (), 60)
    assert bench("git.example.org") == (dns.rcode.NXDOMAIN, [])


def test_a_slow_upstream_is_a_failure_first_and_an_answer_then(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "PATIENCE", 0.05)

    async def run() -> None:
        bench.delay = 0.1
        assert (await bench.ask("git.example.org")).rcode() == dns.rcode.SERVFAIL
        await asyncio.sleep(0.1)
        assert (await bench.ask("git.example.org")).answer

    asyncio.run(run())
    assert len(bench.asked) == 1


def test_a_wildcard_is_no_wide_channel(bench: Bench) -> None:
    for number in range(1000):
        bench(f"{number}.example.net")
    assert len(bench.asked) == under_test.ASKED.burst
    assert bench("0.example.net")[1], "what is known is still answered"
    assert bench("1000.example.net") == (dns.rcode.SERVFAIL, [])
    bench.now += 1
    assert bench("1000.example.net")[1]


def test_a_flood_is_not_read_but_counted(bench: Bench) -> None:
    admitted = sum(bench.resolver.admit() for _ in range(5000))
    assert admitted == under_test.QUESTIONS.burst
    bench.resolver._journal.due(0, at_once=True)
    assert sum(line.get("suppressed", 1) for line in bench.lines) == 5000 - admitted
    bench.now += 1
    assert bench.resolver.admit()


def test_what_is_open_is_put_back_into_a_new_table(bench: Bench) -> None:
    bench("git.example.org")
    bench.now += 100
    bench.packets.sets["named4_autopilot"].clear()
    bench.resolver.put_back()
    assert bench.packets.sets["named4_autopilot"] == {"203.0.113.9 . tcp . 22": 260}
    bench.now += 261
    bench.resolver.put_back()
    assert not any(bench.packets.sets.values())


def test_where_that_fails_everything_is_asked_anew(bench: Bench) -> None:
    bench("git.example.org")
    held, bench.packets.sets = bench.packets.sets, {}
    with pytest.raises(SetError):
        bench.resolver.put_back()
    assert bench("git.example.org") == (dns.rcode.SERVFAIL, [])
    held["named4_autopilot"].clear()
    bench.packets.sets = held
    assert bench("git.example.org") == (dns.rcode.NOERROR, ["203.0.113.9"])
    assert bench.packets.sets["named4_autopilot"] == OPEN


def test_a_table_that_comes_after_a_flush_gets_what_was_open_before_it(bench: Bench) -> None:
    bench("git.example.org")
    held, bench.packets.sets = bench.packets.sets, {}
    with pytest.raises(SetError):
        bench.resolver.put_back()
    held["named4_autopilot"].clear()
    bench.packets.sets = held
    bench.resolver.put_back()
    assert bench.packets.sets["named4_autopilot"] == OPEN


def test_what_a_new_allowlist_does_not_give_is_closed(bench: Bench, client: Client) -> None:
    for name in ("git.example.org", "a.example.net", "db.example.net"):
        bench.answers[name] = Given(0, (), (f"203.0.113.{len(name)}",), 300)
        bench(name)
    bench.resolver.change(client._replace(grants=(Grant("git.example.org", (("tcp", 2222),), ()), client.grants[2])))
    bench.resolver.put_back()
    assert set(bench.packets.sets["named4_autopilot"]) == {"203.0.113.15 . tcp . 2222", "203.0.113.14 . tcp . 5432"}
    assert bench("a.example.net") == (dns.rcode.REFUSED, [])
    asked = len(bench.asked)
    assert bench("git.example.org")[1]
    assert len(bench.asked) == asked, "what both lists give is not asked again"


def test_a_grant_that_comes_while_an_answer_is_kept_holds_at_once(bench: Bench, client: Client) -> None:
    bench.answers["git.example.org"] = Given(0, (), ("10.1.1.1", "203.0.113.9"), 300)
    assert bench("git.example.org")[1] == ["203.0.113.9"]
    bench.resolver.change(client._replace(grants=(Grant("git.example.org", (("tcp", 22),), ("10.1.1.0/24",)),)))
    assert set(bench("git.example.org")[1]) == {"10.1.1.1", "203.0.113.9"}


def test_an_answer_that_comes_after_a_change_is_judged_by_the_new_list(bench: Bench, client: Client) -> None:
    async def run() -> dns.message.Message:
        bench.delay = 0.05
        waiting = asyncio.ensure_future(bench.ask("git.example.org"))
        await asyncio.sleep(0.01)
        bench.resolver.change(client._replace(grants=()))
        return await waiting

    assert not asyncio.run(run()).answer
    assert not any(bench.packets.sets.values())


def test_what_is_no_question_is_told(bench: Bench) -> None:
    assert asyncio.run(bench.resolver.reply(b"\0" * 20)) is not None
    assert asyncio.run(bench.resolver.reply(b"")) is None
    assert [line["reason"] for line in bench.lines] == ["it is no question"] * 2
