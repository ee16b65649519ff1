# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""cordonctl burn-in: what an agent did that enforce would refuse, what was lost, and what would allow it."""

from __future__ import annotations

import os
import time
from typing import Any, Dict, List, Mapping

from . import denials, gate, host, words
from ._apparmor_suggest import combined, suggest
from ._apparmor_suggest_text import flow
from .table import table

COLLECTED = "/var/lib/cordon/burn_in/%s.json"
SHOWN_ACTS = 3  # of one suggestion
SHOWN = 40  # acts in the table; --json has all


def chosen(name: str | None) -> List[Dict[str, Any]]:
    """The agent asked for, or all that are in burn-in."""
    return [host.require(name)] if name else [agent for agent in host.agents() if agent["mode"] == "burn_in"]


def report(agent: Dict[str, Any]) -> Dict[str, Any]:
    """One agent's burn-in as data. HostError where nothing was collected yet."""
    path = COLLECTED % agent["name"]
    if not os.path.exists(path):
        raise host.HostError(
            f"nothing was collected of {agent['name']} yet ({path} is missing). An agent in burn-in has the file within"
            " seconds: systemctl status cordon-events."
        )
    record: Dict[str, Any] = host.load(path)
    found = suggest(record["acts"], agent, denials.tools())
    return {**record, "mode": agent["mode"], "suggestions": [_worded(one) for one in found],
            "change": combined(found, agent), "gate": gate.conditions(agent)}


def text(found: Mapping[str, Any]) -> str:
    """One agent's burn-in for a terminal."""
    since = found["collecting_since"]
    until = found.get("ended") or time.time()
    state = "in burn-in" if found["mode"] == "burn_in" else "promoted: this is its last burn-in"
    parts = [
        f"{found['agent']}, {state}. Collected since {words.clock(since)} UTC, {(until - since) / 86400:.1f} days.",
        _activity(found),
        *_losses(found["lost"]),
        *_acts(found["acts"]),
        f"Mounts, file permissions and the packet filter refuse in burn-in too: cordonctl denials {found['agent']}",
        *_suggestions(found),
        *gate.lines(found["gate"]),
    ]
    return "\n".join(parts)


def _activity(found: Mapping[str, Any]) -> str:
    if not found["execs"]:
        return "Activity: none. It started no program, so there is nothing to judge it by."
    days = "1 day" if len(found["days"]) == 1 else f"{len(found['days'])} days"
    return f"Activity: {found['execs']} programs started on {days}, the last at {words.clock(found['last_exec'])} UTC."


def _losses(lost: List[Mapping[str, Any]]) -> List[str]:
    if not lost:
        return ["Lost: nothing."]
    lines = [f"  {words.clock(one['at'])} UTC: {words.plain(str(one['what']), 200)}" for one in lost]
    return ["Lost, so that the window begins anew after the last:", *lines]


def _acts(acts: List[Dict[str, Any]]) -> List[str]:
    would, refused = ([act for act in acts if act["verdict"] == verdict] for verdict in ("allowed", "denied"))
    lines = [f"Acts: {len(would)} that enforce would refuse, {len(refused)} that were refused."]
    newest = sorted(acts, key=lambda act: act["last"])[-SHOWN:]
    if len(acts) > SHOWN:
        lines.append(f"The {SHOWN} newest (--json has all):")
    body = [
        [words.clock(act["last"]), str(act["count"]), "refused" if act["verdict"] == "denied" else "let pass", words.who(act),
         words.what(act), act["profile"]]
        for act in newest
    ]
    return lines + ([table(["LAST (UTC)", "TIMES", "VERDICT", "PROGRAM", "WHAT", "IN PROFILE"], body)] if body else [])


def _worded(suggestion: Dict[str, Any]) -> Dict[str, Any]:
    """A suggestion with its acts in words: as data they are in `acts` of the agent."""
    said = [f"{words.who(act)} may not {words.what(act)}" for act in suggestion["acts"]]
    return {**words.without_acts(suggestion), "acts": sorted(set(said))}


def _suggestions(found: Mapping[str, Any]) -> List[str]:
    if not found["suggestions"]:
        return []
    lines = ["", "Suggestions, to be judged by somebody who knows what the agent is for:"]
    for number, one in enumerate(found["suggestions"], 1):
        lines += [f"{number}. {_headline(one)}", *words.indented(_evidence(one), "   ")]
    if found["change"]:
        lines += ["", "All changes of the manifest together:", *words.diff(found["change"])]
    return lines + [""]


def _headline(one: Mapping[str, Any]) -> str:
    if one["kind"] == "never":
        return f"NEVER ({words.times(one['count'])}): {words.plain(one['why'], 300)}"
    added = "; ".join(f"{place}: {flow(value)}" for place, value in one["manifest"].items() if one["kind"] != "catalogue")
    return f"{added or 'a change of the catalogue'} ({words.times(one['count'])}): {words.plain(one['why'], 300)}"


def _evidence(one: Mapping[str, Any]) -> List[str]:
    more = len(one["acts"]) - SHOWN_ACTS
    lines = [*one["acts"][:SHOWN_ACTS], *([f"and {more} more"] if more > 0 else [])]
    if one["kind"] == "never" and one["manifest"]:
        lines.append(f"to say no for good: denied: {words.plain(flow(one['manifest']['denied']), 300)}")
    return lines + (words.diff(one["change"]) if one["kind"] == "catalogue" else [])
