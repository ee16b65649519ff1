# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel's log tells of the audit system. Pure.

While no audit daemon listens, for example while it is being upgraded, the kernel prints its records there instead, and
drops them unless booted with audit=1 (kauditd_hold_skb(), kernel/audit.c). So AppArmor's records are read here too.
"""

from __future__ import annotations

import re

from .act import AuditEvent, plain
from .firewall_line import KernelLine

_AVC = re.compile(r"^audit: type=1400 audit\((\d+\.\d+):(\d+)\): (?=apparmor=)")
_FIELD = re.compile(r'(\w+)=("[^"]*"|\S+)')
# kernel/audit.c: what audit_log_lost() is called with, and what ___ratelimit() says of kauditd_printk_skb().
_LOSS = re.compile(
    r"^audit: ((?:backlog|rate|printk) limit exceeded|kauditd \w+ queue overflow|out of memory)"
    r"|^k?audit\w*: \d+ (callbacks suppressed)"
)


def avc(line: KernelLine) -> AuditEvent | None:
    """AppArmor's record that was printed because no audit daemon took it."""
    match = _AVC.match(line.text)
    if not match:
        return None
    record = {name: plain(name, raw) for name, raw in _FIELD.findall(line.text[match.end() :])}
    return AuditEvent(float(match[1]), f"{match[1]}:{match[2]}", [{"type": "AVC", **record}])


def loss(line: KernelLine) -> str | None:
    """What the kernel says of records that it could not hand on."""
    match = _LOSS.match(line.text)
    return f"the kernel's log says of audit records: {match[1] or match[2]}" if match else None
