# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps of the workload suite, worked out from the sample manifest and the tool catalogue. Pure but for reading.

Each agent runs one script in one session, since a session takes seconds to start:
  proof:TOOL      the proof of each tool that the agent has; must succeed
  refused:TOOL    a program of a tool that it does not have; must be refused and leave a log line
  work:NAME       a function of agents/AGENT.sh; must succeed
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
MANIFEST = REPOSITORY / "examples" / "hosts" / "many_agents.yml"
TOOLS = REPOSITORY / "roles" / "apparmor" / "files" / "tools"

HEAD = """\
#!/bin/bash
# Made by tests/workloads/steps.py: the steps of one agent, run in one session.
export LESS=-F PAGER=cat
step() {
    local name=$1 code
    shift
    sleep 0.05 # the kernel stamps a record with the time of its last tick: a gap tells to which step it belongs
    printf '\\n@@begin %s %s\\n' "$name" "${EPOCHREALTIME/,/.}"
    (cd "$(mktemp -d -p ~/workspace)" && "$@") < /dev/null 2>&1
    code=$?
    printf '\\n@@end %s %s %s\\n' "$name" "$code" "${EPOCHREALTIME/,/.}"
}
work() { set -eux; "$@"; }
started_first() { # PATH...: the first of them that is there
    local path
    for path; do
        [ ! -e "$path" ] || { echo "tries $(readlink -f "$path")"; exec env "$path" --version; }
    done
    echo "none of $* is there"
}
"""


@lru_cache(maxsize=None)
def agents() -> dict[str, dict[str, Any]]:
    """The sample manifest's agents by name."""
    return {agent["name"]: agent for agent in yaml.safe_load(MANIFEST.read_text("utf-8"))["agent_host_agents"]}


@lru_cache(maxsize=None)
def tools() -> dict[str, dict[str, Any]]:
    """The catalogue, without the tools that every agent has."""
    found = [yaml.safe_load(path.read_text("utf-8")) for path in sorted(TOOLS.glob("*.yml"))]
    return {tool["name"]: tool for tool in found if not tool.get("implicit")}


def plan() -> dict[str, list[tuple[str, str]]]:
    """The steps of each agent: (name, command of the shell)."""
    return {name: [*_proofs(agent), *_refusals(name), *_works(name)] for name, agent in agents().items()}


def scripts() -> dict[str, str]:
    """The script of each agent."""
    found = {}
    for name, its in plan().items():
        functions = HERE / "agents" / f"{name}.sh"
        body = functions.read_text("utf-8") if functions.exists() else ""
        found[name] = "\n".join([HEAD, body, *(f"step {step} {command}" for step, command in its), ""])
    return found


def _proofs(agent: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for tool in agent["tools"]:
        yield f"proof:{tool}", shlex.join(tools()[tool]["proof"])


def _refusals(name: str) -> Iterator[tuple[str, str]]:
    """Each tool once, asked for by the first agent that has nothing of it."""
    for tool, entry in tools().items():
        if _stranger(entry) == name:
            # The pattern as the shell expands it: the first file that is there.
            words = " ".join(path.replace("\\", "") for path in entry["executables"])
            yield f"refused:{tool}", f"started_first {words}"


def _stranger(tool: dict[str, Any]) -> str:
    for name, agent in agents().items():
        its = {path for granted in agent["tools"] for path in tools()[granted]["executables"]}
        if not its & set(tool["executables"]):
            return name
    raise ValueError(f"every agent of {MANIFEST.name} has something of {tool['name']}: leave one without it")


def _works(name: str) -> Iterator[tuple[str, str]]:
    functions = HERE / "agents" / f"{name}.sh"
    if functions.exists():
        for work in re.findall(r"^(\w+)\(\) \{$", functions.read_text("utf-8"), re.MULTILINE):
            yield f"work:{work}", f"work {work}"
