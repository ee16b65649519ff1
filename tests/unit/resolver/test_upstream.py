# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking, and which answers count; against small servers on this machine's loopback."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable, List, Optional, Tuple

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from cordon_firewall import upstream
from cordon_firewall.upstream import Given, Upstream, UpstreamError

A, AAAA = 1, 28
Reply = Callable[[dns.message.Message], List[bytes]]


def response(query: dns.message.Message, *records: Tuple[str, int, str, str], rcode: int = 0) -> dns.message.Message:
    found = dns.message.make_response(query)
    found.set_rcode(rcode)
    for name, ttl, kind, text in records:
        section = found.authority if kind == "SOA" else found.answer
        section.append(dns.rrset.from_text(name, ttl, "IN", kind, text))
    return found


def good(query: dns.message.Message) -> List[bytes]:
    return [response(query, ("git.example.org.", 300, "A", "203.0.113.9")).to_wire()]


class Server:
    """One address that answers as told, and remembers what it was asked, octet for octet."""

    def __init__(self, address: str, reply: Reply, by_tcp: Optional[Reply] = None) -> None:
        self.asked: List[bytes] = []
        self.ports: List[int] = []
        self._reply, self._by_tcp = reply, by_tcp or reply
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((address, PORT))
        self._tcp = socket.create_server((address, PORT))
        self._threads = [threading.Thread(target=serve, daemon=True) for serve in (self._datagrams, self._streams)]
        for thread in self._threads:
            thread.start()

    def _datagrams(self) -> None:
        while True:
            try:
                wire, source = self._udp.recvfrom(4096)
                if source is None:
                    return  # shut down
                self.asked.append(wire)
                self.ports.append(source[1])
                for octets in self._reply(dns.message.from_wire(wire)):
                    self._udp.sendto(octets, source)
            except OSError:
                return

    def _streams(self) -> None:
        while True:
            try:
                channel = self._tcp.accept()[0]
                wire = channel.recv(4096)[2:]
                self.asked.append(wire)
                replies = self._by_tcp(dns.message.from_wire(wire))
                channel.sendall(b"".join(struct.pack("!H", len(octets)) + octets for octets in replies))
                channel.close()
            except OSError:
                return

    def close(self) -> None:
        for one in (self._udp, self._tcp):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # not connected, but its reader wakes up
        for thread in self._threads:
            thread.join(5)
        self._udp.close()
        self._tcp.close()


def _free() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


PORT = _free()


@contextmanager
def serving(reply: Reply, by_tcp: Optional[Reply] = None, address: str = "127.0.0.1") -> Iterator[Server]:
    server = Server(address, reply, by_tcp)
    try:
        yield server
    finally:
        server.close()


def ask(*servers: str, name: str = "git.example.org", kind: int = A) -> Given:
    return asyncio.run(Upstream(servers or ("127.0.0.1",), PORT).ask(name, kind))


def test_it_asks_in_its_own_words() -> None:
    with serving(good) as server:
        assert ask() == Given(0, (), ("203.0.113.9",), 300)
        for _ in range(20):
            ask()
    queries = [dns.message.from_wire(wire) for wire in server.asked]
    for query in queries:
        assert query.flags == dns.flags.RD
        assert (query.edns, query.options, query.ednsflags, query.payload) == (0, (), 0, 1232)
        assert query.question[0].to_text() == "git.example.org. IN A"
    # 21 draws of 65536 and of some 28000: two alike may be, ten alike are not.
    assert len({query.id for query in queries}) > 15
    assert len(set(server.ports)) > 15


def test_aliases_are_followed_and_only_what_belongs_to_the_question_counts() -> None:
    def reply(query: dns.message.Message) -> List[bytes]:
        records = [
            ("git.example.org.", 300, "CNAME", "Edge.CDN.example."),
            ("edge.cdn.example.", 20, "A", "203.0.113.1"),
            ("other.example.org.", 300, "A", "203.0.113.66"),
            ("git.example.org.", 9, "TXT", "x"),
        ]
        return [response(query, *records).to_wire()]

    with serving(reply):
        assert ask() == Given(0, ("edge.cdn.example",), ("203.0.113.1",), 20)


def test_no_such_name_is_kept_a_moment() -> None:
    soa = ("example.org.", 9999, "SOA", "ns.example.org. a.example.org. 1 2 3 4 30")
    with serving(lambda query: [response(query, soa, rcode=dns.rcode.NXDOMAIN).to_wire()]):
        assert ask() == Given(dns.rcode.NXDOMAIN, (), (), 30)
    with serving(lambda query: [response(query).to_wire()]):
        assert ask() == Given(0, (), (), upstream.LONGEST_DENIAL)


def _wrong(query: dns.message.Message) -> List[bytes]:
    """What somebody who cannot see the question would send."""
    identity = response(query, ("git.example.org.", 300, "A", "203.0.113.66"))
    identity.id ^= 1
    other = dns.message.make_query("git.example.com", "A")
    other.id = query.id
    another = response(other, ("git.example.com.", 300, "A", "203.0.113.66"))
    return [b"", b"\xff" * 40, query.to_wire(), identity.to_wire(), another.to_wire(), query.to_wire()[:14]]


def test_an_answer_to_something_else_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "GIVE_UP", 2.0)
    with serving(lambda query: _wrong(query) + good(query)):
        assert ask().addresses == ("203.0.113.9",)
    start = time.monotonic()
    with serving(lambda query: _wrong(query)), pytest.raises(UpstreamError, match="no answer"):
        ask()
    assert time.monotonic() - start < upstream.GIVE_UP + 1


def test_a_loop_of_aliases_is_an_error() -> None:
    def reply(query: dns.message.Message) -> List[bytes]:
        loop = [("git.example.org.", 1, "CNAME", "b.example."), ("b.example.", 1, "CNAME", "git.example.org.")]
        return [response(query, *loop).to_wire()]

    with serving(reply), pytest.raises(UpstreamError, match="cannot be followed"):
        ask()


def test_a_truncated_answer_is_asked_for_by_tcp() -> None:
    def truncated(query: dns.message.Message) -> List[bytes]:
        found = response(query, ("git.example.org.", 300, "A", "203.0.113.66"))
        found.flags |= dns.flags.TC
        return [found.to_wire()]

    with serving(truncated, good):
        assert ask().addresses == ("203.0.113.9",)
    with serving(truncated, _wrong), pytest.raises(UpstreamError, match=r"another question|read"):
        ask()


def test_what_cannot_work_fails_at_once() -> None:
    start = time.monotonic()
    with pytest.raises(UpstreamError, match="refused"):
        ask()  # nobody listens
    failing = serving(lambda query: [response(query, rcode=dns.rcode.SERVFAIL).to_wire()])
    with failing, pytest.raises(UpstreamError, match="SERVFAIL"):
        ask()
    assert time.monotonic() - start < 0.5


def test_a_dead_server_costs_a_moment_and_only_once() -> None:
    async def twice() -> List[float]:
        asker, took = Upstream(("127.0.0.2", "127.0.0.1"), PORT), []
        for _ in range(2):
            start = time.monotonic()
            await asker.ask("git.example.org", A)
            took.append(time.monotonic() - start)
        return took

    with serving(lambda query: [], address="127.0.0.2"), serving(good):
        first, second = asyncio.run(twice())
    assert upstream.STAGGER <= first < upstream.STAGGER + 0.4
    assert second < 0.3


def test_a_slow_answer_to_the_first_question_still_counts() -> None:
    def slow(query: dns.message.Message) -> List[bytes]:
        time.sleep(0.9)
        return good(query)

    with serving(slow) as server:
        assert ask().addresses == ("203.0.113.9",)
    assert 1 <= len(server.asked) <= 2
