# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The last gate before an agent starts: every control stands, or the unit does not start."""

from __future__ import annotations

import json
import sys
from typing import Any, Dict, List

from . import host
from ._checks import NOT_ENFORCED, PASS


def refusal(agent: str, results: List[Dict[str, Any]]) -> str:
    """What to print: empty where the agent may start, else every failing check with its remedy.

    A preflight that judged nothing refuses too: checks that were lost must not open the gate.
    """
    not_started = f"cordon: agent {agent} is not started:"
    if not results:
        return f"{not_started} there is no check to judge it by. Run the playbook cordon.agent_host.site."
    failing = [result for result in results if result["status"] not in (PASS, NOT_ENFORCED)]
    lines = [f"{not_started} {len(failing)} of {len(results)} conditions do not hold."] if failing else []
    for result in failing:
        lines.append(f"  [{result['control']}] not true: {result['title']}")
        lines.append(
            f"    expected {json.dumps(result['expected'])}, observed {json.dumps(result['observed'])}"
        )
        lines.append(f"    remedy: {result['remedy']}")
    return "\n".join(lines)


def main(arguments: List[str]) -> int:
    """preflight NAME; exit code 1 refuses."""
    (agent,) = arguments
    try:
        host.require(agent)
        message = refusal(agent, host.judge(agent, preflight=True)[1])
    except host.HostError as error:
        message = f"cordon: agent {agent} is not started: {error}"
    if message:
        print(message, file=sys.stderr)
    return 1 if message else 0
