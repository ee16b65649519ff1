# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""In a container the packet filter is the kernel's own, for the container's network: it holds like anywhere."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest


def test_the_kernel_has_the_very_table_that_was_loaded(host: Any) -> None:
    record = json.loads(host.check_output("cat /etc/cordon/firewall.json"))
    listing = host.run("nft --stateless list table inet cordon").stdout
    assert hashlib.sha256(listing.encode()).hexdigest() == record["sha256"]


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_datagram_or_connection_to_the_local_resolver_is_refused(host: Any, protocol: str) -> None:
    """By the user alone, outside any session: no sandbox helps here. The send of a datagram itself fails."""
    kind, call = {"tcp": ("STREAM", "connect(%r)"), "udp": ("DGRAM", "sendto(b'?', %r)")}[protocol]
    code = f"import socket; socket.socket(socket.AF_INET, socket.SOCK_{kind}).{call % (('127.0.0.53', 53),)}"
    tried = host.run("runuser -u agent-scribe -- /usr/bin/python3 -c %s", code)
    assert tried.rc != 0
    assert {"tcp": "ConnectionRefusedError", "udp": "PermissionError"}[protocol] in tried.stderr
