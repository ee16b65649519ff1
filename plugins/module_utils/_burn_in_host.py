# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. Reads what a host knows of an agent's burn-in. Decisions are in _burn_in."""
from __future__ import annotations

from typing import Any, Dict, Mapping, Optional

from ._burn_in_seen import Seen, stamp
from ._facts_source import Source

COLLECTED = "/var/lib/cordon/burn_in/%s.json"
PROFILES = "/etc/cordon/apparmor.json"
WRITER = "/run/cordon/events.json"
MANIFEST = "/etc/cordon/manifest.json"


def look(source: Source, agent: str, facts: Mapping[str, Any], now: float) -> Seen:
    """All that is known of one agent's burn-in; facts: what _facts.collect() returned."""
    listed = (_mapping(source, MANIFEST) or {}).get("agents")
    applied = next((one for one in listed if one.get("name") == agent), None) if isinstance(listed, list) else None
    return Seen(collected(source, agent), _mapping(source, PROFILES), _mapping(source, WRITER), applied, facts, now)


def collected(source: Source, agent: str) -> Optional[Dict[str, Any]]:
    """The agent's events, as cordon-events collected them."""
    return _mapping(source, COLLECTED % agent)


def caught_up(source: Source, at: float) -> bool:
    """Whether everything that happened until then is in the collected file."""
    until = stamp((_mapping(source, WRITER) or {}).get("collected_until"))
    return until is not None and until >= at


def _mapping(source: Source, path: str) -> Optional[Dict[str, Any]]:
    found = source.record(path) if source.exists(path) else None
    return found if isinstance(found, dict) else None
