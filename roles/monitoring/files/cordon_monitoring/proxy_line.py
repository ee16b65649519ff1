# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Turn a line of the egress proxy's log into an event. Pure. What a line says: plugins/module_utils/_egress_proxy_log.py.

A tunnel that is passed on unread has two lines: it opens, and it ends with the bytes that went either way. Of an
inspected connection each request has one.
"""

from __future__ import annotations

import re
from typing import Any, Mapping

from cordon import _egress_proxy_log

from . import event as events
from .event import Event

METADATA = "metadata"
_AGENT = re.compile(r"[a-z][a-z0-9_]*")
_LONGEST = 1000  # characters of a path; the proxy's log has all of it
_TUNNEL = {"opened": "open", "closed": "close"}


def proxy_event(text: str, identity: str, host: str, addresses: Mapping[str, str]) -> Event | None:
    """The event of one line; None for what is no line of the proxy's. identity: unique among the lines of its time.

    addresses: the agents by the address that their proxy listens on, for lines of what could not be read as a request.
    """
    said = _egress_proxy_log.event(text, addresses)
    if said is None or not isinstance(said["agent"], str) or not _AGENT.fullmatch(said["agent"]):
        return None
    try:
        found = events.new(f"proxy:{said['at']}:{identity}", float(said["at"]), host, said["agent"], "proxy")
    except (ValueError, TypeError, OverflowError):
        return None
    return {**found, **_told(said)}


def _told(said: Mapping[str, Any]) -> Event:
    refusal = said["reason"] if said["outcome"] == "refused" else None
    # A key of this program's own, which is not written.
    echo = {"echo": True} if said["echo"] else {}
    secrets = {"secret": ",".join(said["secrets"])} if said["secrets"] else {}
    return {
        **echo,
        **secrets,
        "kind": "api_call",
        "outcome": "denied" if refusal else "allowed",
        "operation": _TUNNEL.get(said["outcome"]) or ("open" if said["method"] == "CONNECT" else said["method"]),
        "reason": {None: said["reason"], METADATA: METADATA}.get(refusal, "proxy"),
        "refusal": refusal,
        "name": said["host"],
        "port": said["port"],
        "protocol": "https",
        "sni": said["sni"],
        "method": said["method"],
        "url_path": said["path"] and said["path"][:_LONGEST],
        "status": said["status"],
        "sent": said["bytes_sent"],
        "received": said["bytes_received"],
        "milliseconds": said["milliseconds"],
    }
