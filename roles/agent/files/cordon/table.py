# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Text tables."""

from __future__ import annotations

from typing import List

LONGEST = 72  # characters of one cell; a command line can be a whole script


def plain(text: str, longest: int = LONGEST) -> str:
    """One line that is safe to print: an agent chooses its arguments and file names, and control characters must not
    reach a terminal."""
    safe = "".join(character if character.isprintable() else "?" for character in text)
    return safe if len(safe) <= longest else safe[: longest - 1] + "…"


def table(head: List[str], body: List[List[str]]) -> str:
    """Lay out rows in columns as wide as their widest cell."""
    shown = [head] + [[plain(text) for text in row] for row in body]
    widths = [max(len(row[column]) for row in shown) for column in range(len(head))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in shown
    )
