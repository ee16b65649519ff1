# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private: which secrets an agent must have, and what differs from those it has.  Pure.

A secret's name is a file name in the vault, its value the file's content, byte for byte.

Every file in the top directory is a secret; what is the agent's own lies in a directory (OWN of _manifest_values).
"""

from __future__ import annotations

import difflib
import re
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

MODE = 0o400


class Change(NamedTuple):
    """One secret that differs: what is said about it in a diff, never its value."""

    name: str
    before: str
    after: str


class Stored(NamedTuple):
    """One entry of a vault; value is None for a file that cannot be read back, and for what is no file.

    sole: whether it is root's and has no second name, under which somebody else could write to it.
    """

    mode: int
    value: Optional[str]
    sole: bool = True


_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}")  # _files.write_file(), after a power loss
_ACTS = {"removed": "removed", "set to another value": "changed"}


def mistakes(declared: Mapping[str, Sequence[str]], values: Mapping[str, Any]) -> List[str]:
    """Compare the secrets that the manifest declares with the values given: every mistake, with its path."""
    found = []
    for agent in sorted(set(values) - set(declared)):
        found.append(f"vault_secrets.{agent}: agent_host_agents has no such agent{_near(agent, declared)}")
    for agent in sorted(declared):
        given = values.get(agent)
        found += _agent_mistakes(agent, declared[agent], {} if given is None else given)
    return found


def _agent_mistakes(agent: str, names: Sequence[str], given: Any) -> List[str]:
    path = f"vault_secrets.{agent}"
    if not isinstance(given, dict):
        return [f"{path}: give a mapping of secret names to values"]
    missing = [
        f"{path}.{name}: no value; the manifest declares it, so give one from your secret store"
        for name in sorted(set(names) - set(given))
    ]
    unknown = [
        f"{path}.{name}: the manifest does not declare it: add {{name: {name}}} to the agent's secrets, "
        f"or take the value away{_near(str(name), names)}"
        for name in sorted(set(given) - set(names))
    ]
    return missing + unknown + [_value_mistake(path, name, given[name]) for name in names if _bad(given.get(name, "x"))]


def _bad(value: Any) -> bool:
    return not isinstance(value, str) or not value or not _encodes(value)


def _encodes(value: str) -> bool:
    try:
        value.encode(errors="surrogateescape")  # bytes that are no UTF-8 come that way
    except UnicodeEncodeError:
        return False
    return True


def _value_mistake(path: str, name: str, value: Any) -> str:
    if isinstance(value, str):
        return f"{path}.{name}: the value {'has a character that UTF-8 has no bytes for' if value else 'is empty'}"
    return f"{path}.{name}: the value is of type {type(value).__name__}, not text: put it in quotes"


def _near(word: str, known: Any) -> str:
    match = difflib.get_close_matches(word, list(known), 1)
    return f" (did you mean {match[0]}?)" if match else ""


def changes(wanted: Mapping[str, str], present: Mapping[str, Stored], removed: Iterable[str]) -> List[Change]:
    """What must be done so that a vault holds the wanted secrets, and none of the removed names that it has."""
    found = [_change(name, wanted[name], present.get(name)) for name in sorted(wanted)]
    gone = [Change(name, "set", "removed") for name in sorted(removed)]
    return [change for change in found if change is not None] + gone


def _change(name: str, value: str, stored: Optional[Stored]) -> Optional[Change]:
    if stored is None:
        return Change(name, "absent", "set")
    if stored.value is None:
        return Change(name, "unreadable", "set")
    if stored.value != value:
        return Change(name, "set", "set to another value")
    if not stored.sole:
        return Change(name, "not root's alone", "set")
    if stored.mode != MODE:
        return Change(name, f"mode {stored.mode:04o}", f"mode {MODE:04o}")
    return None


def acts(agent: str, found: Iterable[Change]) -> List[Tuple[str, str, str]]:
    """The changes of values, as the record of rotations has them."""
    return [
        (agent, f"secret {change.name}", _ACTS.get(change.after, "set"))
        for change in found
        if not change.before.startswith("mode ") and not _TEMPORARY.fullmatch(change.name)
    ]


def diff(agents: Mapping[str, Sequence[Change]]) -> Dict[str, str]:
    """Show changes by agent as Ansible's diff: names and states, never values."""
    lines = [(f"{agent}/{change.name}: ", change) for agent in sorted(agents) for change in agents[agent]]
    return {
        "before": "".join(f"{head}{change.before}\n" for head, change in lines),
        "after": "".join(f"{head}{change.after}\n" for head, change in lines),
    }
