# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What cordonctl status says: each agent's controls as the kernel has them, then what to mend."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Optional

from . import _checks
from .table import table

WORDS = {
    _checks.PASS: "ok",
    _checks.NOT_ENFORCED: "not enforced",
    _checks.FAIL: "FAILS",
    _checks.ERROR: "UNKNOWN",
}


def report(
    agents: List[Dict[str, Any]], facts: Dict[str, Any], results: List[Dict[str, Any]]
) -> Dict[str, Any]:
    """The status as data: the host, one entry per agent, and every result that is not a pass."""
    return {
        "collected_at": facts["collected_at"],
        "summary": _checks.summary(results),
        "host": _controls(results, None),
        "agents": [_agent(agent, facts, results) for agent in agents],
        "left_to_other_controls": facts["apparmor"].get("unenforced") or [],
        "attention": [result for result in results if result["status"] != _checks.PASS],
    }


def _agent(agent: Dict[str, Any], facts: Dict[str, Any], results: List[Dict[str, Any]]) -> Dict[str, Any]:
    seen = facts["agents"][agent["name"]]
    return {
        "name": agent["name"],
        "mode": agent["mode"],
        "service": (seen.get("unit") or {}).get("ActiveState"),
        "vault_locked": (seen.get("vault") or {}).get("locked") is True,
        "processes": len(seen.get("processes") or []),
        "controls": _controls(results, agent["name"]),
    }


def _controls(results: List[Dict[str, Any]], agent: Optional[str]) -> Dict[str, Optional[str]]:
    """The worst result of each control, of one agent or of the host; null where nothing was judged."""
    return {
        control: _checks.worst(
            r["status"] for r in results if r["control"] == control and r["agent"] == agent
        )
        for control in _checks.CONTROLS
    }


def text(status: Dict[str, Any]) -> str:
    """The status for a terminal."""
    head = ["AGENT", "MODE", "SERVICE", "PROCESSES", *[control.upper() for control in _checks.CONTROLS]]
    body = [["(host)", "", "", "", *_words(status["host"])]]
    body += [
        [one["name"], one["mode"], one["service"] or "?", str(one["processes"]), *_words(one["controls"])]
        for one in status["agents"]
    ]
    parts = [table(head, body), *_locked(status["agents"]), _totals(status["summary"]), *_left(status["left_to_other_controls"])]
    return "\n\n".join(parts + [_remedy(result) for result in status["attention"]])


def _locked(agents: List[Dict[str, Any]]) -> List[str]:
    """Which vaults an operator must open before their agents can start."""
    shut = [one["name"] for one in agents if one["vault_locked"]]
    lines = [f"the vault of agent {name} is locked: cordonctl unlock {name}" for name in shut]
    return ["\n".join(lines)] if lines else []


def _left(gaps: List[Dict[str, str]]) -> List[str]:
    """What this host's AppArmor does not enforce, and what stands in for it."""
    rows = [[gap["class"], gap["control"]] for gap in gaps]
    return [table(["NOT IN THIS KERNEL'S APPARMOR", "INSTEAD"], rows)] if rows else []


def _words(controls: Dict[str, Optional[str]]) -> List[str]:
    return [WORDS[found] if (found := controls[control]) else "-" for control in _checks.CONTROLS]


def _totals(summary: Dict[str, int]) -> str:
    return f"{sum(summary.values())} checks: " + ", ".join(
        f"{count} {status.replace('_', ' ')}" for status, count in summary.items()
    )


def _remedy(result: Dict[str, Any]) -> str:
    where = f"agent {result['agent']}" if result["agent"] else "host"
    lines = [
        f"{WORDS[result['status']]}: {result['title']} ({where}, {result['control']}, check {result['id']})",
        f"  expected {json.dumps(result['expected'])}, observed {json.dumps(result['observed'])}",
    ]
    return "\n".join(
        lines + ([f"  remedy: {result['remedy']}"] if result["status"] != _checks.NOT_ENFORCED else [])
    )
