# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real work in enforce: what was granted works without one refusal in the log, what was not granted is refused and logged."""

from __future__ import annotations

import json

import pytest
import steps
from conftest import Outcome, on_guest

GRANTED = [(agent, step) for agent, its in steps.plan().items() for step, _ in its if not step.startswith("refused:")]
REFUSED = [(agent, step) for agent, its in steps.plan().items() for step, _ in its if step.startswith("refused:")]


@pytest.mark.parametrize(("agent", "step"), GRANTED)
def test_granted_work_works_and_nothing_is_refused(outcome: Outcome, agent: str, step: str) -> None:
    done = outcome.steps[agent, step]
    assert (done.code, done.records) == (0, []), done.told()


@pytest.mark.parametrize(("agent", "step"), REFUSED)
def test_a_tool_that_was_not_granted_is_refused_and_logged(outcome: Outcome, agent: str, step: str) -> None:
    done = outcome.steps[agent, step]
    assert done.code == 126, done.told()
    tried = done.output.split("tries ", 1)[1].splitlines()[0]
    assert {("exec", tried)} == {(record["operation"], record["name"]) for record in done.records}, done.told()
    assert f"cordon.{agent}" in {record["profile"] for record in done.records}, done.told()


def test_every_tool_was_tried_both_ways() -> None:
    assert {step.removeprefix("proof:") for _, step in GRANTED if step.startswith("proof:")} == set(steps.tools())
    assert {step.removeprefix("refused:") for _, step in REFUSED} == set(steps.tools())


def test_nothing_was_refused_beside_the_steps(outcome: Outcome) -> None:
    assert [record["line"] for record in outcome.stray] == []


def test_every_session_ran_to_its_end(outcome: Outcome) -> None:
    missing = [step for agent, its in steps.plan().items() for step, _ in its if (agent, step) not in outcome.steps]
    assert missing == [], {name: session["output"][-2000:] for name, session in outcome.sessions.items()}
    print({name: session["seconds"] for name, session in outcome.sessions.items()})


def test_at_least_74_of_our_profiles_are_in_enforce() -> None:
    profiles = json.loads(on_guest("aa-status --json", 60))["profiles"]
    ours = {name: mode for name, mode in profiles.items() if name.startswith("cordon.")}
    assert len(ours) >= 74
    assert set(ours.values()) == {"enforce"}
