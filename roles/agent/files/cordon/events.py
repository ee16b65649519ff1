# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The event log for the person on call: what an agent did, last things last."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, Iterator, List, Optional

from .table import table

LOG = "/var/log/cordon/events.jsonl"


def lines(path: str, since: str, agent: Optional[str]) -> Iterator[Dict[str, Any]]:
    """Events of one file from a time on; a line that is being written is left for the next call."""
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if event.get("time", "") >= since and agent in (None, event.get("agent")):
                yield event


def read(
    since: str = "", agent: Optional[str] = None, denied: bool = False, log: str = LOG
) -> List[Dict[str, Any]]:
    """Events since an ISO 8601 UTC time, of one agent or all; also from the last rotated file."""
    files = [path for path in (f"{log}.1", log) if os.path.exists(path)]
    found = [event for path in files for event in lines(path, since, agent)]
    # The log is in the order of writing; two sources, the audit trail and the firewall, feed it.
    found.sort(key=lambda event: str(event.get("time", "")))
    return [event for event in found if not denied or event.get("outcome") == "denied"]


def what(event: Dict[str, Any]) -> str:
    """An event in a few words: the command line, the path, or the address."""
    if event.get("kind") == "process":
        return " ".join(event.get("argv") or [event.get("program") or "?"])
    if event.get("kind") == "connection":
        return f"{event.get('protocol') or ''} {event.get('address') or '?'} port {event.get('port') or '-'}".strip()
    if event.get("kind") == "dns":
        return f"{event.get('type') or '?'} of {event.get('name') or '?'}"
    if event.get("kind") == "api_call":
        asked = f"{event.get('method') or '?'} {event.get('name') or '?'}:{event.get('port') or '-'}{event.get('url_path') or ''}"
        return f"{asked} {event['status']}" if event.get("status") else asked
    return f"{event.get('operation') or ''} {event.get('path') or ''}".strip()


def rows(events: List[Dict[str, Any]]) -> str:
    """A table of events."""
    body = [
        [
            event.get("time", "")[:19],
            event.get("agent") or "-",
            event.get("kind") or "-",
            event.get("outcome") or "-",
            what(event),
            event.get("program") or "-",
            event.get("reason") or "",
        ]
        for event in events
    ]
    return table(["TIME (UTC)", "AGENT", "KIND", "OUTCOME", "WHAT", "PROGRAM", "REASON"], body)
