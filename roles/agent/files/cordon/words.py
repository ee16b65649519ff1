# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An act of an agent in words, and a suggested change as lines: what denials and burn-in both show."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Dict, List, Mapping

from .table import plain

LONGEST = 160  # characters of a path in a sentence
VERBS = {
    "r": "read", "w": "write", "x": "start", "m": "map as code", "k": "lock", "l": "link",
}  # fmt: skip
TRANSPORTS = {"stream": "TCP", "dgram": "UDP"}


def what(act: Mapping[str, Any]) -> str:
    """What was tried, to stand after "may not"."""
    told = {
        "network": _network,
        "capability": lambda act: f"use the capability {act['detail']}",
        "signal": lambda act: f"signal another process ({act['detail']})",
        "ptrace": lambda act: f"{act['access'] or 'trace'} another process ({act['detail']})",
        "mount": lambda act: f"{act['operation']} {act['detail'] or ''} on {act['path'] or '?'}",
        "other": lambda act: f"do {act['operation']} ({act['detail'] or act['path'] or 'no name'})",
    }.get(act["class"], _path)
    return plain(told(act), LONGEST)


def _path(act: Mapping[str, Any]) -> str:
    verbs = [VERBS[letter] for letter in "rwxmkl" if letter in (act["access"] or "")]
    return f"{' and '.join(verbs) or act['operation']} {act['path'] or '(no path)'}"


def _network(act: Mapping[str, Any]) -> str:
    if act["operation"] == "resolve" and act.get("name"):
        return f"look up the name {act['name']}"
    if act.get("address") or act.get("name"):
        named = f" ({act['name']})" if act.get("name") and act.get("address") else ""
        place = f"{act.get('address') or act['name']}{named}"
        return f"connect to {place} port {act['port'] or '-'} ({act['protocol'] or act['family']})"
    kind = act["sock_type"] or ""
    return f"{act['operation']} a socket: {act['family']} {kind} {TRANSPORTS.get(kind, '')}".strip()


def who(act: Mapping[str, Any]) -> str:
    """The program, as far as the kernel told."""
    return plain(act["program"] or "a program of the agent", LONGEST)


def layer(act: Mapping[str, Any], verdict: str) -> str:
    """Which layer refused it, or would in enforce."""
    inner, cage = act["profile"] or "the inner profile", ".".join((act["profile"] or "the cage").split(".")[:2])
    if act.get("layer") == "cage":
        # Of a start that the cage refuses, the inner profile leaves no record.
        return f"the cage {cage}" + ("" if act["class"] == "exec" else f"; {inner} would let it pass")
    if act.get("layer") == "both":
        return f"the cage {cage}, and {inner} has no rule for it either"
    return f"{inner}, {'in enforce' if verdict == 'allowed' else 'which has no rule for it'}; the cage lets it pass"


def change(suggestion: Mapping[str, Any]) -> List[str]:
    """A suggestion as lines: the diff, or that there is none."""
    if suggestion["kind"] == "never":
        lines = [f"never: {plain(suggestion['why'], 400)}"]
        return lines + (["to say so for good:", *diff(suggestion["change"])] if suggestion["change"] else [])
    return [f"because {plain(suggestion['why'], 400)}; to allow it:", *diff(suggestion["change"])]


def diff(text: str) -> List[str]:
    """The lines of a diff, each safe to print."""
    return ["  " + plain(line, 400) for line in text.splitlines()]


def times(count: int) -> str:
    """once, twice, 12 times."""
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def clock(seconds: float) -> str:
    """A time for people, UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def indented(lines: List[str], by: str = "    ") -> List[str]:
    """The lines, moved to the right."""
    return [by + line for line in lines]


def without_acts(suggestion: Mapping[str, Any]) -> Dict[str, Any]:
    """A suggestion for --json, where its acts stand beside it."""
    return {key: value for key, value in suggestion.items() if key != "acts"}
