# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Turn a line of cordon-resolver.service in the journal (its format: cordon_firewall/journal.py) into an event. Pure.

The journal itself notes which unit a line came from (systemd.journal-fields(7), _SYSTEMD_UNIT), so nobody else writes one.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any, Mapping

from cordon._metadata import name_of

from . import event as events
from .event import Event
from .firewall_line import KernelLine

UNIT = "cordon-resolver.service"
_CLIENT = re.compile(r"_?[a-z][a-z0-9_]*")
#: The resolver's word -> outcome and reason of the event. An answer of which a part was dropped is one all the same.
_OUTCOMES = {
    "answered": ("allowed", None),
    "refused": ("denied", "resolver"),
    "filtered": ("denied", "filtered"),
    "failed": ("allowed", "failed"),
}


def resolver_event(line: KernelLine, host: str) -> Event | None:
    """The event of a question; None for every other line of the unit."""
    said = _fields(line.text)
    client, outcome = said.get("agent"), said.get("outcome")
    if said.get("event") != "dns" or outcome not in _OUTCOMES or not _CLIENT.fullmatch(str(client)):
        return None
    # The proxy's questions are about all agents' names: the proxy's own log says who asked for what.
    ours = str(client).startswith("_")
    found = events.new(f"resolver:{line.stamp}", _seconds(said, line), host, None if ours else str(client), "resolver")
    if ours:
        found["program"] = str(client)
    addresses = [str(address) for address in said.get("addresses") or []]
    found.update(kind="dns", operation="resolve", name=said.get("name"), type=said.get("type"), addresses=addresses,
                 refusal=said.get("reason"))  # fmt: skip
    found["outcome"], found["reason"] = _OUTCOMES[str(outcome)]
    if outcome == "filtered" and addresses:
        found["outcome"] = "allowed"
    if found["outcome"] == "denied" and name_of(str(found["name"] or "").rstrip(".")):
        found["reason"] = "metadata"
    if isinstance(said.get("suppressed"), int):
        found["suppressed"] = said["suppressed"]
    return found


def _fields(text: str) -> Mapping[str, Any]:
    try:
        said = json.loads(text)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _seconds(said: Mapping[str, Any], line: KernelLine) -> float:
    try:
        return datetime.fromisoformat(str(said.get("at")).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return line.seconds
