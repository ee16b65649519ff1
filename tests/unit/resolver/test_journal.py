# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told of the questions, and that no count is lost."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Tuple

from cordon_firewall.journal import CEILING, SAME, WINDOW, Journal


def journal() -> Tuple[Journal, List[Dict[str, Any]]]:
    lines: List[Dict[str, Any]] = []
    return Journal(lambda line: lines.append(json.loads(line))), lines


def test_a_question_is_one_line() -> None:
    written, lines = journal()
    written.question("autopilot", "git.example.org", "A", "answered", 0.5, ["203.0.113.9"])
    written.question("autopilot", "x\n.example.org", "TXT", "refused", 0.5, reason="not allowed")
    assert lines[0] == {"at": "1970-01-01T00:00:00.500Z", "agent": "autopilot", "event": "dns", "name": "git.example.org",
                        "type": "A", "outcome": "answered", "addresses": ["203.0.113.9"]}  # fmt: skip
    assert lines[1]["reason"] == "not allowed"


def told(lines: List[Dict[str, Any]], agent: str) -> int:
    return sum(line.get("suppressed", 1) for line in lines if line["agent"] == agent)


def test_what_repeats_is_counted_and_hides_nothing_else() -> None:
    written, lines = journal()
    for _ in range(5000):
        written.question("autopilot", None, None, "refused", 0.0, reason="flood")
    written.question("autopilot", "git.example.org", "A", "answered", 0.0)
    written.question("scribe", "git.example.org", "A", "answered", 0.0)
    assert len(lines) == SAME + 2
    written.due(WINDOW + 1)
    assert lines[-1]["suppressed"] == 5000 - SAME
    assert lines[-1]["reason"] == "flood"
    assert (told(lines, "autopilot"), told(lines, "scribe")) == (5001, 1)


def test_many_different_questions_are_counted_too() -> None:
    written, lines = journal()
    for number in range(3 * CEILING):
        written.question("autopilot", f"{number}.example.org", "A", "refused", 0.0)
    assert len(lines) == CEILING
    written.due(1.0, at_once=True)
    assert (lines[-1]["suppressed"], lines[-1]["name"]) == (2 * CEILING, None)
    assert told(lines, "autopilot") == 3 * CEILING


def test_a_window_ends_and_starts_anew() -> None:
    written, lines = journal()
    written.due(1000.0)
    for _ in range(SAME + 1):
        written.question("a", "n", "A", "refused", 0.0)
    written.due(1000.0 + WINDOW - 1)
    assert len(lines) == SAME
    written.due(1000.0 + WINDOW)
    written.question("a", "n", "A", "refused", 0.0)
    written.due(1000.0 + 2 * WINDOW)
    assert [line.get("suppressed") for line in lines[SAME:]] == [1, None]
