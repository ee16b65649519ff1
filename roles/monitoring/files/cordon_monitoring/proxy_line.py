# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Turn a line of the egress proxy's log (its format: plugins/module_utils/_egress_proxy.py) into an event. Pure.

A tunnel that is passed on unread has two lines: it opens, and it ends with the bytes that went either way. Of an
inspected connection each request has one.
"""

from __future__ import annotations

import json
import re
from typing import Any, Mapping
from urllib.parse import unquote, urlsplit

from . import event as events
from .event import Event

METADATA = "metadata"
_AGENT = re.compile(r"[a-z][a-z0-9_]*")
_LONGEST = 1000  # characters of a path; the proxy's log has all of it


class NoLine(ValueError):
    """The line is none of the proxy's."""


def proxy_event(text: str, identity: str, host: str) -> Event:
    """The event of one line. identity: unique among the lines of its time. Raises NoLine."""
    fields = _fields(text)
    agent, refusal = fields.get("agent"), _said(fields, "reason")
    if not isinstance(agent, str) or not _AGENT.fullmatch(agent):
        raise NoLine("it names no agent")
    found = events.new(f"proxy:{fields['at']}:{identity}", float(fields["at"]), host, agent, "proxy")
    method, error = _said(fields, "method") or "?", _said(fields, "error")
    tunnel = method == "CONNECT"
    found.update(
        kind="api_call",
        outcome="denied" if refusal else "allowed",
        operation=_operation(fields, tunnel),
        reason={None: error, METADATA: METADATA}.get(refusal, "proxy"),
        refusal=refusal,
        name=_said(fields, "host"),
        port=_number(fields.get("port")),
        protocol="https",
        sni=_said(fields, "sni"),
        method=method,
        url_path=None if tunnel else _path(_said(fields, "url") or ""),
        # What squid notes for a tunnel is its own answer, not a server's.
        status=None if tunnel else _number(fields.get("status")) or None,
        sent=_number(fields.get("sent")),
        received=_number(fields.get("received")),
        milliseconds=_number(fields.get("ms")),
    )
    return found


def _fields(text: str) -> Mapping[str, Any]:
    try:
        fields = json.loads(text)
        float(fields["at"])
    except (ValueError, KeyError, TypeError) as error:
        raise NoLine(str(error)) from error
    return fields if isinstance(fields, dict) else {}


def _operation(fields: Mapping[str, Any], tunnel: bool) -> str:
    """open and close of a tunnel; of a request its method."""
    if not tunnel:
        return _said(fields, "method") or "?"
    ended = _said(fields, "outcome") is None and "TUNNEL" in str(fields.get("squid"))
    return "close" if ended else "open"


def _said(fields: Mapping[str, Any], name: str) -> str | None:
    """A field as text; squid writes "-" for nothing, and percent-encodes what could end a string."""
    value = unquote(str(fields.get(name, "-")), errors="replace")
    return None if value in ("-", "") else value


def _number(value: Any) -> int | None:
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() else None


def _path(url: str) -> str | None:
    """The path alone: what follows "?" often holds a key."""
    try:
        path = urlsplit(url).path
    except ValueError:
        path = ""
    return path[:_LONGEST] or None
