# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the proxy's tests run at both ends: names and TLS servers, and a client that does what no ordinary client would.

    dns NAMES          answer A questions on 127.99.255.1 from the JSON object NAMES; write each question to stdout
    tls DIR ADDRESS PORT   serve HTTP/1.1 over TLS, with the certificate DIR/NAME.pem for each SNI; "*" without one
    try JSON           one tunnel for each object, see attempt(); prints what became of them as JSON
    hold LISTENER HOST:PORT SNI   open a tunnel, then send a request for each line of standard input

One file and no package of ours: it runs as another user, outside this tree.
"""
from __future__ import annotations

import json
import os
import socket
import ssl
import sys
import threading
from pathlib import Path
from typing import Any, Dict, List, Optional

TIMEOUT = 8.0


def dns(names: Dict[str, str]) -> None:
    """A tiny resolver: what is not in names does not exist."""
    import dns.message
    import dns.rcode
    import dns.rrset

    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the servers of programs.py listen on every address
    sock.bind(("127.99.255.1", 53))
    print("ready", flush=True)
    while True:
        data, who = sock.recvfrom(4096)
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query)
        name = str(query.question[0].name).rstrip(".")
        print(name, flush=True)
        if name not in names:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif query.question[0].rdtype == 1:
            answer.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", "A", names[name]))
        sock.sendto(answer.to_wire(), who)


def tls(directory: str, address: str, port: int) -> None:
    """HTTPS for every name that has a certificate; what the client wrote in its ClientHello is part of the answer."""
    contexts = {path.stem: _server(path) for path in Path(directory).glob("*.test.pem")}
    default = next(iter(contexts.values()))

    def choose(sock: Any, name: Optional[str], _context: ssl.SSLContext) -> None:
        sock.asked = name
        sock.context = contexts.get(name or "", default)

    for context in contexts.values():
        context.sni_callback = choose
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(300)
    print("ready", flush=True)
    while True:
        sock = listener.accept()[0]
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_serve, args=(default, sock), daemon=True).start()


def _server(path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, path.with_suffix(".key"))
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def _serve(context: ssl.SSLContext, raw: socket.socket) -> None:
    try:
        sock: Any = context.wrap_socket(raw, server_side=True)
        while _answer(sock):
            pass
    except (OSError, ValueError):
        raw.close()


def _answer(sock: Any) -> bool:
    head, _end, rest = _until(sock, b"\r\n\r\n").partition(b"\r\n\r\n")
    if not head:
        return False
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    if fields.get(b"upgrade") == b"websocket":
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        while True:
            data = sock.recv(1000)
            if not data:
                return False
            sock.sendall(b"echo " + data)
    length, got = int(fields.get(b"content-length", b"0")), len(rest)
    while got < length:
        got += len(sock.recv(1 << 16))
    path = head.split()[1].decode()
    body = json.dumps({"sni": sock.asked, "path": path, "got": got, "alpn": sock.selected_alpn_protocol(),
                       "authorization": fields.get(b"authorization", b"").decode()}).encode()
    status = b"503 Busy" if path.startswith("/503") else b"200 OK"
    sock.sendall(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
    return True


def _until(sock: Any, end: bytes) -> bytes:
    data = b""
    while end not in data:
        part = sock.recv(1 << 16)
        if not part:
            return b""
        data += part
    return data


def attempt(wanted: Dict[str, Any]) -> Dict[str, Any]:
    """One tunnel.

    via: the proxy's "address:port", or none to go to `to` itself; connect: what CONNECT says; sni: None for no SNI;
    hosts: the Host header of each request; ca: a file, or the certificate is not looked at; alpn, raw: bytes to send instead
    of CONNECT. Answer: {"connect": status or error, "tls": version or error, "issuer", "alpn", "answers": [...]}
    """
    found: Dict[str, Any] = {"connect": None, "tls": None, "answers": []}
    try:
        sock, found["connect"] = opened(wanted)
    except OSError as error:
        return {**found, "connect": type(error).__name__}
    if found["connect"] not in (None, "200"):
        return found
    try:
        secure = secured(sock, wanted)
    except OSError as error:
        return {**found, "tls": getattr(error, "reason", None) or type(error).__name__}
    found.update(tls=secure.version(), alpn=secure.selected_alpn_protocol())
    if wanted.get("ca"):
        found["issuer"] = dict(pair[0] for pair in secure.getpeercert()["issuer"])["commonName"]
    for host in wanted.get("hosts", []):
        found["answers"].append(asked(secure, host))
    return found


def opened(wanted: Dict[str, Any]) -> tuple[socket.socket, Optional[str]]:
    """A connection, and the status with which the proxy answered CONNECT; none of a connection around it."""
    where = wanted.get("via") or wanted["to"]
    sock = socket.create_connection((where.rpartition(":")[0], int(where.rpartition(":")[2])), TIMEOUT)
    if not wanted.get("via"):
        return sock, None
    said = wanted.get("raw") or f"CONNECT {wanted['connect']} HTTP/1.1\r\nHost: {wanted['connect']}\r\n\r\n"
    sock.sendall(said.encode())
    return sock, _until(sock, b"\r\n\r\n").decode("latin-1")[9:12]


def secured(sock: socket.socket, wanted: Dict[str, Any]) -> ssl.SSLSocket:
    """TLS with whatever name the attempt wants to show."""
    context = ssl.create_default_context(cafile=wanted.get("ca") or None)
    if not wanted.get("ca"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if wanted.get("alpn"):
        context.set_alpn_protocols(wanted["alpn"])
    return context.wrap_socket(sock, server_hostname=wanted.get("sni"))


def asked(sock: Any, host: str) -> str:
    """The status and, of our own servers, the SNI that they saw."""
    try:
        sock.sendall(f"GET /p/{host}?secret=1 HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        head, _end, rest = _until(sock, b"\r\n\r\n").partition(b"\r\n\r\n")
        while head[9:12] == b"200" and not rest:
            rest = sock.recv(1000)
    except OSError as error:
        return type(error).__name__
    return head[9:12].decode() + (f" {json.loads(rest)['sni']}" if rest.startswith(b"{") else "") if head else "closed"


def hold(listener: str, connect: str, sni: str) -> None:
    """A tunnel that stays open."""
    sock, status = opened({"via": listener, "connect": connect})
    secure = secured(sock, {"sni": sni})
    print(status, flush=True)
    for _line in sys.stdin:
        print(asked(secure, connect), flush=True)


def main(arguments: List[str]) -> None:
    """See the module docstring."""
    what, *rest = arguments
    if what == "try":
        print(json.dumps([attempt(one) for one in json.loads(rest[0])]))
    elif what == "dns":
        dns(json.loads(rest[0]))
    elif what == "tls":
        tls(rest[0], rest[1], int(rest[2]))
    else:
        hold(*rest)


if __name__ == "__main__":
    os.umask(0o077)
    main(sys.argv[1:])
