# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of the kernel's audit system, from the kernel itself (netlink), and its loaded rules.

    supported      bool|null: this kernel answers us (a container is refused: EPERM or ECONNREFUSED)
    enabled        0 off, 1 on, 2 on and locked until reboot; null when not supported
    daemon         bool|null: an audit daemon is connected
    daemon_pid     int|null
    failure        0 silent, 1 printk, 2 panic: what the kernel does when it cannot log
    lost           int|null: records lost since boot
    backlog_limit  int|null
    rules          [str]|null: `auditctl -l`; [] when none are loaded

Why netlink: it says *why* there is no answer, which tells a kernel without audit from a host
without the auditctl program, and it costs no process start.
Source: linux/audit.h (AUDIT_GET, struct audit_status), netlink(7).
"""

from __future__ import annotations

import errno
import operator
import re
import socket
import struct
from typing import Any, Dict, List, Optional

from ._facts_source import Source

NETLINK_AUDIT, AUDIT_GET, NLMSG_ERROR, NLM_F_REQUEST = 9, 1000, 2, 1
HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: len, type, flags, seq, pid
# struct audit_status: mask, enabled, failure, pid, rate_limit, backlog_limit, lost, backlog
STATUS = struct.Struct("=8I")
# What a kernel built without audit, or a container without the capability, answers.
REFUSALS = (errno.EPERM, errno.ECONNREFUSED, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT)
COMPARE = {"=": operator.eq, "!=": operator.ne, ">=": operator.ge, "<=": operator.le, ">": operator.gt,
           "<": operator.lt}
ABSENT: Dict[str, Any] = dict.fromkeys(("enabled", "daemon", "daemon_pid", "failure", "lost", "backlog_limit", "rules"))


def read(source: Source, preflight: bool) -> Dict[str, Any]:
    """Return the facts of this module (shape: module docstring); without the rules in a preflight."""
    try:
        status = parse_status(_ask())
    except OSError as problem:
        source.note("audit (netlink)", problem)
        return dict(ABSENT, supported=False if problem.errno in REFUSALS else None)
    rules = None if preflight else parse_rules(source.output("auditctl", "-l"))
    return dict(status, supported=True, rules=rules)


def parse_status(message: bytes) -> Dict[str, Any]:
    """Return the status in a netlink answer; OSError with the kernel's errno if it is a refusal."""
    kind = HEADER.unpack_from(message)[1]
    if kind == NLMSG_ERROR:
        number = -struct.unpack_from("=i", message, HEADER.size)[0]
        raise OSError(number or errno.EPROTO, "the kernel refused AUDIT_GET (errno %d)" % number)
    _mask, enabled, failure, pid, _rate, limit, lost, _backlog = STATUS.unpack_from(message, HEADER.size)
    return {"enabled": enabled, "daemon": pid != 0, "daemon_pid": pid or None, "failure": failure,
            "lost": lost, "backlog_limit": limit}


def parse_rules(text: Optional[str]) -> Optional[List[str]]:
    """Return the rules that `auditctl -l` printed."""
    if text is None:
        return None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [line for line in lines if line.startswith("-")]


def rules_of(rules: Optional[List[str]], uid: Optional[int]) -> Optional[List[str]]:
    """Return the loaded rules that apply to one user by its uid: `-F uid=N`, or a range of two fields."""
    if rules is None or uid is None:
        return None
    return [rule for rule in rules if _applies(rule, uid)]


def _applies(rule: str, uid: int) -> bool:
    fields = re.findall(r"-F uid(=|!=|>=|<=|>|<)([0-9]+)\b", rule)
    return bool(fields) and all(COMPARE[sign](uid, int(number)) for sign, number in fields)


def system_calls(rules: Optional[List[str]]) -> Optional[List[str]]:
    """Return the system calls that these rules record, sorted."""
    if rules is None:
        return None
    return sorted({name for rule in rules for names in re.findall(r"-S ([^ ]+)", rule) for name in names.split(",")})


def _ask() -> bytes:
    """Send AUDIT_GET and return the kernel's whole answer."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_AUDIT) as link:
        link.settimeout(2.0)
        link.bind((0, 0))
        link.sendto(HEADER.pack(HEADER.size, AUDIT_GET, NLM_F_REQUEST, 1, 0), (0, 0))
        return link.recv(8192)
