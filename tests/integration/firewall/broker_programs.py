# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What brokered secrets are tried against: servers that write down each request as it came.

    serve DIR ADDRESS PORT ARRIVALS REPOSITORIES   HTTPS for every name with a certificate in DIR; see Handler
    upstream ADDRESS PORT ARRIVALS                 a company's proxy: writes the CONNECT down and passes the tunnel on

No package of ours: it runs outside this tree.
"""
from __future__ import annotations

import http.server
import json
import os
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Optional
from urllib.parse import parse_qs, urlsplit

BACKEND = "/usr/lib/git-core/git-http-backend"


class Handler(http.server.BaseHTTPRequestHandler):
    """/redirect?to=URL answers 302, /git/... is git's own server, and wants Basic; all else answers 200 and nothing."""

    protocol_version = "HTTP/1.1"
    arrivals = repositories = wanted = ""

    def _any(self) -> None:
        body = self._body()
        note(self.arrivals, {"sni": getattr(self.connection, "asked", None), "method": self.command, "path": self.path,
                             "headers": [[name, value] for name, value in self.headers.items()]})
        url = urlsplit(self.path)
        if url.path == "/redirect":
            self._say(302, [("Location", parse_qs(url.query)["to"][0])])
        elif url.path.startswith("/git/"):
            self._git(url.path[4:], url.query, body)
        else:
            self._say(200)

    do_GET = do_POST = do_PUT = do_TRACE = do_HEAD = _any

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _say(self, status: int, headers: Any = (), body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in [*headers, ("Content-Length", str(len(body)))]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _git(self, path: str, query: str, body: bytes) -> None:
        if self.headers.get("Authorization") != Path(self.wanted).read_text():
            self._say(401, [("WWW-Authenticate", 'Basic realm="git"')])
            return
        environment = {
            "PATH": "/usr/bin:/bin", "GIT_PROJECT_ROOT": self.repositories, "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path,
            "QUERY_STRING": query, "REQUEST_METHOD": self.command, "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)), "REMOTE_USER": "pusher", "REMOTE_ADDR": "192.0.2.1",
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        answer = subprocess.run([BACKEND], input=body, env=environment, stdout=subprocess.PIPE, check=True).stdout
        head, _end, rest = answer.partition(b"\r\n\r\n")
        fields = [tuple(line.split(": ", 1)) for line in head.decode().split("\r\n")]
        status = next((int(value.split()[0]) for name, value in fields if name == "Status"), 200)
        self._say(status, [pair for pair in fields if pair[0] != "Status"], rest)

    def log_message(self, *_arguments: object) -> None:
        """Quiet."""


class Server(http.server.ThreadingHTTPServer):
    """TLS in the thread of each connection, with the certificate that its name asks for."""

    daemon_threads = True
    contexts: dict[str, ssl.SSLContext] = {}

    def finish_request(self, request: Any, client_address: Any) -> None:
        default = next(iter(self.contexts.values()))
        try:
            secure = default.wrap_socket(request, server_side=True)
        except OSError:
            return
        super().finish_request(secure, client_address)

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        """Whoever hangs up has his reasons."""


def note(path: str, what: Any) -> None:
    """One line, at once."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(what) + "\n")


def serve(directory: str, address: str, port: int) -> None:
    """Until killed."""

    def choose(sock: Any, name: Optional[str], _context: ssl.SSLContext) -> None:
        sock.asked = name
        sock.context = Server.contexts.get(name or "", sock.context)

    for path in sorted(Path(directory).glob("*.test.pem")):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path, path.with_suffix(".key"))
        context.sni_callback = choose
        Server.contexts[path.stem] = context
    server = Server((address, port), Handler)
    print("ready", flush=True)
    server.serve_forever()


class Upstream(socketserver.BaseRequestHandler):
    """The company's proxy."""

    arrivals = target = ""

    def handle(self) -> None:
        """Write the request down, then pass bytes on."""
        data = b""
        while b"\r\n\r\n" not in data and (part := self.request.recv(65536)):
            data += part
        note(self.arrivals, {"upstream": data.decode("latin-1")})
        address, port = self.target.split(":")
        with socket.create_connection((address, int(port))) as out:
            self.request.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=_copy, args=(out, self.request), daemon=True)
            back.start()
            _copy(self.request, out)


def _copy(source: socket.socket, to: socket.socket) -> None:
    try:
        while part := source.recv(65536):
            to.sendall(part)
        to.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def main(arguments: list[str]) -> None:
    """See the module docstring."""
    what, *rest = arguments
    if what == "serve":
        Handler.arrivals, Handler.repositories, Handler.wanted = rest[3:6]
        serve(rest[0], rest[1], int(rest[2]))
    else:
        Upstream.arrivals, Upstream.target = rest[2:4]
        with socketserver.ThreadingTCPServer((rest[0], int(rest[1])), Upstream) as server:
            print("ready", flush=True)
            server.serve_forever()


if __name__ == "__main__":
    os.umask(0o077)
    main(sys.argv[1:])
