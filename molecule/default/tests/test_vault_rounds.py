# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every way that a session ends, as fast as a machine that is not emulated: the guest is too slow for many a race.

The scenario vault goes through the same there, and through what needs a kernel of its own or a loss of power.
"""

from __future__ import annotations

import json
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).parents[2] / "shared"
AGENTS = ("scout", "scribe")
# "out of memory" is not among them: the container has no controller of memory.
ROUNDS: dict[str, int] = json.loads((SHARED / "rounds.json").read_text())
SCRIPT = "/run/vault_rounds.py"


@pytest.fixture(scope="module")
def rounds(host: Any) -> list[dict[str, Any]]:
    """Every round, those of the two agents side by side."""
    host.check_output(f"printf %s {shlex.quote((SHARED / 'vault_rounds.py').read_text())} > {SCRIPT}")

    def go_through(agent: str) -> str:
        return str(host.check_output(f"printf %s {shlex.quote(json.dumps(ROUNDS))} | python3 -B {SCRIPT} {agent}"))

    with ThreadPoolExecutor() as workers:
        said = "\n".join(workers.map(go_through, AGENTS))
    host.check_output(f"rm {SCRIPT}")
    return [row for row in map(json.loads, said.splitlines()) if "cause" in row]


def test_there_were_all_rounds(rounds: list[dict[str, Any]]) -> None:
    assert len(rounds) == len(AGENTS) * sum(ROUNDS.values())
    assert {each["cause"] for each in rounds} == {*ROUNDS}


def test_nothing_was_left(rounds: list[dict[str, Any]]) -> None:
    assert [each for each in rounds if each["left"]] == []


def test_no_secret_was_lost_and_each_cause_did_what_it_says(rounds: list[dict[str, Any]]) -> None:
    assert [each for each in rounds if each["wrong"]] == []
