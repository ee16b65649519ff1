# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of promotion: why an agent is in enforce, or how long it has been in burn-in.

    basis         "ordered": the manifest has it in enforce; "promoted": the gate found it ready; "burn-in": neither;
                  null when the promotions cannot be read
    faults        [str]|null: what is wrong with the record of its promotion; [] where it needs none
    record        the record (shape: _promotions.py)|null
    burn_in_days  number|null: for how long it has been in burn-in; 0 when it is not
    longest_days  number: twice the days that the manifest asks for; beyond that somebody should look
"""

from __future__ import annotations

import time
from typing import Any, Dict, Mapping, Optional

from . import _apparmor_info, _burn_in_host, _promotions
from ._burn_in_seen import span
from ._facts_source import Source

Promotions = Optional[Dict[str, Any]]


def read(source: Source) -> Promotions:
    """Return the promotions by agent; null, noted, when they are there and cannot be used."""
    try:
        found: Dict[str, Any] = _apparmor_info.promotions(source)["promotions"]
    except _apparmor_info.Unusable as problem:
        source.note(_apparmor_info.PROMOTIONS, problem)
        return None
    return found


def of_agent(source: Source, ordered: Mapping[str, Any], promotions: Promotions,
             loaded: Optional[Mapping[str, Any]]) -> Dict[str, Any]:
    """Return the facts of one agent (shape: module docstring).

    ordered: the agent with the mode that the manifest says; loaded: the record of what was loaded, by profile.
    """
    days = ordered["burn_in"]["days"]
    found: Dict[str, Any] = {"basis": None, "faults": None, "record": None, "burn_in_days": None, "longest_days": 2 * days}
    record = (promotions or {}).get(ordered["name"])
    if ordered["mode"] == "enforce":
        found.update(basis="ordered", faults=[], burn_in_days=0)
    elif record is not None:
        found.update(basis="promoted", faults=_promotions.faults(record, days), record=record, burn_in_days=0)
    elif promotions is not None:
        found.update(basis="burn-in", faults=[], burn_in_days=_days(source, ordered["name"], loaded or {}))
    return found


def _days(source: Source, name: str, loaded: Mapping[str, Any]) -> Optional[float]:
    """Days since the collecting of events began, and before the first of them since the inner profile was loaded."""
    collected = _burn_in_host.collected(source, name) or {}
    since = None if collected.get("ended") else collected.get("collecting_since")
    days = span(since or (loaded.get("cordon.%s.main" % name) or {}).get("since"), time.time())
    return None if days is None else round(max(0.0, days), 1)
