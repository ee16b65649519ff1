# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask the resolvers that this host may ask, in words of our own.

Nothing of the client goes out but the name that the manifest allows: id and port are random, EDNS has no options.
An answer counts only if it comes from where the question went, with its id and its question (RFC 5452, 9.1).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import List, NamedTuple, Optional, Sequence, Set, Tuple

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype

from .message import PAYLOAD
from .policy import TYPES

STAGGER = 0.6  # seconds after which the next server is asked too, while the earlier ones may still answer
GIVE_UP = 5.0  # seconds
ROUNDS = 2
LEAST_ATTEMPTS = 3
LONGEST_DENIAL = 60  # seconds for which "no such name" is kept (RFC 2308 allows more; a new name is wanted soon)


class UpstreamError(Exception):
    """No server gave an answer that counts."""


class Given(NamedTuple):
    """An answer: NOERROR or NXDOMAIN, the names that it led through, the addresses, and seconds to keep it."""

    rcode: int
    aliases: Tuple[str, ...]
    addresses: Tuple[str, ...]
    ttl: int


class Upstream:
    """The servers. The one that answered last is asked first."""

    def __init__(self, servers: Sequence[str], port: int = 53) -> None:
        self._servers, self._port = list(servers), port

    async def ask(self, name: str, kind: int) -> Given:
        """Raises UpstreamError after GIVE_UP seconds, or at once when every attempt has failed."""
        try:
            return await asyncio.wait_for(self._race(name, kind), GIVE_UP)
        except asyncio.TimeoutError:
            raise UpstreamError(f"no answer from {', '.join(self._servers)} within {GIVE_UP:.0f} s") from None

    async def _race(self, name: str, kind: int) -> Given:
        """Start an attempt whenever STAGGER is over or one has failed; the first good answer ends it."""
        waiting = self._order()
        running: Set[asyncio.Task[Tuple[str, Given]]] = set()
        problems: List[str] = []
        try:
            while waiting or running:
                if waiting:
                    running.add(asyncio.ensure_future(self._attempt(waiting.pop(0), name, kind)))
                done, running = await asyncio.wait(
                    running, timeout=STAGGER if waiting else None, return_when=asyncio.FIRST_COMPLETED
                )
                problems += [str(task.exception()) for task in done if task.exception()]
                for task in done:
                    if not task.exception():
                        server, given = task.result()
                        self._prefer(server)
                        return given
        finally:
            for task in running:
                task.cancel()
        raise UpstreamError("; ".join(dict.fromkeys(problems)))

    def _order(self) -> List[str]:
        wanted = max(LEAST_ATTEMPTS, ROUNDS * len(self._servers))
        return [self._servers[number % len(self._servers)] for number in range(wanted)]

    def _prefer(self, server: str) -> None:
        self._servers.sort(key=lambda other: other != server)

    async def _attempt(self, server: str, name: str, kind: int) -> Tuple[str, Given]:
        query = dns.message.make_query(name + ".", TYPES[kind], use_edns=0, payload=PAYLOAD)
        try:
            response = await self._datagram(server, query)
            if response.flags & dns.flags.TC:
                response = await self._stream(server, query)
            return server, interpret(response)
        except (OSError, asyncio.IncompleteReadError, UpstreamError) as error:
            raise UpstreamError(f"{server}: {error}") from error

    async def _datagram(self, server: str, query: dns.message.Message) -> dns.message.Message:
        loop = asyncio.get_running_loop()
        with socket.socket(_family(server), socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as channel:
            # Connected: the kernel gives a random port, and drops what another address sends to it.
            channel.connect((server, self._port))
            await loop.sock_sendall(channel, query.to_wire())
            while True:
                response = accept(query, await loop.sock_recv(channel, 65535))
                if response is not None:
                    return response

    async def _stream(self, server: str, query: dns.message.Message) -> dns.message.Message:
        reader, writer = await asyncio.open_connection(server, self._port)
        try:
            wire = query.to_wire()
            writer.write(struct.pack("!H", len(wire)) + wire)
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            response = accept(query, await reader.readexactly(length))
        finally:
            writer.close()
        if response is None:
            raise UpstreamError("the answer by TCP is to another question")
        return response


def accept(query: dns.message.Message, wire: bytes) -> Optional[dns.message.Message]:
    """The response, if these octets are one to this query."""
    try:
        response = dns.message.from_wire(wire, ignore_trailing=True)
    # As for questions: whatever it raises, it is no answer.
    except Exception:
        return None
    return response if query.is_response(response) else None


def interpret(response: dns.message.Message) -> Given:
    """Follow the aliases from the question to the addresses. Records that do not belong to it are left alone."""
    if response.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise UpstreamError(f"it answered {dns.rcode.to_text(response.rcode())}")
    try:
        chain = response.resolve_chaining()  # type: ignore[attr-defined]
    except dns.exception.DNSException as error:
        raise UpstreamError(f"its answer cannot be followed: {error}") from error
    aliases = tuple(_text(rdata.target) for rrset in chain.cnames for rdata in rrset)
    addresses = tuple(rdata.address for rdata in chain.answer or ())
    ttl = chain.minimum_ttl if addresses else min(chain.minimum_ttl, LONGEST_DENIAL)
    return Given(int(response.rcode()), aliases, addresses, ttl)


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()


def _family(server: str) -> int:
    return socket.AF_INET6 if ":" in server else socket.AF_INET
