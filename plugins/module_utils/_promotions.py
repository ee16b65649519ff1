# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. Who was promoted from burn-in to enforce, and what follows from it. Decisions only.

`mode: burn_in` in the manifest means: burn in until promoted. The manifest says what is wanted, the host's own record
how far that has come; effective() joins the two. An agent with an entry in the record, which _apparmor_info reads, is
promoted:

    {AGENT: {promoted_at, by, window: {since, until}, policy: {PROFILE: SHA-256 of the text that was burnt in},
             conditions: [see _burn_in.py], acts_refused, replay: [see _burn_in.py]}}

HISTORY keeps every act, one JSON object a line: {time, act: promoted|demoted|forgotten, agent, by, reason, entry}.
"""
from __future__ import annotations

from typing import Any, Dict, Iterable, List, Mapping, Optional

from . import _burn_in_seen
from ._burn_in import IDS
from ._burn_in_seen import Seen

HISTORY = "/var/lib/cordon/promotions.jsonl"
# cordon-events sends what lies here and removes it (docs/monitoring.md).
SPOOL = "/var/lib/cordon/spool"

Agent = Mapping[str, Any]
Promotions = Mapping[str, Mapping[str, Any]]


def effective(agents: Iterable[Agent], promotions: Promotions) -> List[Dict[str, Any]]:
    """The agents of a resolved manifest, a promoted one in enforce. What the manifest puts in enforce stays there."""
    return [dict(agent, mode="enforce") if agent["mode"] == "burn_in" and agent["name"] in promotions else dict(agent)
            for agent in agents]


def entry(agent: Agent, seen: Seen, judged: List[Dict[str, Any]], replay: List[Dict[str, Any]],
          by: str) -> Dict[str, Any]:
    """The record of one promotion."""
    since = _burn_in_seen.began(agent, seen).at
    denied = _burn_in_seen.acts(seen.collected, "denied", since) or []
    return {
        "promoted_at": seen.now, "by": by, "window": {"since": since, "until": seen.now},
        "policy": {name: known["source_sha256"] for name, known in _burn_in_seen.recorded(agent, seen).items()},
        "conditions": judged, "acts_refused": sum(int(act.get("count") or 0) for act in denied), "replay": replay,
    }


def event(act: str, agent: str, by: str, now: float, reason: Optional[str] = None,
          of: Optional[Mapping[str, Any]] = None) -> Dict[str, Any]:
    """One line of HISTORY."""
    return {"time": now, "act": act, "agent": agent, "by": by, "reason": reason, "entry": of}


def alert(agent: str, by: str, reason: str, now: float) -> Dict[str, Any]:
    """What a demotion tells whoever is on call."""
    summary = "%s was put back from enforce into burn-in by %s: %s" % (agent, by, reason)
    return {"alert": "demoted", "severity": "warning", "agent": agent, "summary": summary, "time": now}


def conditions(found: Mapping[str, Any]) -> List[Mapping[str, Any]]:
    """The conditions in a promotion's record, [] where there is no such list."""
    listed = found.get("conditions")
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def window(found: Mapping[str, Any]) -> Optional[float]:
    """The days of the window in which all went well; None when they are not recorded."""
    known = found.get("window")
    return _burn_in_seen.span(known.get("since"), known.get("until")) if isinstance(known, dict) else None


def faults(found: Mapping[str, Any], days: float) -> List[str]:
    """What is wrong with a promotion's record: a condition that is not in it or did not hold, a window too short.

    days: what the manifest asks of the window now.
    """
    span = window(found)
    wrong = ["its window is not recorded"] if span is None else []
    if span is not None and span < days:
        wrong.append("its window was %.1f days, and the manifest asks for %g" % (span, days))
    held = {one.get("id"): one.get("met") for one in conditions(found)}
    return wrong + ["condition %s: %s" % (name, "it did not hold" if name in held else "it is not recorded")
                    for name in IDS if held.get(name) is not True]
