# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guest's answer, asked for once: every agent's script is run there, and its steps and the kernel's records come back.

TESTBED_DIR names the test bed of the provisioned guest.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import steps

# The kernel stamps records with the time of its last tick.
TICK = 0.02
BEGIN = re.compile(r"^@@begin (\S+) (\S+)$")
END = re.compile(r"^@@end (\S+) (\d+) (\S+)$")


class Step(NamedTuple):
    """One step as it went: exit code, what it printed, and what AppArmor refused while it ran."""

    code: int
    seconds: float
    output: str
    records: list[dict[str, Any]]

    def told(self) -> str:
        """For a failed assertion."""
        return "\n".join([f"exit {self.code}", self.output[-3000:], *(record["line"] for record in self.records)])


class Outcome(NamedTuple):
    """steps: by (agent, step). stray: refusals outside of any step. sessions: as run.py tells them."""

    steps: dict[tuple[str, str], Step]
    stray: list[dict[str, Any]]
    sessions: dict[str, Any]


def on_guest(command: str, limit: int) -> str:
    """What a command prints on the guest; fails with what it said."""
    config = Path(os.environ["TESTBED_DIR"]) / "ssh_config"
    argv = ["ssh", "-F", str(config), "agenthost-1", command]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=limit, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command}: exit {done.returncode}\n{done.stderr[-3000:]}\n{done.stdout[-3000:]}")
    return done.stdout


def judged(answer: dict[str, Any]) -> Outcome:
    """Each step with the refusals that fell into its time and its agent's profiles."""
    found, used = {}, set()
    refusals = [record for record in answer["records"] if record["verdict"] != "AUDIT"]
    for agent, session in answer["sessions"].items():
        lines, name, begun = [], "", 0.0
        for line in session["output"].splitlines():
            if begin := BEGIN.match(line):
                lines, name, begun = [], begin[1], float(begin[2])
            elif (end := END.match(line)) and end[1] == name:
                ended = float(end[3])
                its = [
                    number for number, record in enumerate(refusals)
                    if begun - TICK <= record["time"] <= ended + TICK and record["profile"].split(".")[1] == agent
                ]
                used |= set(its)
                records = [refusals[number] for number in its]
                found[agent, name] = Step(int(end[2]), ended - begun, "\n".join(lines).strip(), records)
            else:
                lines.append(line)
    return Outcome(found, [record for number, record in enumerate(refusals) if number not in used], answer["sessions"])


@pytest.fixture(scope="session")
def outcome() -> Outcome:
    """All sessions, run one after the other."""
    answer = on_guest("python3 -I /srv/forge/run.py " + " ".join(steps.agents()), 1500)
    if place := os.environ.get("WORKLOADS_ANSWER"):
        Path(place).write_text(answer, encoding="utf-8")
    return judged(json.loads(answer))
