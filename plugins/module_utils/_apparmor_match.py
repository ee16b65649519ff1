# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. Which paths a file rule of AppArmor is about: the globs of apparmor.d(5) as expressions.

As the parser translates them (convert_aaregex_to_pcre(), parser/parser_regex.c): `*` stays inside one directory, `**`
does not, and after a slash at the end of a name both want at least one character, so `/a/*` is not `/a/` itself.
"""
from __future__ import annotations

import re
from functools import lru_cache
from typing import Pattern

_TOKEN = re.compile(r"\*\*|\*|\?|\[\^?[^\]]*\]|\\.|[{},]|[^*?\[\\{},]+|.")
_SIMPLE = {"?": "[^/]", "{": "(?:", "}": ")"}


def matches(pattern: str, path: str) -> bool:
    """Whether a rule with this pattern is about this path."""
    return compiled(pattern).fullmatch(path) is not None


@lru_cache(maxsize=4096)
def compiled(pattern: str) -> Pattern[str]:
    """The expression that a whole path has to match."""
    parts, depth, done = [], 0, 0
    for token in _TOKEN.findall(pattern):
        whole = pattern[:done].endswith("/") and pattern[done + len(token):done + len(token) + 1] in ("", "/")
        done += len(token)
        depth += (token == "{") - (token == "}")
        parts.append(_expression(token, depth, whole))
    return re.compile("".join(parts), re.DOTALL)


def _expression(token: str, depth: int, whole: bool) -> str:
    if token in ("*", "**"):
        other = "[^/]" if token == "*" else "."
        return ("[^/]" if whole else "") + other + "*"
    if token in _SIMPLE:
        return _SIMPLE[token]
    if token == ",":
        return "|" if depth else ","
    if token.startswith("[") and len(token) > 1:
        return token
    return re.escape(token[1:] if token.startswith("\\") and len(token) > 1 else token)
