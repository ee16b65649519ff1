# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one shape of an event. The schema with the meaning of each key: docs/monitoring.md."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Any

Event = dict[str, Any]

# What lies below own is the agent's (vault.writable of the manifest), and no secret that an operator gave it.
_SECRET = re.compile(r"^/srv/agents/([a-z][a-z0-9_]*)/\.vault/(?!own(?:/|$))(.+)$")


def when(seconds: float) -> str:
    """Seconds since 1970 -> "2026-11-23T04:30:00.123Z"."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new(identity: str, seconds: float, host: str, agent: str | None, source: str) -> Event:
    """An event with every common key present; what is not known is null."""
    return {
        "time": when(seconds),
        "host": host,
        "agent": agent,
        "kind": None,
        "outcome": None,
        "program": None,
        "pid": None,
        "operation": None,
        "profile": None,
        "session": None,
        "reason": None,
        "source": source,
        "id": identity,
    }


def set_path(event: Event, path: str | None) -> Event:
    """Give an event its path; a path in a vault makes it an event about a secret, with the secret's name."""
    event["path"] = path
    secret = secret_of_path(path or "")
    if secret:
        event["kind"] = "secret"
        event["secret"] = secret
    return event


def secret_of_path(path: str) -> str | None:
    """Name of the secret, or of what somebody put beside the secrets, that a path in a vault leads to."""
    match = _SECRET.match(path)
    return match[2] if match else None


def agent_of_path(path: str) -> str | None:
    """Whose home a path lies in."""
    match = re.match(r"^/srv/agents/([a-z][a-z0-9_]*)(/|$)", path)
    return match[1] if match else None
