# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of promotion: why an agent is in enforce, or how long it has been in burn-in.

    basis         "ordered": the manifest has it in enforce; "promoted": the gate found it ready; "burn-in": neither;
                  null when the promotions cannot be read
    faults        [str]|null: what is wrong with the record of its promotion; [] where it needs none
    at            "2026-11-23 04:30 UTC"|null: when it was promoted
    window_days   number|null: how long the window was in which all went well
    by            str|null: who decided that
    shown         [{id, title, met, observed}]: the conditions on that day, see _burn_in.py; [] without a promotion
    acts_refused  int|null: how often the agent was refused an act in the window
    replayed      [[str]]: the commands of its work that were replayed
    burn_in_days  number|null: for how long it has been in burn-in; 0 when it is not
    longest_days  number: twice the days that the manifest asks for; beyond that somebody should look
"""

from __future__ import annotations

import time
from typing import Any, Dict, Mapping, Optional

from . import _apparmor_info, _burn_in_host, _promotions
from ._burn_in_seen import moment, span, when
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
    found: Dict[str, Any] = dict.fromkeys(("basis", "faults", "burn_in_days"))
    found.update(longest_days=2 * days, **_told({}))
    record = (promotions or {}).get(ordered["name"])
    if ordered["mode"] == "enforce":
        found.update(basis="ordered", faults=[], burn_in_days=0)
    elif record is not None:
        found.update(basis="promoted", faults=_promotions.faults(record, days), burn_in_days=0, **_told(record))
    elif promotions is not None:
        found.update(basis="burn-in", faults=[], burn_in_days=_days(source, ordered["name"], loaded or {}))
    return found


def _told(record: Mapping[str, Any]) -> Dict[str, Any]:
    """What a record tells, whatever its shape: faults() says what it lacks."""
    at, window, refused = moment(record.get("promoted_at")), _promotions.window(record), record.get("acts_refused")
    runs = record.get("replay") if isinstance(record.get("replay"), list) else []
    return {
        "at": when(at) if at else None, "by": str(record["by"]) if "by" in record else None,
        "window_days": None if window is None else round(window, 1),
        "shown": [{key: one.get(key) for key in ("id", "title", "met", "observed")}
                  for one in _promotions.conditions(record)],
        "acts_refused": refused if isinstance(refused, int) else None,
        "replayed": [run.get("argv") for run in runs or [] if isinstance(run, dict)],
    }


def _days(source: Source, name: str, loaded: Mapping[str, Any]) -> Optional[float]:
    """Days since the collecting of events began, and before the first of them since the inner profile was loaded."""
    collected = _burn_in_host.collected(source, name) or {}
    since = None if collected.get("ended") else collected.get("collecting_since")
    days = span(since or (loaded.get("cordon.%s.main" % name) or {}).get("since"), time.time())
    return None if days is None else round(max(0.0, days), 1)
