# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-in for a cloud's metadata service: without one, a denied request could not be told from an unanswered one."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ADDRESSES = ((socket.AF_INET, "169.254.169.254"), (socket.AF_INET6, "fd00:ec2::254"))
# The form of what the real one gives away; worth nothing.
ANSWER = json.dumps({"Code": "Success", "AccessKeyId": "ASIATESTBED", "Token": "testbed-metadata-token"}).encode()


class Handler(BaseHTTPRequestHandler):
    """Answers every request alike."""

    timeout = 10

    def _answer(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)

    do_GET = do_PUT = _answer


def serve(family: socket.AddressFamily, address: str) -> threading.Thread:
    kind = type("Server", (ThreadingHTTPServer,), {"address_family": family})
    thread = threading.Thread(target=kind((address, 80), Handler).serve_forever)
    thread.start()
    return thread


for thread in [serve(family, address) for family, address in ADDRESSES]:
    thread.join()
