# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate from burn-in to enforce, as this host can judge it: promote.yml asks the same, and replays the work."""

from __future__ import annotations

import hashlib
import os
import time
from typing import Any, Dict, List, Mapping

from . import _burn_in, _facts, host, spool
from ._burn_in_host import look
from ._facts_source import Source

PROFILES = "/etc/apparmor.d"


def conditions(agent: Mapping[str, Any], directory: str = PROFILES) -> List[Dict[str, Any]]:
    """Every condition but the replay, which only the playbook runs; [] for an agent that is not in burn-in."""
    if agent["mode"] != "burn_in":
        return []
    facts = _facts.collect(host.run, agent=agent["name"])
    seen = look(Source(host.run), agent["name"], facts, time.time())
    return [one for one in _burn_in.conditions(agent, seen, rendered(agent["name"], directory), None)
            if one["id"] != "replay"]


def rendered(name: str, directory: str = PROFILES) -> Dict[str, str]:
    """SHA-256 of the agent's profiles as they lie here: this host cannot render its manifest."""
    found = {}
    for entry in sorted(os.listdir(directory) if os.path.isdir(directory) else []):
        if entry == f"cordon.{name}" or entry.startswith(f"cordon.{name}."):
            with open(os.path.join(directory, entry), "rb") as file:
                found[entry] = hashlib.sha256(file.read()).hexdigest()
    return found


def lines(found: List[Dict[str, Any]]) -> List[str]:
    """The conditions for a terminal, each with what was observed."""
    if not found:
        return []
    lacking = len(_burn_in.missing(found))
    head = "all that can be judged here holds; promote.yml replays the work and decides" if not lacking else \
        f"{lacking} of {len(found)} conditions do not hold"
    shown = [f"The gate to enforce: {head}."]
    for one in found:
        shown.append(f"  {'yes' if one['met'] is True else 'NO '}  {one['title']}. {one['observed']}")
        shown += [f"       remedy: {one['remedy']}"] if one["remedy"] else []
    return shown


def notify(agents: List[Dict[str, Any]]) -> List[str]:
    """Leave an alert for each agent that is ready; their names."""
    ready = [agent["name"] for agent in agents if (found := conditions(agent)) and not _burn_in.missing(found)]
    for name in ready:
        spool.put("burn-in-ready", "info", name,
                  f"{name} has burnt in: run the playbook cordon.agent_host.promote, which replays its work and decides")
    return ready
