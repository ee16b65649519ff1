# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private: which of our units to start, restart or stop, decided from what systemctl shows."""

from __future__ import annotations

import re
from typing import Dict, List, Sequence

Step = List[str]  # arguments of systemctl
_OURS = re.compile(
    r"cordon-(?:agent@(?P<agent>[a-z0-9_]+)|session-(?P<session>[a-z0-9_]+)-[0-9a-f]+)\.service"
)
_RUNNING = ("active", "activating", "reloading", "deactivating")


def service(agent: str) -> str:
    """The unit of an agent's own service."""
    return f"cordon-agent@{agent}.service"


def owner(unit: str) -> str:
    """The agent whose service or session a unit is; '' for any other unit (the bare template is one)."""
    match = _OURS.fullmatch(unit)
    return (match["agent"] or match["session"]) if match else ""


def names(listing: str) -> List[str]:
    """Unit names of ``systemctl --plain --no-legend list-units`` or ``list-unit-files``."""
    return [words[0] for words in map(str.split, listing.splitlines()) if words and owner(words[0])]


def properties(shown: str) -> Dict[str, Dict[str, str]]:
    """Parse ``systemctl show``: blocks of NAME=VALUE lines, an empty line between units; by Id."""
    blocks = [
        dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        for block in shown.split("\n\n")
    ]
    return {block["Id"]: block for block in blocks if "Id" in block}


def prune(seen: Dict[str, Dict[str, str]], agents: List[str]) -> List[Step]:
    """Stop and disable what belongs to no listed agent, and end whatever is left in its control group."""
    steps: List[Step] = []
    gone = set()
    for unit in sorted(seen):
        if owner(unit) in agents:
            continue
        if seen[unit].get("ActiveState") in _RUNNING:
            steps.append(["stop", unit])
            gone.add(owner(unit))
        if seen[unit].get("UnitFileState") == "enabled":
            steps.append(["disable", unit])
    return steps + [["stop", f"cordon-{agent}.slice"] for agent in sorted(gone)]


def _starting(state: Dict[str, str]) -> bool:
    """Whether systemd has the start of a unit on its list already; it waits for something."""
    return state.get("Job", "0") not in ("", "0")


def start(seen: Dict[str, Dict[str, str]], agents: List[str], restart: List[str], kept_open: Sequence[str] = ()) -> List[Step]:
    """Enable and start the services of the listed agents, and of `restart` anew; reload systemd first where it must.

    kept_open: agents whose vault must not close for that.
    """
    steps: List[Step] = []
    if any(unit.get("NeedDaemonReload") == "yes" for unit in seen.values()):
        steps.append(["daemon-reload"])
    for agent in sorted(agents):
        unit = service(agent)
        state = seen.get(unit, {})
        if state.get("UnitFileState") != "enabled":
            steps.append(["enable", "--quiet", unit])
        # Starts that an operator asked for are no crash loop, and may not use up those that the unit has (StartLimitBurst=): a
        # restart beyond them leaves the agent down.
        again = ["reset-failed", unit]
        if state.get("ActiveState") != "active":
            steps += [again, ["start", unit]]
        elif agent in restart:
            # Between stop and start nothing needs the vault, so it closes: it opens again as the manifest now says.
            steps += [again, ["restart", unit]] if agent in kept_open else [["stop", unit], again, ["start", unit]]
    return steps


def not_awaited(seen: Dict[str, Dict[str, str]], agents: List[str], restart: List[str], no_wait: List[str]) -> List[Step]:
    """Like start(), without waiting for the start of agents in no_wait: a person has to unlock their vaults first.

    Nor does a run of the role lock a vault that the person has opened: what the manifest says of it waits for the next opening.
    """
    units = {service(agent) for agent in no_wait}
    waiting = {unit for unit in units if _starting(seen.get(unit, {}))}
    return [
        [step[0], "--no-block", *step[1:]] if step[0] in ("start", "restart") and step[-1] in units else step
        for step in start(seen, [agent for agent in agents if service(agent) not in waiting], restart, no_wait)
    ]
