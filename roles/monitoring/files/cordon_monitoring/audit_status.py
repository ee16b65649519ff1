# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask the kernel for the state of its audit system, over netlink (needs CAP_AUDIT_CONTROL)."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

_NETLINK_AUDIT = 9
_AUDIT_GET = 1000
_REQUEST = 1
# struct audit_status of linux/audit.h: mask, enabled, failure, pid, rate_limit, backlog_limit, lost, backlog
_STATUS = struct.Struct("=8I")
_HEADER = struct.Struct("=IHHII")


class AuditStatus(NamedTuple):
    """enabled: 0 off, 1 on, 2 on and locked. pid: of the audit daemon, 0 for none. lost: records since boot."""

    enabled: int
    pid: int
    lost: int
    backlog: int


def read() -> AuditStatus | None:
    """None where there is no audit system to speak to (a container)."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_AUDIT) as netlink:
            netlink.settimeout(2)
            netlink.send(_HEADER.pack(_HEADER.size, _AUDIT_GET, _REQUEST, 1, 0))
            return parse(netlink.recv(8192))
    except OSError:
        return None


def parse(reply: bytes) -> AuditStatus | None:
    """Decode the kernel's answer."""
    if len(reply) < _HEADER.size + _STATUS.size or _HEADER.unpack_from(reply)[1] != _AUDIT_GET:
        return None
    _mask, enabled, _failure, pid, _rate, _limit, lost, backlog = _STATUS.unpack_from(reply, _HEADER.size)
    return AuditStatus(enabled, pid, lost, backlog)
