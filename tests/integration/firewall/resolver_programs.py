# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs in the namespaces for the resolver's tests, each with the system's python3.

    resolver_programs.py upstream ADDRESS ZONE RECORD    a DNS server that writes down whatever reaches it
    resolver_programs.py ask                             exchanges of the list on standard input, as this user

ZONE is JSON, read for each question: {name: {"A": [...], "CNAME": "...", "ttl": 60, "how": "truncated"}}; a name that it
does not have is answered with 203.0.113.9 or with a text. RECORD gets {"by": "udp", "wire": "..."} for each question.
"""
from __future__ import annotations

import errno
import json
import selectors
import socket
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

TIMEOUT = 3.0


# --- upstream ---------------------------------------------------------------------------------------------


class Upstream:
    """Answers as the zone tells it."""

    def __init__(self, zone: Path, record: Path) -> None:
        self._zone, self._record = zone, record

    def replies(self, wire: bytes, by: str) -> List[bytes]:
        """What goes back, in this order."""
        import dns.message

        with self._record.open("a") as record:
            record.write(json.dumps({"by": by, "wire": wire.hex()}) + "\n")
        query = dns.message.from_wire(wire)
        told = json.loads(self._zone.read_text()).get(query.question[0].name.to_text(omit_final_dot=True).lower(), {})
        response = self._response(query, told)
        return getattr(self, "_" + told.get("how", "plain"))(query, response, by)

    @staticmethod
    def _response(query: Any, told: Dict[str, Any]) -> Any:
        import dns.message
        import dns.rdatatype
        import dns.rrset

        response = dns.message.make_response(query)
        name, kind = query.question[0].name.to_text(), dns.rdatatype.to_text(query.question[0].rdtype)
        told = told or {"A": ["203.0.113.9"], "TXT": ['"orders for the agent"']}
        if "CNAME" in told:
            response.answer.append(dns.rrset.from_text(name, told.get("ttl", 60), "IN", "CNAME", told["CNAME"]))
            name = told["CNAME"]
        if told.get(kind):
            response.answer.append(dns.rrset.from_text(name, told.get("ttl", 60), "IN", kind, *told[kind]))
        return response

    @staticmethod
    def _plain(query: Any, response: Any, by: str) -> List[bytes]:
        return [response.to_wire()]

    @staticmethod
    def _truncated(query: Any, response: Any, by: str) -> List[bytes]:
        import dns.flags

        if by == "udp":
            response.answer.clear()
            response.flags |= dns.flags.TC
        return [response.to_wire()]

    @staticmethod
    def _silent(query: Any, response: Any, by: str) -> List[bytes]:
        return []

    @staticmethod
    def _foreign(query: Any, response: Any, by: str) -> List[bytes]:
        """Another id, another question, a question instead of an answer, and noise."""
        import dns.message
        import dns.rrset

        other = dns.message.make_query("git.example.com.", "A")
        other.id = query.id
        another = dns.message.make_response(other)
        another.answer.append(dns.rrset.from_text("git.example.com.", 60, "IN", "A", "203.0.113.66"))
        response.id ^= 1
        return [response.to_wire(), another.to_wire(), query.to_wire(), b"\xc0" * 30, b""]


def upstream(address: str, zone: str, record: str) -> None:
    """Serve until killed."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    udp, tcp = socket.socket(family, socket.SOCK_DGRAM), socket.create_server((address, 53), family=family, backlog=100)
    udp.bind((address, 53))
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    server = Upstream(Path(zone), Path(record))
    threading.Thread(target=_streams, args=(server, tcp), daemon=True).start()
    print("ready", flush=True)
    while True:
        wire, source = udp.recvfrom(65535)
        for reply in server.replies(wire, "udp"):
            udp.sendto(reply, source)


def _streams(server: Upstream, tcp: socket.socket) -> None:
    while True:
        channel = tcp.accept()[0]
        wire = _receive(channel)
        for reply in server.replies(wire, "tcp") if wire else []:
            channel.sendall(struct.pack("!H", len(reply)) + reply)
        channel.close()


# --- ask --------------------------------------------------------------------------------------------------


def ask() -> None:
    """For each {"to", "by", "wire", "from"} of the list: {"wire" or "error", "seconds"}."""
    print(json.dumps([_exchange(one) for one in json.load(sys.stdin)]))


def _exchange(one: Dict[str, Any]) -> Dict[str, Any]:
    start = time.monotonic()
    try:
        reply = (_by_tcp if one["by"] == "tcp" else _by_udp)(one)
        found: Dict[str, Any] = {"wire": reply.hex()}
    except socket.timeout:
        found = {"error": "ETIMEDOUT"}
    except OSError as error:
        found = {"error": errno.errorcode.get(error.errno or 0, repr(error))}
    return {**found, "seconds": time.monotonic() - start}


def _socket(one: Dict[str, Any], kind: int) -> socket.socket:
    channel = socket.socket(socket.AF_INET, kind)
    channel.settimeout(one.get("timeout", TIMEOUT))
    if one.get("from"):
        channel.bind((one["from"], 0))
    channel.connect((one["to"], one.get("port", 53)))
    return channel


def _by_udp(one: Dict[str, Any]) -> bytes:
    with _socket(one, socket.SOCK_DGRAM) as channel:
        channel.send(bytes.fromhex(one["wire"]))
        return channel.recv(65535)


def _by_tcp(one: Dict[str, Any]) -> bytes:
    with _socket(one, socket.SOCK_STREAM) as channel:
        wire = bytes.fromhex(one["wire"])
        channel.sendall(struct.pack("!H", len(wire)) + wire)
        return _receive(channel)


def _receive(channel: socket.socket) -> bytes:
    data = b""
    while len(data) < 2 or len(data) < 2 + struct.unpack("!H", data[:2])[0]:
        more = channel.recv(65535)
        if not more:
            return b""
        data += more
    return data[2:]


# --- flood ------------------------------------------------------------------------------------------------


def flood(address: str, wires: str, seconds: str, pace: str) -> None:
    """Send these questions again and again, `pace` a second (0: as many as go); tell how many went and came back."""
    packets, sent, received = [bytes.fromhex(wire) for wire in wires.split(",")], 0, 0
    channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    channel.connect((address, 53))
    channel.setblocking(False)
    selector = selectors.DefaultSelector()
    selector.register(channel, selectors.EVENT_READ)
    start = time.monotonic()
    while time.monotonic() - start < float(seconds):
        if not float(pace) or sent < (time.monotonic() - start) * float(pace):
            sent += _try(lambda number: channel.send(packets[number % len(packets)]), sent) is not None
        else:
            selector.select(0.001)
        while _try(lambda _none: channel.recv(65535), 0) is not None:
            received += 1
    print(json.dumps({"sent": sent, "received": received}))


def _try(act: Any, argument: int) -> Optional[Any]:
    try:
        return act(argument)
    except OSError:
        return None


def measure(address: str, names: str, under_way: str, seconds: str) -> None:
    """Ask for A of each of these names, so many at once, going on when an answer comes; the rate and the times."""
    import dns.message

    wires = [dns.message.make_query(name, "A").to_wire() for name in names.split(",")]
    channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    channel.connect((address, 53))
    channel.settimeout(3)
    times, since, sent = [], {}, 0
    start = time.monotonic()

    def send() -> None:
        nonlocal sent
        since[sent & 0xFFFF] = time.monotonic()
        channel.send(struct.pack("!H", sent & 0xFFFF) + wires[sent % len(wires)][2:])
        sent += 1

    for _ in range(int(under_way)):
        send()
    while time.monotonic() - start < float(seconds) and sent < 60000:
        reply = channel.recv(65535)
        if reply[3] & 15:
            raise SystemExit(f"rcode {reply[3] & 15} after {sent} questions")
        times.append(time.monotonic() - since[struct.unpack("!H", reply[:2])[0]])
        send()
    times.sort()
    took = time.monotonic() - start
    print(json.dumps({"rate": len(times) / took, "median_ms": 1000 * times[len(times) // 2],
                      "p99_ms": 1000 * times[len(times) * 99 // 100]}))


if __name__ == "__main__":
    {"upstream": upstream, "ask": ask, "flood": flood, "measure": measure}[sys.argv[1]](*sys.argv[2:])
