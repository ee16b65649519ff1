# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Listeners on real sockets, and a reload."""

from __future__ import annotations

import asyncio
import copy
import json
import socket
import struct
import time
from pathlib import Path
from typing import Any, Callable, Coroutine, Dict

import dns.message
import dns.rcode
import pytest
from cordon_firewall import listener
from cordon_firewall.journal import Journal
from cordon_firewall.nft_sets import Sets
from cordon_firewall.service import Service

from .conftest import DATA, Filter

Act = Callable[["Bench"], Coroutine[Any, Any, None]]


def _free() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Bench:
    """The service with an upstream on 127.0.0.1; ask() blocks, so it runs in a thread of its own."""

    def __init__(self, path: Path, packets: Filter) -> None:
        self.path, self.port, self.packets, self.lines = path, _free(), packets, []  # type: Path, int, Filter, List[str]
        self.data: Dict[str, Any] = copy.deepcopy(DATA)
        self.data["servers"] = ["127.0.0.1"]
        self.service = Service(path, Sets(packets), Journal(self.lines.append), self.port)
        self.upstream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.upstream.bind(("127.0.0.1", self.port))

    def write(self) -> None:
        self.path.write_text(json.dumps(self.data))

    def answer(self) -> None:
        """One answer of the upstream's."""
        self.upstream.settimeout(2)
        wire, source = self.upstream.recvfrom(4096)
        response = dns.message.make_response(dns.message.from_wire(wire))
        response.answer.append(dns.rrset.from_text(response.question[0].name, 60, "IN", "A", "203.0.113.9"))
        self.upstream.sendto(response.to_wire(), source)

    async def udp(self, name: str, address: str = "127.99.3.7") -> dns.message.Message:
        return await asyncio.to_thread(self._udp, name, address)

    def _udp(self, name: str, address: str) -> dns.message.Message:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
            channel.settimeout(3)
            channel.connect((address, self.port))
            channel.send(dns.message.make_query(name, "A").to_wire())
            return dns.message.from_wire(channel.recv(4096))


def run(tmp_path: Path, packets: Filter, act: Act) -> Bench:
    async def whole() -> Bench:
        bench = Bench(tmp_path / "resolver.json", packets)
        bench.write()
        try:
            await bench.service.start()
            await act(bench)
        finally:
            bench.service.close()
            bench.upstream.close()
        return bench

    return asyncio.run(whole())


def test_it_answers_by_udp(tmp_path: Path, packets: Filter) -> None:
    async def act(bench: Bench) -> None:
        answering = asyncio.to_thread(bench.answer)
        answer, _ = await asyncio.gather(bench.udp("git.example.org"), answering)
        assert answer.answer[0][0].address == "203.0.113.9"
        assert (await bench.udp("secret.git.example.org")).rcode() == dns.rcode.REFUSED
        assert (await bench.udp("git.example.org")).answer

    bench = run(tmp_path, packets, act)
    assert packets.sets["named4_autopilot"] == {"203.0.113.9 . tcp . 22": 120}
    assert len(bench.lines) == 3


def test_it_answers_by_tcp_one_after_the_other(tmp_path: Path, packets: Filter) -> None:
    async def act(bench: Bench) -> None:
        reader, writer = await asyncio.open_connection("127.99.3.7", bench.port)
        for name in ("a.test", "b.test", "c.test"):
            wire = dns.message.make_query(name, "A").to_wire()
            writer.write(struct.pack("!H", len(wire)) + wire)
        for name in ("a.test", "b.test", "c.test"):
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            answer = dns.message.from_wire(await reader.readexactly(length))
            assert answer.rcode() == dns.rcode.REFUSED
            assert answer.question[0].name.to_text() == name + "."
        writer.write(struct.pack("!H", 60000))
        assert await reader.read() == b"", "what is too long ends the connection"
        writer.close()

    run(tmp_path, packets, act)


def test_connections_are_few_and_short(tmp_path: Path, packets: Filter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "IDLE", 0.3)

    async def act(bench: Bench) -> None:
        opened = [await asyncio.open_connection("127.99.3.7", bench.port) for _ in range(listener.MOST_CONNECTIONS)]
        await asyncio.sleep(0.1)
        reader, writer = await asyncio.open_connection("127.99.3.7", bench.port)
        start = time.monotonic()
        assert await reader.read() == b""
        assert time.monotonic() - start < 0.15
        assert await opened[0][0].read() == b""
        assert (await bench.udp("x.test")).rcode() == dns.rcode.REFUSED
        for _reader, each in [*opened, (reader, writer)]:
            each.close()

    run(tmp_path, packets, act)


def test_a_reload_serves_whom_the_new_file_names(tmp_path: Path, packets: Filter) -> None:
    packets.sets.update({"named4_scribe": {}, "named6_scribe": {}})

    async def act(bench: Bench) -> None:
        assert (await bench.udp("git.example.org"[4:])).rcode() == dns.rcode.REFUSED
        scribe = {**copy.deepcopy(bench.data["clients"][0]), "name": "scribe", "set": "scribe", "address": "127.99.8.8"}
        bench.data["clients"].append(scribe)
        bench.write()
        await bench.service.reload()
        assert (await bench.udp("x.test", "127.99.8.8")).rcode() == dns.rcode.REFUSED
        del bench.data["clients"][0]
        bench.write()
        await bench.service.reload()
        assert (await bench.udp("x.test", "127.99.8.8")).rcode() == dns.rcode.REFUSED
        with pytest.raises(OSError, match="refused"):
            await bench.udp("x.test")

    bench = run(tmp_path, packets, act)
    assert [json.loads(line)["agent"] for line in bench.lines] == ["autopilot", "scribe", "scribe"]


def test_an_address_that_passes_to_another_client_is_that_one_s_alone(tmp_path: Path, packets: Filter) -> None:
    async def act(bench: Bench) -> None:
        reader, writer = await asyncio.open_connection("127.99.3.7", bench.port)
        await asyncio.sleep(0.1)
        bench.data["clients"][0].update(name="scribe", set="scribe", names=[])
        bench.write()
        await bench.service.reload()
        assert await reader.read() == b"", "a connection of before is not served by the list of before"
        writer.close()
        assert (await bench.udp("git.example.org")).rcode() == dns.rcode.REFUSED

    bench = run(tmp_path, packets, act)
    assert [json.loads(line)["agent"] for line in bench.lines] == ["scribe"]


def test_a_file_that_cannot_be_used_changes_nothing_and_is_told(
    tmp_path: Path, packets: Filter, capsys: pytest.CaptureFixture[str]
) -> None:
    async def act(bench: Bench) -> None:
        bench.path.write_text("{")
        await bench.service.reload()
        assert (await bench.udp("x.test")).rcode() == dns.rcode.REFUSED

    run(tmp_path, packets, act)
    assert "resolver.json" in capsys.readouterr().err


def test_a_missing_table_is_told_once_for_all(tmp_path: Path, packets: Filter, capsys: pytest.CaptureFixture[str]) -> None:
    async def act(bench: Bench) -> None:
        packets.sets.clear()
        await bench.service.reload()

    run(tmp_path, packets, act)
    assert "systemctl reload cordon-firewall" in capsys.readouterr().err


def test_an_address_that_is_taken_is_an_error(tmp_path: Path, packets: Filter) -> None:
    async def act(bench: Bench) -> None:
        other = Service(bench.path, Sets(packets), Journal(bench.lines.append), bench.port)
        with pytest.raises(OSError, match=r"127\.99\.3\.7"):
            await other.start()

    run(tmp_path, packets, act)
