# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Turn a line that nftables logged, `cordon:NAME:VERDICT IN= OUT=eth0 ... DST=... DPT=...`, into an event. Pure."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from . import event as events
from .event import Event

_PREFIX = re.compile(r"^cordon:(_?[a-z][a-z0-9_]*):(denied|metadata|flood|allowed) ")
_REASONS = {"denied": "nftables", "metadata": "metadata", "flood": "flood", "allowed": None}


class KernelLine(NamedTuple):
    """A line of the kernel's log, or of one of our units. stamp: unique on this host. unit: "" for the kernel's."""

    seconds: float
    stamp: str
    text: str
    unit: str = ""


def firewall_event(line: KernelLine, host: str) -> Event | None:
    """The event of a firewall line; None for every other line of the kernel.

    The proxy, the resolver and all other users (_proxy, _resolver, _others) are no agents: what they were refused is the
    host's.
    """
    match = _PREFIX.match(line.text)
    if not match:
        return None
    fields = dict(word.split("=", 1) for word in line.text.split() if "=" in word)
    ours = match[1].startswith("_")
    found = events.new(f"kernel:{line.stamp}", line.seconds, host, None if ours else match[1], "nftables")
    found["program"] = match[1] if ours else None
    found.update(
        kind="connection",
        outcome="allowed" if match[2] == "allowed" else "denied",
        operation="connect",
        reason=_REASONS[match[2]],
        address=_address(fields.get("DST", "")),
        port=_number(fields.get("DPT")),
        protocol=fields.get("PROTO", "").lower() or None,
        source_port=_number(fields.get("SPT")),
    )
    return found


def _address(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None
