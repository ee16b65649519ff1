# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask the kernel's routing whether an address is one of this host's own.

Not by bind(2), which takes every address where net.ipv4.ip_nonlocal_bind is on (keepalived, HAProxy): there no name would
be answered any more. The messages: rtnetlink(7), linux/rtnetlink.h. Nothing is kept, since addresses come and go.
"""

from __future__ import annotations

import ipaddress
import socket
import struct

_NETLINK_ROUTE = 0
_NEWROUTE, _GETROUTE = 24, 26  # RTM_
_REQUEST = 1  # NLM_F_REQUEST
_DESTINATION = 1  # RTA_DST
# RTN_LOCAL, RTN_BROADCAST, RTN_ANYCAST: what is sent there comes to this host, or to all that stand beside it.
_ITS_OWN = (2, 3, 4)
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg: family, lengths of both, tos, table, protocol, scope, type, flags


def leads_back(address: str) -> bool:
    """Whether what is sent to this address comes back to this host. Raises OSError where the kernel cannot be asked.

    An address to which there is no route is none of its own.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE) as channel:
        channel.sendto(question(address), (0, 0))
        return its_own(channel.recv(1 << 16))


def question(address: str) -> bytes:
    """`ip route get ADDRESS` as a message."""
    parsed = ipaddress.ip_address(address)
    family = socket.AF_INET if parsed.version == 4 else socket.AF_INET6
    wanted = struct.pack("=HH", 4 + len(parsed.packed), _DESTINATION) + parsed.packed
    route = _ROUTE.pack(family, parsed.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    return _HEADER.pack(_HEADER.size + len(route) + len(wanted), _GETROUTE, _REQUEST, 1, 0) + route + wanted


def its_own(answer: bytes) -> bool:
    """What the kernel said: a route of some type, or that there is none."""
    if _HEADER.unpack_from(answer)[1] != _NEWROUTE:
        return False
    kind: int = _ROUTE.unpack_from(answer, _HEADER.size)[7]
    return kind in _ITS_OWN
