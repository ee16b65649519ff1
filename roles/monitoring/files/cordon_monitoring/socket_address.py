# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Decode the struct sockaddr of an audit SOCKADDR record (hex, in the byte order of this machine)."""

from __future__ import annotations

import ipaddress
import socket
import sys
from typing import NamedTuple


class SocketAddress(NamedTuple):
    """address and port of an IP socket, or path of a Unix one ('@' first: abstract)."""

    address: str | None = None
    port: int | None = None
    path: str | None = None


def decode(text: str) -> SocketAddress | None:
    """None for other families and for records that are too short."""
    try:
        data = bytes.fromhex(text)
    except ValueError:
        return None
    family = int.from_bytes(data[:2], sys.byteorder)
    if family == socket.AF_INET and len(data) >= 8:
        return SocketAddress(str(ipaddress.IPv4Address(data[4:8])), int.from_bytes(data[2:4], "big"))
    if family == socket.AF_INET6 and len(data) >= 24:
        address = ipaddress.IPv6Address(data[8:24])
        # A v4 destination on a v6 socket is shown, and matched with the firewall's line, as v4.
        return SocketAddress(str(address.ipv4_mapped or address), int.from_bytes(data[2:4], "big"))
    if family == socket.AF_UNIX and len(data) > 2:
        raw = data[2:]
        name = b"@" + raw[1:] if raw[:1] == b"\0" else raw
        return SocketAddress(path=name.split(b"\0")[0].decode("utf-8", "replace"))
    return None
