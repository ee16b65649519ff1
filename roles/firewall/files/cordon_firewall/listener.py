# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Take questions on port 53 of one client's address, by UDP and TCP, and send the answers.

The address is who the client is: the packet filter lets each agent reach its own only. The source of a packet is not
looked at, since every program of the host may use any address of 127.0.0.0/8.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any, Optional, Set, Tuple

from .message import LONGEST_QUESTION, STREAM
from .resolver import Resolver

IDLE = 10.0  # seconds that a connection may be silent
MOST_CONNECTIONS = 32
MOST_UNDER_WAY = 512  # datagrams; each waits for the upstream no longer than resolver.PATIENCE


class Datagrams(asyncio.DatagramProtocol):
    """UDP."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._tasks: Set[asyncio.Task[None]] = set()
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """The socket is open."""
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Tuple[str, int]) -> None:
        """Answer when there is an answer; others are read meanwhile."""
        if not self._resolver.admit() or len(self._tasks) >= MOST_UNDER_WAY:
            return
        task = asyncio.ensure_future(self._answer(data, addr))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, data: bytes, address: Tuple[str, int]) -> None:
        reply = await self._resolver.reply(data)
        if reply is not None and not self._transport.is_closing():
            self._transport.sendto(reply, address)


class Listener:
    """Both sockets of one client."""

    def __init__(self, resolver: Resolver, port: int = 53) -> None:
        self.resolver, self._port = resolver, port
        self._udp: Optional[asyncio.DatagramTransport] = None
        self._tcp: Optional[asyncio.AbstractServer] = None
        self._connections: Set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        """Raises OSError where the address is taken."""
        address = self.resolver.client.address
        loop = asyncio.get_running_loop()
        try:
            self._tcp = await asyncio.start_server(self._connection, address, self._port)
            self._udp, _protocol = await loop.create_datagram_endpoint(
                lambda: Datagrams(self.resolver), local_addr=(address, self._port)
            )
        except OSError as error:
            self.close()
            raise OSError(f"{address} port {self._port}: {error} (another DNS server on all addresses of this host has to"
                          " name those that it serves)") from error  # fmt: skip

    def close(self) -> None:
        """Stop listening, and end the connections: what they would be told no longer holds."""
        self.resolver.close()
        for one in (self._tcp, self._udp, *self._connections):
            if one is not None:
                one.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            if len(self._connections) <= MOST_CONNECTIONS:
                await self._converse(reader, writer)
        except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError):
            pass  # it hung up, or says nothing: nothing to answer
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One question after the other (RFC 7766), until the client ends it or goes too far."""
        while True:
            (length,) = struct.unpack("!H", await asyncio.wait_for(reader.readexactly(2), IDLE))
            if length > LONGEST_QUESTION or not self.resolver.admit():
                return
            wire = await asyncio.wait_for(reader.readexactly(length), IDLE)
            reply = await self.resolver.reply(wire, STREAM)
            if reply is None:
                return
            writer.write(struct.pack("!H", len(reply)) + reply)
            await asyncio.wait_for(writer.drain(), IDLE)
