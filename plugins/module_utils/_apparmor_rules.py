# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. One file rule of AppArmor, from typed data to one line of policy.

Two kinds of path, kept apart so that a value of the manifest can never become syntax:
  literal()  a path that somebody wrote into a manifest: plain characters only, no pattern at all
  pattern()  a path of the tool catalogue: may hold the globs of apparmor.d(5), but neither quotes, variables,
             escapes of its own, nor anything else that could end a rule
Both refuse instead of escaping: the manifest's filter has refused such a value long before, with its path.
"""
from __future__ import annotations

import re
from typing import Any, Dict, List, NamedTuple

LITERAL = re.compile(r"(?:/[A-Za-z0-9._@+=:-]+)+")
PATTERN = re.compile(r"/(?:[A-Za-z0-9._@+=:/*?{},^-]|\[|\]|\\\[)*")
# x stands for ix: whatever is started stays inside the profiles that it was started from. There is no other kind.
ACCESS = "mrwklx"
CANNOT = "cannot stand in an AppArmor profile: write an absolute path"


class Refused(ValueError):
    """A value that must not reach a profile; the message names it."""


class Rule(NamedTuple):
    """One file rule.

    path: already checked by literal() or pattern(). access: letters of ACCESS. owner: only files that the process
    owns. verdict: "" (allow), "audit" (allow and log) or "audit deny".
    """

    path: str
    access: str
    owner: bool = False
    verdict: str = ""

    def line(self) -> str:
        """The rule as policy; letters in a fixed order, x written ix except in a denial, which has no kinds of exec."""
        letters = "".join(letter for letter in ACCESS if letter in self.access)
        if self.verdict != "audit deny":
            letters = letters.replace("x", "ix")
        words = [self.verdict, "owner" if self.owner else "", self.path, letters]
        return " ".join(word for word in words if word) + ","


def literal(path: str) -> str:
    """Return the path if it is plain, else raise Refused."""
    if not isinstance(path, str) or not LITERAL.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise Refused("%r %s of letters, digits and . _ @ + = : -" % (path, CANNOT))
    return str(path)


def pattern(path: str) -> str:
    """Return the pattern if it is harmless and its brackets close, else raise Refused."""
    if not isinstance(path, str) or not PATTERN.fullmatch(path) or "@{" in path or "//" in path or not _balanced(path):
        raise Refused("%r %s, with the globs of apparmor.d(5) at most" % (path, CANNOT))
    return str(path)


def _balanced(path: str) -> bool:
    plain = path.replace("\\[", "")
    return all(plain.count(left) == plain.count(right) for left, right in ("{}", "[]"))


def rule(entry: Dict[str, Any]) -> Rule:
    """A rule of the catalogue, {path, access, owner (optional)}, checked."""
    unknown = sorted(set(entry) - {"path", "access", "owner"})
    if unknown:
        raise Refused("rule of %s: unknown key %s: use path, access, owner" % (entry.get("path"), ", ".join(unknown)))
    access = str(entry.get("access", ""))
    if not access or set(access) - set(ACCESS) or len(set(access)) != len(access) or {"w", "a"} <= set(access):
        raise Refused("rule of %s: access %r: use letters of %s, each once" % (entry.get("path"), access, ACCESS))
    return Rule(pattern(entry.get("path", "")), access, bool(entry.get("owner", False)))


def transition(path: str, target: str, scrub: bool) -> str:
    """The rule by which starting a program changes the inner profile; path already checked.

    scrub: the kernel clears the environment of what could load other code (AT_SECURE, ld.so(8)).
    """
    return "%s r%s -> %s," % (path, "Px" if scrub else "px", target)


def lines(rules: List[Rule]) -> List[str]:
    """The rules as sorted lines without repetition: sorted by path, so that two texts compare well."""
    return [found.line() for found in sorted(set(rules))]
