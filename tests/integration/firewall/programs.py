# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs at both ends: a server that answers, and attempts that tell what became of them.

Standard library only and one file, because it also runs inside a guest: ``python3 programs.py try '[[...], ...]'``
prints one JSON list per attempt, [outcome, seconds]. An outcome is "answered", "sent" or the name of an errno.
"""
from __future__ import annotations

import errno
import json
import os
import resource
import selectors
import socket
import struct
import sys
import time
from typing import Any, Dict, List, Tuple

TIMEOUT = 3.0
TCP_PORTS = (22, 53, 80, 443, 853, 5432, 8080)
UDP_PORTS = (53, 123, 443)


def serve() -> None:
    """Answer "hello" on every port of both families until killed; says "ready" once it listens."""
    selector = selectors.DefaultSelector()
    for family in (socket.AF_INET, socket.AF_INET6):
        for kind, ports in ((socket.SOCK_STREAM, TCP_PORTS), (socket.SOCK_DGRAM, UDP_PORTS)):
            for port in ports:
                selector.register(_bound(family, kind, port), selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _mask in selector.select():
            sock: Any = key.fileobj
            if sock.type == socket.SOCK_DGRAM:
                sock.sendto(b"hello", sock.recvfrom(100)[1])
            elif key.data != "greeted":
                connection = sock.accept()[0]
                connection.send(b"hello")
                selector.register(connection, selectors.EVENT_READ, "greeted")
            elif not _heard(sock):
                selector.unregister(sock)
                sock.close()


def _heard(sock: socket.socket) -> bytes:
    try:
        return sock.recv(4096)
    except OSError:
        return b""


def _bound(family: int, kind: int, port: int) -> socket.socket:
    sock = socket.socket(family, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(("", port))
    if kind == socket.SOCK_STREAM:
        sock.listen(50)
    return sock


def tcp(address: str, port: int) -> str:
    """Connect and wait for the greeting."""
    sock = socket.socket(_family(address), socket.SOCK_STREAM)
    sock.settimeout(TIMEOUT)
    sock.connect((address, port))
    return _answer(sock)


def udp(address: str, port: int) -> str:
    """Send a datagram and wait for the answer."""
    sock = socket.socket(_family(address), socket.SOCK_DGRAM)
    sock.settimeout(TIMEOUT)
    sock.sendto(b"hello?", (address, port))
    return _answer(sock)


def ping(address: str, _port: int) -> str:
    """An echo request through a ping socket, as an ordinary user may make one (ping_group_range).

    It asks for ICMP errors like ping(8) does: Linux reports a refused IPv6 echo request in no other way.
    """
    v6 = _family(address) == socket.AF_INET6
    sock = socket.socket(_family(address), socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP)
    sock.setsockopt(*((socket.IPPROTO_IPV6, 25) if v6 else (socket.IPPROTO_IP, 11)), 1)  # IPV6_RECVERR, IP_RECVERR
    sock.settimeout(TIMEOUT)
    sock.sendto(struct.pack("!BBHHH", 128 if v6 else 8, 0, 0, 0, 1) + b"data out", (address, 0))
    return _answer(sock)


def udplite(address: str, port: int) -> str:
    """A transport that hardly any firewall names."""
    sock = socket.socket(_family(address), socket.SOCK_DGRAM, 136)
    sock.sendto(b"data out", (address, port))
    return "sent"


def raw(address: str, _port: int) -> str:
    """A packet of an unassigned protocol; needs CAP_NET_RAW, which the agent's unit does not give."""
    socket.socket(_family(address), socket.SOCK_RAW, 253).sendto(b"data out", (address, 0))
    return "sent"


def sctp(address: str, port: int) -> str:
    """The first packet of an SCTP association (INIT, RFC 9260 3.3.2), made here: not every kernel has the protocol."""
    init = struct.pack("!BBHIIHHI", 1, 0, 20, 1, 65535, 1, 1, 1)
    header = struct.pack("!HHI", 5000, port, 0)
    checksum = struct.pack("<I", _crc32c(header + struct.pack("!I", 0) + init))
    socket.socket(_family(address), socket.SOCK_RAW, 132).sendto(header + checksum + init, (address, 0))
    return "sent"


def _crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for octet in data:
        value ^= octet
        for _bit in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def fast_open(address: str, port: int) -> str:
    """Data in the very first packet of a TCP connection."""
    sock = socket.socket(_family(address), socket.SOCK_STREAM)
    sock.sendto(b"data out", 0x20000000, (address, port))  # MSG_FASTOPEN; it wants a blocking socket
    sock.settimeout(TIMEOUT)
    return _answer(sock)


def source_route(address: str, port: int) -> str:
    """A datagram to an allowed first hop, with a loose source route that leads on to 203.0.113.9 (RFC 791)."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    hops = socket.inet_aton(address) + socket.inet_aton("203.0.113.9")
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, struct.pack("BBB", 0x83, 3 + len(hops), 4) + hops + b"\0")
    sock.sendto(b"data out", (address, port))
    return "sent"


def udp_from_5432(address: str, port: int) -> str:
    """A call from the port of a service that the agent may reach."""
    sock = socket.socket(_family(address), socket.SOCK_DGRAM)
    sock.settimeout(TIMEOUT)
    sock.bind(("", 5432))
    sock.sendto(b"hello?", (address, port))
    return _answer(sock)


def _answer(sock: socket.socket) -> str:
    return "answered" if sock.recv(1500) else "closed"


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


ATTEMPTS = {one.__name__: one for one in (tcp, udp, ping, udplite, raw, sctp, fast_open, source_route, udp_from_5432)}


def attempt(how: str, address: str, port: int) -> Tuple[str, float]:
    """What became of one attempt, and after how many seconds."""
    start = time.monotonic()
    try:
        outcome = ATTEMPTS[how](address, port)
    except socket.timeout:
        outcome = "ETIMEDOUT"
    except OSError as error:
        outcome = errno.errorcode.get(error.errno or 0, repr(error))
    return outcome, time.monotonic() - start


def listen(address: str, port: int) -> None:
    """Serve one TCP connection and one datagram, as an agent that waits for orders would."""
    stream = socket.socket(_family(address), socket.SOCK_STREAM)
    datagram = socket.socket(_family(address), socket.SOCK_DGRAM)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Beside the server of all addresses (serve): a datagram goes to the one that is bound more closely.
    datagram.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    datagram.bind((address, port))
    try:
        stream.bind((address, port))
        stream.listen(5)
    except OSError:
        stream = socket.socket(_family(address), socket.SOCK_DGRAM)  # never readable: datagrams only
    selector = selectors.DefaultSelector()
    for sock in (stream, datagram):
        selector.register(sock, selectors.EVENT_READ)
    print("ready", flush=True)
    connections = []
    while True:
        for key, _mask in selector.select():
            try:
                if key.fileobj is stream:
                    connections.append(stream.accept()[0])
                    connections[-1].send(b"hello")
                else:
                    datagram.sendto(b"hello", datagram.recvfrom(100)[1])
            except OSError as error:
                print(errno.errorcode.get(error.errno or 0), flush=True)


def hold(address: str, port: int) -> None:
    """Connect, say so, and send again for each line of standard input, telling what becomes of it."""
    sock = socket.create_connection((address, port), TIMEOUT)
    print(_answer(sock), flush=True)
    for _line in sys.stdin:
        try:
            sock.send(b"more")
            time.sleep(0.2)  # the answer to what was sent is an error on the next call
            sock.send(b"more")
            print("sent", flush=True)
        except OSError as error:
            print(errno.errorcode.get(error.errno or 0), flush=True)


def hear(address: str, protocol: int) -> None:
    """Print each packet of a protocol that arrives at an address: its octets, in hex, without IPv4's own header."""
    sock = socket.socket(_family(address), socket.SOCK_RAW, protocol)
    sock.bind((address, 0))
    print("ready", flush=True)
    while True:
        data = sock.recv(1500)
        print(data[20 if sock.family == socket.AF_INET else 0:].hex(), flush=True)


def many(wanted: Dict[str, Any]) -> None:
    """Begin many flows; prints the outcomes, then waits for a line if they are to be held.

    {"how": tcp | udp | churn (TCP, ended at once), "to": [address, port], "count", "spread": from many loopback addresses}
    """
    kept: List[socket.socket] = []
    outcomes: Dict[str, int] = {}
    started = time.monotonic()
    for number in range(wanted["count"]):
        try:
            outcome = _flow(wanted, number, kept)
        except OSError as error:
            outcome = errno.errorcode.get(error.errno or 0, repr(error))
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    print(json.dumps([outcomes, time.monotonic() - started]), flush=True)
    sys.stdin.readline()


def _flow(wanted: Dict[str, Any], number: int, kept: List[socket.socket]) -> str:
    address, port = wanted["to"]
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if wanted["how"] == "udp" else socket.SOCK_STREAM)
    sock.settimeout(TIMEOUT)
    if wanted["spread"]:
        sock.bind((f"127.{number // 250 % 90 + 1}.{number % 250}.9", 0))
    elif wanted["how"] != "tcp":  # what is closed leaves its port to the next
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", 20000 + number))
    if wanted["how"] == "udp":
        sock.sendto(b"data", (address, port))
        sock.close()
        return "sent"
    sock.connect((address, port))
    answer = _answer(sock)
    if wanted["how"] == "tcp":
        kept.append(sock)
    else:
        sock.recv(1)  # until the other side has closed too
        sock.close()
    return answer


def rate(address: str, port: int) -> None:
    """Send for two seconds to who takes everything (sink); prints megabytes a second."""
    sock = socket.create_connection((address, port), TIMEOUT)
    block, sent, until = bytes(1 << 16), 0, time.monotonic() + 2
    while time.monotonic() < until:
        sent += sock.send(block)
    print(sent / 2e6, flush=True)


def sink(address: str, port: int) -> None:
    """Read all that comes by one connection after the other."""
    server = socket.create_server((address, port))
    print("ready", flush=True)
    while True:
        connection = server.accept()[0]
        while connection.recv(1 << 20):
            pass


def greet(address: str, port: int) -> None:
    """Greet one after the other and close."""
    server = socket.create_server((address, port), backlog=200)
    print("ready", flush=True)
    while True:
        connection = server.accept()[0]
        connection.send(b"hello")
        connection.close()


def main(arguments: List[str]) -> None:
    """serve | listen ADDRESS PORT | hold ... | hear ADDRESS PROTOCOL | sink ... | rate ... | greet ... | many JSON | try JSON"""
    what, *rest = arguments
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if what == "serve":
        serve()
    elif what == "try":
        print(json.dumps([attempt(*one) for one in json.loads(rest[0])]))
    elif what == "many":
        many(json.loads(rest[0]))
    else:
        {"listen": listen, "hold": hold, "hear": hear, "sink": sink, "rate": rate, "greet": greet}[what](rest[0], int(rest[1]))


if __name__ == "__main__":
    os.umask(0o077)
    main(sys.argv[1:])
