# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTTPS services that the workloads meet: git (smart HTTP, with a password), a Python index, an npm registry.

Usage: forge.py CERTIFICATE KEY TOKEN REPOSITORIES PACKAGES ADDRESS...   Runs on the guest; standard library only.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import ssl
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

CERTIFICATE, KEY, TOKEN, REPOSITORIES, PACKAGES = sys.argv[1:6]
LOGIN = "Basic " + base64.b64encode(f"coder:{TOKEN}".encode()).decode()


class Forge(SimpleHTTPRequestHandler):
    """/project.git is git's, /health and /upload answer JSON, everything else is a file of PACKAGES."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments, directory=PACKAGES)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        if self.path == "/health":
            self._answer(200, {"healthy": True})
        elif ".git/" in self.path:
            self._git()
        else:
            super().do_GET()

    def do_POST(self) -> None:
        self._git()

    def do_PUT(self) -> None:
        data = self._body()
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        self._answer(201 if known else 403, {"bytes": len(data)})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _git(self) -> None:
        data = self._body()
        if self.headers.get("Authorization") != LOGIN:
            self._answer(401, {"error": "who are you?"}, {"WWW-Authenticate": 'Basic realm="forge"'})
            return
        if self.headers.get("Content-Encoding") == "gzip":
            data = gzip.decompress(data)
        path, _, query = self.path.partition("?")
        environment = {
            "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": REPOSITORIES, "GIT_HTTP_EXPORT_ALL": "1",
            "REMOTE_USER": "coder", "REQUEST_METHOD": self.command, "PATH_INFO": path, "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(data)),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        made = subprocess.run(["git", "http-backend"], input=data, env=environment, stdout=subprocess.PIPE, check=True)
        head, _, body = made.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        self._finish(headers, body)

    def _answer(self, status: int, document: dict[str, object], headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self._finish({"Content-Type": "application/json", **(headers or {})}, json.dumps(document).encode())

    def _finish(self, headers: dict[str, str], body: bytes) -> None:
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def serve(address: str, context: ssl.SSLContext) -> None:
    server = ThreadingHTTPServer((address, 443), Forge)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(CERTIFICATE, KEY)
    for each in sys.argv[6:]:
        threading.Thread(target=serve, args=(each, tls)).start()
