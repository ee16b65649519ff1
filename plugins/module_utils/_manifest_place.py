# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. Where a value of the manifest stands, and what is wrong with it.

A Place is handed down while a manifest is read. It never raises: a mistake is noted and reading goes on, so
that somebody who made five mistakes hears of five, not of one in each of five runs.
"""

from __future__ import annotations

import datetime
import difflib
from typing import Any, Iterable, List

SHOWN = 60  # characters of a refused value that a message repeats


class Place:
    """One spot in a manifest.

    path: what a person reads, e.g. "agents[1].egress[0].port".
    key: the same spot in the schema, below one agent: "egress[].port"; it indexes DEFAULTS.
    """

    def __init__(self, path: str, key: str = "", problems: List[str] | None = None) -> None:
        self.path = path
        self.key = key
        self.problems: List[str] = [] if problems is None else problems

    def member(self, name: str) -> Place:
        """The place of one key of a mapping."""
        return Place(f"{self.path}.{name}", f"{self.key}.{name}" if self.key else name, self.problems)

    def item(self, index: int) -> Place:
        """The place of one item of a list."""
        return Place(f"{self.path}[{index}]", f"{self.key}[]" if self.key else "", self.problems)

    def refuse(self, problem: str, remedy: str) -> None:
        """Note a mistake: what is wrong, then what to write instead."""
        self.problems.append(f"{self.path}: {problem}: {remedy}")


def show(value: Any) -> str:
    """A value as a message may repeat it: short, on one line, and in the words of YAML."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple, set)):
        return "a list"
    if isinstance(value, int):
        # Python refuses to print integers of thousands of digits.
        return str(int(value)) if value.bit_length() < 64 else "a huge number"
    if isinstance(value, str):
        text = repr(str(value))  # escapes whatever is not printable
        return text if len(text) <= SHOWN else text[:SHOWN] + "..."
    if isinstance(value, (float, datetime.date)):
        return str(value)
    return f"a {type(value).__name__}"


def near(word: Any, choices: Iterable[str]) -> str:
    """The remedy for a word that is none of choices: those that look like it, else all of them."""
    known = sorted(choices)
    close = difflib.get_close_matches(word.lower()[:SHOWN], known, n=3) if isinstance(word, str) else []
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"use one of: {', '.join(known)}"
