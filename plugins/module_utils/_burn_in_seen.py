# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. What a host has recorded of an agent's burn-in, read without trusting its shape.

The window begins when the last thing changed that would make older evidence say nothing about this policy: a profile
was loaded anew, the collecting of events began, or something was lost. It is kept by the clock of the host.
"""
from __future__ import annotations

import math
import time
from datetime import datetime, timezone
from typing import Any, Dict, List, Mapping, NamedTuple, Optional

DAY = 86400.0
VERDICTS = ("allowed", "denied")

Agent = Mapping[str, Any]


class Seen(NamedTuple):
    """One look at the host for one agent. None: it could not be read."""

    collected: Optional[Mapping[str, Any]]  # /var/lib/cordon/burn_in/AGENT.json, by cordon-events
    record: Optional[Mapping[str, Any]]  # /etc/cordon/apparmor.json, by the module apparmor_profiles
    writer: Optional[Mapping[str, Any]]  # /run/cordon/events.json, by cordon-events
    applied: Optional[Mapping[str, Any]]  # the agent in /etc/cordon/manifest.json
    facts: Mapping[str, Any]  # _facts.collect()
    now: float


class Moment(NamedTuple):
    """A point in time, and what happened then; `at` is None when it is not known."""

    at: Optional[float]
    what: str


def began(agent: Agent, seen: Seen) -> Moment:
    """The beginning of the window; `at` is None, with the reason, when it cannot be told."""
    profiles = recorded(agent, seen)
    if not profiles:
        return Moment(None, "the agent's profiles are not recorded as loaded")
    if seen.collected is None or seen.collected.get("ended"):
        return Moment(None, "no events of the agent are being collected")
    found = [Moment(moment(seen.collected.get("collecting_since")), "the collecting of events began")]
    found += [Moment(moment(known.get("since")), "%s was loaded" % name) for name, known in sorted(profiles.items())]
    lost = losses(seen.collected)
    if lost is None or any(one.at is None for one in found + lost):
        return Moment(None, "a time in the host's records is missing")
    return max(found + lost, key=lambda one: one.at or 0.0)


def recorded(agent: Agent, seen: Seen) -> Dict[str, Mapping[str, Any]]:
    """The agent's profiles in the record of what was loaded, by name."""
    profiles = (seen.record or {}).get("profiles")
    found = own(agent, profiles) if isinstance(profiles, Mapping) else {}
    return {name: known for name, known in found.items() if isinstance(known, Mapping)}


def own(agent: Agent, profiles: Mapping[str, Any]) -> Dict[str, Any]:
    """The agent's among profiles by name: its cage and the inner ones, without the kernel's //null- children."""
    name = cage(agent)
    return {key: found for key, found in profiles.items()
            if key == name or (key.startswith(name + ".") and "//" not in key)}


def cage(agent: Agent) -> str:
    """The name of the agent's outer profile."""
    return "cordon." + str(agent["name"])


def facts_of(agent: Agent, seen: Seen) -> Mapping[str, Any]:
    """The facts of this agent alone."""
    return (seen.facts.get("agents") or {}).get(agent["name"]) or {}


def acts(collected: Optional[Mapping[str, Any]], verdict: str, since: Optional[float]) -> Optional[List[Dict[str, Any]]]:
    """Acts of one verdict that happened since; None when they are not known.

    What cannot be read counts against the agent: an act of unknown time is recent, one of unknown verdict allowed.
    """
    listed = (collected or {}).get("acts")
    if since is None or not isinstance(listed, list) or not all(isinstance(one, Mapping) for one in listed):
        return None
    recent = [one for one in listed if (moment(one.get("last")) or since) >= since]
    return [one for one in recent if (one.get("verdict") if one.get("verdict") in VERDICTS else "allowed") == verdict]


def losses(collected: Mapping[str, Any]) -> Optional[List[Moment]]:
    """What was lost and when; None when the list cannot be read."""
    listed = collected.get("lost")
    if not isinstance(listed, list) or not all(isinstance(one, Mapping) for one in listed):
        return None
    return [Moment(moment(one.get("at")), str(one.get("what"))) for one in listed]


def span(since: Any, until: Any) -> Optional[float]:
    """Days from one to the other, None where one of them is no time."""
    first, last = moment(since), moment(until)
    return None if first is None or last is None else (last - first) / DAY


def moment(value: Any) -> Optional[float]:
    """A time in seconds since 1970, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        return None
    return float(value)


def stamp(text: Any) -> Optional[float]:
    """A time as cordon-events writes it, 2026-11-23T04:30:00.123Z."""
    try:
        return datetime.strptime(str(text)[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        return None


def day(at: float) -> str:
    """The day of a time, UTC, as in the collected `days`."""
    return time.strftime("%Y-%m-%d", time.gmtime(at))


def when(at: float) -> str:
    """A time for people, UTC."""
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
