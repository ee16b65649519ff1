# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hear from the kernel that a table was made or removed, so that open addresses survive it without anybody's help.

The messages: linux/netfilter/nfnetlink.h and nf_tables.h. A frame is struct nlmsghdr and what follows it.
"""

from __future__ import annotations

import errno
import socket
import struct

NETLINK_NETFILTER = 12
GROUP = 1 << (7 - 1)  # NFNLGRP_NFTABLES
SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
NEWTABLE, DELTABLE = 0, 2
_HEADER = struct.Struct("=IHHII")


def listen() -> socket.socket:
    """A socket that does not block. Raises OSError where the kernel has no nftables, or lets nobody listen."""
    channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, NETLINK_NETFILTER)
    channel.bind((0, GROUP))
    return channel


def changed(channel: socket.socket) -> bool:
    """Read all that waits; whether a table came or went."""
    found = False
    while True:
        try:
            found = tables(channel.recv(1 << 17)) or found
        except BlockingIOError:
            return found
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            found = True  # messages were lost: one of them may have been the one


def tables(data: bytes) -> bool:
    """Whether one of these messages is about a table."""
    while len(data) >= _HEADER.size:
        length, kind = _HEADER.unpack_from(data)[:2]
        if kind in (SUBSYSTEM << 8 | NEWTABLE, SUBSYSTEM << 8 | DELTABLE):
            return True
        data = data[max(_HEADER.size, (length + 3) & ~3):]
    return False
