# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. What a line of /var/log/cordon/proxy.log says.

_egress_proxy.config makes squid write it: one JSON object a line, "-" for what squid does not know.
"""

from __future__ import annotations

import json
from typing import Any, Dict, Mapping, Optional
from urllib.parse import unquote, urlsplit

# A connection without a request; the proxy tries its own listeners so when it starts.
_NOTHING = ("error:transaction-end-before-headers",)
_UNREAD = {"error:invalid-request": "unreadable", "error:request-too-large": "too large"}

OUTCOMES = ("refused", "failed", "opened", "closed", "answered")


def event(line: str, agents: Optional[Mapping[str, str]] = None) -> Optional[Dict[str, Any]]:
    """One act of an agent, or None for a line that tells none (or is no such line).

    agents: the names of agents by address, to tell whose a request was that could not be read as one; its agent is else None.

    {"at": seconds since 1970, "agent", "host", "port", "sni", "outcome", "reason", "method", "path", "status",
    "bytes_sent", "bytes_received", "milliseconds", "inspected", "echo", "secrets"}

    outcome: "refused" (reason: a key of _egress_proxy.REASONS, or "unreadable", "too large"), "failed" (reason: squid says
    why), "opened" and
    "closed" for the two ends of a tunnel, "answered" for a request that was inspected. method, path (without its query)
    and status (the server's) are those of an inspected or refused request, else None. echo: whether it says again what the
    line of the connection has said: squid accepts the agent's request where it could not reach the server, and answers it itself.
    secrets: names of the secrets that were added to the request.
    """
    try:
        said = json.loads(line, strict=False)
        found = {key: None if value == "-" else value for key, value in said.items()}
        found["agent"] = found["agent"] or (agents or {}).get(found["address"] or "")
        return None if found["url"] in _NOTHING else _event(found)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _event(said: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    if said["url"] in _UNREAD:
        said = {**said, "reason": _UNREAD[said["url"]], "url": None}
    outcome = _outcome(said)
    inspected = said["method"] != "CONNECT" and outcome in ("answered", "failed")
    return {
        "at": said["at"], "agent": said["agent"], "host": _text(said["host"]), "port": _number(said["port"]),
        "sni": _text(said["sni"]), "outcome": outcome, "reason": said["reason"] or _failure(said, outcome),
        "method": said["method"], "path": _path(said), "status": said["status"] if outcome == "answered" else None,
        "bytes_sent": said["sent"], "bytes_received": said["received"], "milliseconds": said["ms"],
        "inspected": inspected or said["outcome"] == "inspected",
        "secrets": said["secret"].split(",") if said.get("secret") and outcome != "refused" else [],
        "echo": inspected and outcome == "failed" and said["squid"] == "NONE_NONE",
    }


def _outcome(said: Dict[str, Any]) -> str:
    if said["reason"]:
        return "refused"
    if said["method"] != "CONNECT":
        return "failed" if said["error"] else "answered"
    if said["error"]:
        return "failed"
    # squid tells of the handshake first, with the note of the rule that let it pass, and of the whole when it ends.
    if said["outcome"]:
        return "opened"
    return "closed" if said["squid"] == "TCP_TUNNEL" else "failed"


def _failure(said: Dict[str, Any], outcome: str) -> Optional[str]:
    if outcome != "failed":
        return None
    return " ".join(word for word in (said["error"], said["detail"]) if word) or "the server could not be reached"


def _path(said: Dict[str, Any]) -> Optional[str]:
    if said["method"] == "CONNECT" or not said["url"]:
        return None
    # Still percent-encoded once, as in the request: squid's own escaping ("%#") is what is undone here.
    return urlsplit(unquote(said["url"])).path or None


def _text(value: Optional[str]) -> Optional[str]:
    return unquote(value) if value else None


def _number(value: Optional[str]) -> Optional[int]:
    return int(value) if value else None
