# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. From the one path that was seen to the paths that will be: next release, next process,
next run. A rule of the catalogue may hold globs; a path of the manifest is literal, so there the nearest directory
whose name will stay stands for what is in it.
"""
from __future__ import annotations

import re
from typing import Iterable, List, Set

from ._apparmor_rules import LITERAL, PATTERN

# (what a part of a path looks like, what stands for it in a glob); the first that fits is taken, anywhere in the part.
VOLATILE = [
    (re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"), "*"),  # a UUID
    (re.compile(r"(?=[0-9a-f]*[a-f])(?=[0-9a-f]*[0-9])[0-9a-f]{12,}"), "*"),  # a hash
    (re.compile(r"(?<=^tmp)[A-Za-z0-9_]{6,10}(?=$|[.-])"), "*"),  # mkstemp(3) of Python and others, tmpab12cd34
    (re.compile(r"(?<=[.-])(?=[A-Za-z]*[0-9A-Z])(?=[A-Z0-9]*[a-z])[A-Za-z0-9]{6,10}$"), "*"),  # mktemp(1), x.Ab12Cd
    (re.compile(r"[0-9]{5,}"), "[0-9]*"),  # a process, a time
]
# Changes with the release or the machine, not with every run: a directory of the manifest may still name it.
RELEASED = [
    (re.compile(r"(?<=[0-9])(\.[0-9]+)+"), ".[0-9]*"),  # python3.11, libx.so.1.2.3
    (re.compile(r"^[0-9]{1,4}$"), "[0-9]*"),  # postgresql/15
    (re.compile(r"^[a-z0-9_]+(?=-linux-gnu)"), "*"),
]
PROCESS = "[0-9]*"
SIBLINGS = 3  # files beside each other that stand for their directory


def glob(path: str) -> str:
    """A pattern for the catalogue that goes on to match when versions, processes and names for one run change."""
    parts = path.split("/")
    found = [_glob_part(part, number == 2 and parts[1] == "proc") for number, part in enumerate(parts)]
    return "/".join(found)


def _glob_part(part: str, process: bool) -> str:
    if process and (part == PROCESS or part.isdigit()):
        return PROCESS
    for look, stands in VOLATILE + RELEASED:
        changed, count = look.subn(stands, part, count=1)
        if count:
            return changed if PATTERN.fullmatch("/" + changed) else "*"
    if part and not LITERAL.fullmatch("/" + part):
        return "*"
    return part


def directory(path: str) -> str:
    """The path, or the nearest directory above it that a manifest can name and that will have this name tomorrow."""
    kept: List[str] = []
    for part in path.rstrip("/").split("/")[1:]:
        if not LITERAL.fullmatch("/" + part) or any(look.search(part) for look, _stands in VOLATILE):
            break
        kept.append(part)
    return "/" + "/".join(kept)


def gathered(paths: Iterable[str], accepted: Set[str]) -> List[str]:
    """The fewest paths that cover all: a directory for several files in it, where it is accepted; nothing twice."""
    found = set(paths)
    for parent in sorted({_parent(path) for path in found}):
        inside = [path for path in found if _parent(path) == parent]
        if len(inside) >= SIBLINGS and parent in accepted:
            found = found - set(inside) | {parent}
    return sorted(path for path in found if not any(covers(other, path) for other in found if other != path))


def covers(entry: str, path: str) -> bool:
    """Whether a path of the manifest stands for this path: it itself, and all below it."""
    return path.rstrip("/") == entry or path.startswith(entry + "/")


def _parent(path: str) -> str:
    return path.rpartition("/")[0]
