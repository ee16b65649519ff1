# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The world that the tests of egress reach for, inside the guest: a network namespace that answers at documentation and
metadata addresses, and writes down what arrives.

    world.py lay       make the namespace and the cable to it; what is there already stays
    world.py serve     answer (inside the namespace)
    world.py deputies  stand in for daemons of the host that would act for somebody else

Everything that arrives is one JSON line in ARRIVALS: {"kind": "tcp", "address", "port", ...}. Standard library and
dnspython.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

NAMESPACE, INSIDE, OUTSIDE = "world", "world1", "world0"
ARRIVALS = "/run/world/arrivals.jsonl"
CERTIFICATE = "/etc/world/server.pem"  # and its key

# Single addresses and routes: the machine itself may lie in a documentation network, as its mirror does.
HOST = ("203.0.113.1", "2001:db8:9::1", "10.99.0.1")
RESOLVER, ROGUE = "203.0.113.53", "203.0.113.66"
API, INSPECTED, GIT, TIME, OFF_LIST = "203.0.113.10", "203.0.113.11", "203.0.113.22", "203.0.113.23", "203.0.113.99"
FORGE = "203.0.113.12"  # world-forge.service answers there, not we
DATABASE, PRIVATE = "10.99.0.5", "10.99.0.6"
GRANTED, GRANTED_DATABASE = "192.0.2.10", "198.51.100.7"
ALIBABA = "100.100.100.200"
# Where clouds answer; 169.254.169.254 and fd00:ec2::254 are the test bed's own (testbed-metadata.service).
METADATA = ("168.63.129.16", ALIBABA, "169.254.170.2", "192.0.0.192", "fd20:ce::254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1")
API6, OFF_LIST6 = "2001:db8:9::10", "2001:db8:9::99"
ADDRESSES = (RESOLVER, ROGUE, API, INSPECTED, GIT, TIME, OFF_LIST, DATABASE, PRIVATE, GRANTED, GRANTED_DATABASE, *METADATA,
             API6, OFF_LIST6, FORGE)  # fmt: skip

TLS_PORTS = (443, 853)
LINE_PORTS = (22, 25, 80, 123, 5432, 8080)
UDP_PORTS = (123, 443, 8080)
GREETING = {22: b"SSH-2.0-world\r\n", 25: b"220 world\r\n"}
REVISION = "1b0a5d0e" * 5

ZONE: Dict[Tuple[str, str], List[str]] = {
    ("api.example.org", "A"): [API],
    ("api.example.org", "AAAA"): [API6],
    ("inspected.example.org", "A"): [INSPECTED],
    ("forge.example.org", "A"): [FORGE],
    ("git.example.org", "A"): [GIT],
    ("time.example.org", "A"): [TIME],
    ("database.example.org", "A"): [DATABASE],
    ("private.example.org", "A"): [PRIVATE],
    ("rebound.example.org", "A"): [ALIBABA],
    ("notes.example.org", "A"): [API],
    # The address is harmless; the alias is not.
    ("alias.example.org", "CNAME"): ["metadata.google.internal."],
    ("metadata.google.internal", "A"): [API],
    ("outside.example.net", "A"): [OFF_LIST],
    **{(name, "TXT"): ['"an answer with a payload"'] for name in ("git.example.org", "outside.example.net")},
    ("git.example.org", "MX"): ["10 outside.example.net."],
    ("git.example.org", "HTTPS"): ["1 . alpn=h2"],
    ("git.example.org", "SVCB"): ["1 outside.example.net."],
    ("git.example.org", "NULL"): [r"\# 3 616263"],
}
# Now here, now there: each question gets the other answer, good for no time at all.
REBINDING = {"rebinding.example.org": itertools.cycle([API, ALIBABA])}
WILDCARDS = (".packages.example.org",)


def lay() -> None:
    """The namespace, the cable and the routes."""
    if not os.path.exists(f"/run/netns/{NAMESPACE}"):
        _ip("netns", "add", NAMESPACE)
        _ip("link", "add", OUTSIDE, "type", "veth", "peer", "name", INSIDE, "netns", NAMESPACE)
    for name in ("lo", INSIDE):
        _ip("-n", NAMESPACE, "link", "set", name, "up")
    _ip("link", "set", OUTSIDE, "up")
    for address in HOST:
        _ip("address", "replace", address, "dev", OUTSIDE, *_nodad(address))
        _ip("-n", NAMESPACE, "route", "replace", address, "dev", INSIDE)
    for address in ADDRESSES:
        _ip("-n", NAMESPACE, "address", "replace", address, "dev", INSIDE, *_nodad(address))
        _ip("route", "replace", address, "dev", OUTSIDE)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _nodad(address: str) -> List[str]:
    return ["nodad"] if ":" in address else []


def note(**what: Any) -> None:
    """Write down what arrived. One write a line, so that readers never see half of one."""
    with open(ARRIVALS, "a", encoding="utf-8") as file:
        file.write(json.dumps({"at": time.time(), **what}) + "\n")


# --- DNS ----------------------------------------------------------------------------------------------


def dns_reply(wire: bytes, server: str, transport: str) -> bytes:
    """Answer from ZONE; the name counts in lower case, and is written down as it was spelled."""
    import dns.flags
    import dns.message
    import dns.rcode
    import dns.rdatatype

    query = dns.message.from_wire(wire)
    question = query.question[0]
    name, kind = question.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(question.rdtype)
    note(kind="dns", address=server, port=53, transport=transport, name=name, type=kind)
    response = dns.message.make_response(query)
    response.flags |= dns.flags.RA
    records = _records(name.lower(), kind)
    for owner, found, texts, ttl in records:
        response.answer.append(_rrset(owner, found, texts, ttl))
    if not records and not any(owner == name.lower() for owner, _kind in ZONE):
        response.set_rcode(dns.rcode.NXDOMAIN)
    return response.to_wire()


def _rrset(owner: str, kind: str, texts: List[str], ttl: int) -> Any:
    import dns.rrset

    return dns.rrset.from_text(owner + ".", ttl, "IN", kind, *texts)


def _records(name: str, kind: str) -> List[Tuple[str, str, List[str], int]]:
    """(owner, type, data, ttl) of each set in the answer."""
    if (name, "CNAME") in ZONE:
        target = ZONE[name, "CNAME"]
        return [(name, "CNAME", target, 300), *_records(target[0].rstrip("."), kind)]
    if kind == "A" and name in REBINDING:
        return [(name, "A", [next(REBINDING[name])], 0)]
    if kind == "A" and name.endswith(WILDCARDS):
        return [(name, "A", [API], 300)]
    return [(name, kind, ZONE[name, kind], 300)] if (name, kind) in ZONE else []


class Datagrams(asyncio.DatagramProtocol):
    """DNS on port 53, an echo on the others."""

    def __init__(self, address: str, port: int) -> None:
        self.address, self.port = address, port
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, source: Any) -> None:
        if self.port == 53:
            self.transport.sendto(dns_reply(data, self.address, "udp"), source)
            return
        note(kind="udp", address=self.address, port=self.port, data=data[:80].decode("latin-1"))
        self.transport.sendto(data, source)


# --- TCP ----------------------------------------------------------------------------------------------


async def dns_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    length = int.from_bytes(await reader.readexactly(2), "big")
    reply = dns_reply(await reader.readexactly(length), writer.get_extra_info("sockname")[0], "tcp")
    writer.write(len(reply).to_bytes(2, "big") + reply)
    await writer.drain()


async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request inside TLS: tells what the server saw."""
    address, port = writer.get_extra_info("sockname")[:2]
    sni = getattr(writer.get_extra_info("ssl_object"), "server_name_seen", None)
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path = head[0].split(" ")[:2]
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
    seen = {"kind": "https", "address": address, "port": port, "sni": sni, "host": headers.get("host"), "method": method,
            "path": path}  # fmt: skip
    note(**seen, authorization=headers.get("authorization"))
    status = path.rpartition("/status/")[2] if "/status/" in path else "200"
    # As a web server has a repository that knows nothing of git: git-http-backend(1), "dumb" protocol.
    body = f"{REVISION}\trefs/heads/main\n" if "/info/refs" in path else json.dumps(seen)
    writer.write(f"HTTP/1.1 {status} Because\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
                 f"Connection: close\r\n\r\n{body}".encode())  # fmt: skip
    await writer.drain()


async def lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A greeting, and then every line back."""
    address, port = writer.get_extra_info("sockname")[:2]
    note(kind="tcp", address=address, port=port)
    writer.write(GREETING.get(port, b"hello\r\n"))
    while data := await reader.readline():
        writer.write(data)
        await writer.drain()


def quiet(handler: Any) -> Any:
    """Whoever hangs up is no fault of the world."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (OSError, asyncio.IncompleteReadError, ValueError, ssl.SSLError):
            pass
        finally:
            writer.close()

    return serve


def tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)

    def remember(connection: Any, name: str | None, _context: Any) -> None:
        note(kind="hello", sni=name)
        connection.server_name_seen = name

    context.sni_callback = remember
    return context


async def serve() -> None:
    """All services at all addresses."""
    Path(ARRIVALS).touch()  # nothing has arrived yet
    loop, hosts, context = asyncio.get_running_loop(), [one for one in ADDRESSES if one != FORGE], tls()
    await asyncio.start_server(quiet(dns_stream), [RESOLVER, ROGUE], 53)
    for port in TLS_PORTS:
        await asyncio.start_server(quiet(web), hosts, port, ssl=context, ssl_handshake_timeout=10)
    for port in LINE_PORTS:
        await asyncio.start_server(quiet(lines), hosts, port)
    for address, port in [(RESOLVER, 53), (ROGUE, 53), *itertools.product(hosts, UDP_PORTS)]:
        await loop.create_datagram_endpoint(lambda a=address, p=port: Datagrams(a, p), local_addr=(address, port))
    await _ready()


async def _ready() -> None:
    notify = os.environ.get("NOTIFY_SOCKET")
    if notify:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(b"READY=1", notify)
    await asyncio.Event().wait()


# --- On the host --------------------------------------------------------------------------------------

DOCKER, RESOLVED = "/run/docker.sock", "/run/systemd/resolve/io.systemd.Resolve"
CONTAINERD, PODMAN, SNAPD = "/run/containerd/containerd.sock", "/run/podman/podman.sock", "/run/snapd.socket"
AVAHI, CUPS = "/run/avahi-daemon/socket", "/run/cups/cups.sock"
SOCKETS = (DOCKER, RESOLVED, CONTAINERD, PODMAN, SNAPD, AVAHI, CUPS)


async def deputies() -> None:
    """A mail server on loopback, and the sockets of daemons that fetch, print or resolve for others, open to everybody."""
    await asyncio.start_server(quiet(lines), ["127.0.0.1", "::1"], 25)
    for path in SOCKETS:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.exists(path):
            os.unlink(path)
        await asyncio.start_unix_server(quiet(_hello), path)
        os.chmod(path, 0o666)
    await _ready()


async def _hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(100)
    writer.write(b"hello\r\n")
    await writer.drain()


if __name__ == "__main__":
    if sys.argv[1:] == ["lay"]:
        lay()
    else:
        asyncio.run({"serve": serve, "deputies": deputies}[sys.argv[1]]())
