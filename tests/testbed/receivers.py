# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The services that guests meet, as one process on the host's loopback: an HTTPS service, a listener that stands for
an address off the allowlist, and the receiver of webhooks and heartbeats.

Run as `python3 -m testbed.receivers DIRECTORY`. Every request becomes one line of JSON in the service's log, so a test
can show that something arrived, and that something else did not.
"""

from __future__ import annotations

import json
import ssl
import sys
import threading
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from testbed.files import write_atomically

NAMES = ("https", "off_allowlist", "receiver")
MOST_BYTES = 2**20
_LOCK = threading.Lock()


def log_name(service: str, path: str) -> str:
    """The log file of a request. On the receiver the first part of the path chooses it."""
    if service != "receiver":
        return f"{service}.jsonl"
    first = path.split("?")[0].strip("/").split("/")[0]
    return f"{first}.jsonl" if first in ("webhook", "heartbeat") else "receiver.jsonl"


def wanted_status(path: str) -> int:
    """`/status/503` answers 503, for tests of what happens when an API fails; anything else answers 200."""
    parts = path.split("?")[0].strip("/").split("/")
    if len(parts) == 2 and parts[0] == "status" and parts[1].isdecimal() and 200 <= int(parts[1]) <= 599:
        return int(parts[1])
    return 200


def body_of(raw: bytes) -> Any:
    """The body as data if it is JSON, as text otherwise."""
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode(errors="replace")


class Handler(BaseHTTPRequestHandler):
    """Answers GET, HEAD, POST and PUT with JSON, and logs them."""

    protocol_version = "HTTP/1.1"
    timeout = 30
    service = ""
    logs = Path()

    def _read(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        return self.rfile.read(min(int(length), MOST_BYTES)) if length.isdecimal() else b""

    def _record(self, raw: bytes) -> None:
        arrived = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"time": arrived, "method": self.command, "path": self.path,
                "agent": self.headers.get("User-Agent", ""), "body": body_of(raw)}
        with _LOCK, (self.logs / log_name(self.service, self.path)).open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")

    def _answer(self) -> None:
        raw = self._read()
        self._record(raw)
        text = json.dumps({"service": self.service, "method": self.command, "path": self.path, "bytes": len(raw)})
        self.send_response(wanted_status(self.path))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text.encode())

    do_GET = do_HEAD = do_POST = do_PUT = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: _record is the log."""


class TLSServer(ThreadingHTTPServer):
    """Shakes hands in the request's own thread: a client that connects and says nothing holds up nobody."""

    context: ssl.SSLContext

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(Handler.timeout)
        with self.context.wrap_socket(request, server_side=True) as secure:
            super().finish_request(secure, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that distrusts our certificate is not an error of the service."""


def serve(service: str, port: int, logs: Path, certificates: Path) -> ThreadingHTTPServer:
    """Listen on loopback (`port` 0: any free one) and answer in a thread of its own."""
    handler = type(f"{service}_handler", (Handler,), {"service": service, "logs": logs})
    kind = TLSServer if service == "https" else ThreadingHTTPServer
    try:
        server = kind(("127.0.0.1", port), handler)
    except OSError:
        server = kind(("127.0.0.1", 0), handler)
    if isinstance(server, TLSServer):
        server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.context.load_cert_chain(certificates / "server.crt", certificates / "server.key")
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main(directory: Path) -> None:
    """Serve until killed. `services/ports.json` appears once all listen; its old ports are taken again if free, so
    that what guests know stays true when the services are restarted."""
    ports = directory / "services" / "ports.json"
    wanted = json.loads(ports.read_text()) if ports.exists() else {}
    ports.unlink(missing_ok=True)
    servers = {name: serve(name, wanted.get(name, 0), directory, directory / "services") for name in NAMES}
    write_atomically(ports, json.dumps({name: each.server_address[1] for name, each in servers.items()}) + "\n")
    threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
