# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""cordonctl secrets: which secrets an agent has in its vault, whether they can be read now, and how to open a closed one.

Names and states only: a value is read by a program of the agent's, in a session.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping

from . import _facts_vault, host
from ._facts_source import Source
from .table import table

OPEN, CLOSED, MISSING, UNKNOWN = "open", "closed", "missing", "unknown"


def report(agent: Mapping[str, Any], facts: Mapping[str, Any]) -> Dict[str, Any]:
    """The agent's secrets as data; facts: as _facts_vault reads them."""
    mounted = facts["mounted"]
    # Of a vault that nobody ever made the facts say null, like of one that cannot be told.
    state = {True: OPEN, False: CLOSED}.get(mounted, UNKNOWN)
    there = {one["name"] for one in facts["secrets"] or []}
    return {
        "agent": agent["name"],
        "vault": state,
        "secrets": [{"name": one["name"], "readers": one["tools"] or ["every program"],
                     "state": MISSING if mounted and one["name"] not in there else state}
                    for one in agent["secrets"] if not one.get("broker")],
        "to_open": how(agent) if mounted is False else [],
    }  # fmt: skip


def how(agent: Mapping[str, Any]) -> List[str]:
    """The commands that open a closed vault; it closes when the last thing that needs it has ended."""
    name = agent["name"]
    unlock = [f"cordonctl unlock {name}"] if agent.get("vault", {}).get("unlock") == "operator" else []
    return [*unlock, f"systemctl start cordon-agent@{name}", f"cordonctl run {name} -- COMMAND"]


def read(agents: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """What this host has."""
    return [report(agent, _facts_vault.read(Source(host.run), agent, preflight=True)) for agent in agents]


def text(found: List[Dict[str, Any]]) -> str:
    """The secrets for a terminal."""
    rows = [[one["agent"], secret["name"], ", ".join(secret["readers"]), secret["state"]]
            for one in found for secret in one["secrets"]]
    parts = [table(["AGENT", "SECRET", "READERS", "STATE"], rows)] if rows else ["no agent of this host has a secret"]
    return "\n\n".join(parts + [_closed(one) for one in found if one["vault"] != OPEN and one["secrets"]])


def _closed(one: Mapping[str, Any]) -> str:
    name = one["agent"]
    if one["vault"] == UNKNOWN:
        return f"There is no vault of agent {name}, or it cannot be looked at: run the playbook cordon.agent_host.site."
    first, *others = one["to_open"]
    if others[1:]:
        return f"The vault of agent {name} is closed, and a person opens it: {first}\nThen, or before: {', or '.join(others)}"
    return f"The vault of agent {name} is closed: it is open while something of the agent runs.\nTo open it: " \
           f"{', or '.join(one['to_open'])}"


def readable(found: List[Dict[str, Any]]) -> bool:
    """Whether every secret can be read now."""
    return all(secret["state"] == OPEN for one in found for secret in one["secrets"])
