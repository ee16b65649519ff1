# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private: read /proc/self/mountinfo, the kernel's own list of what is mounted where (proc(5))."""

from __future__ import annotations

import re
from typing import Dict, List, NamedTuple, Optional


class Mount(NamedTuple):
    """One mount: where, of what type, under which source name, with which options."""

    point: str
    type: str
    source: str
    options: List[str]


def parse(text: str) -> Dict[str, Mount]:
    """Return the mounts by mount point; where several lie over each other, the topmost (the last line).

    36 35 98:0 / /mnt/a rw,noatime master:1 - ext3 /dev/root rw,errors=continue
    """
    found: Dict[str, Mount] = {}
    for line in text.splitlines():
        left, separator, right = line.partition(" - ")
        words, rest = left.split(" "), right.split(" ")
        if separator and len(words) >= 6 and len(rest) >= 3:
            options = sorted(set(words[5].split(",")) | set(rest[2].split(",")))
            point = unescape(words[4])
            found[point] = Mount(point, rest[0], unescape(rest[1]), options)
    return found


def at(text: str, point: str) -> Optional[Mount]:
    """Return what is mounted at exactly this path, or None."""
    return parse(text).get(point)


def unescape(word: str) -> str:
    """Undo the kernel's octal escapes of space, tab, newline and backslash."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), word)
