# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. Which requests an agent may make of an inspected name: "GET /v1/models", "* /repos/acme/**".

Pure. A name alone grants a whole service, and with it every place in the service that somebody else can read
(peers.md S-30). This narrows it to methods and paths. The path is compared as the agent wrote it: what a server could
read in two ways (an encoded slash, "..", an empty segment) matches no wildcard.

Paths and their parts: RFC 3986, sections 2 and 3.3; methods: RFC 9110, section 9.1.
"""

from __future__ import annotations

import functools
import re
from typing import Any, Iterable, Mapping, NamedTuple, Optional, Pattern, Sequence

ANY = "*"
METHODS = re.compile(r"\*|[A-Z]+(,[A-Z]+)*")
# "{" and the like have to be percent-encoded, so none of them is special in a pattern either.
_WRITTEN = "[A-Za-z0-9._~!$&'()+,;=:@/*-]|%[0-9A-Fa-f]{2}"
PATH = re.compile(rf"/({_WRITTEN})*(\?({_WRITTEN}|\?)*)?")
LONGEST = 1000  # characters of one request

# Of these, %00 ends a text in some servers, %2e is a dot, %2f and %5c part segments, %25 is decoded twice by some, and
# %3f would begin a query.
_CHARACTER = r"(?:[A-Za-z0-9._~!$&'()+,;=:@-]|%(?!00|2[eEfF5]|3[fF]|5[cC])[0-9A-Fa-f]{2})"
_WILDCARDS = {
    "**": f"(?:{_CHARACTER}+(?:/{_CHARACTER}+)*/?)?",
    "*": f"{_CHARACTER}+",
}
_DOTS = re.compile(r"(^|/)\.{1,2}(/|$)")

#: A server that obeys one of them carries out another method than the one that was compared.
OVERRIDES = ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override")


class Request(NamedTuple):
    """One granted kind of request: methods (ANY or some), and the path with its query."""

    methods: str
    path: str


def read(text: str) -> Optional[Request]:
    """"GET,HEAD /v1/*" taken apart; None where it is none."""
    methods, _space, path = text.partition(" ")
    if len(text) > LONGEST or not METHODS.fullmatch(methods) or not PATH.fullmatch(path):
        return None
    return None if _unclear(path.partition("?")[0]) or "***" in path else Request(methods, path)


def _unclear(path: str) -> bool:
    """Whether servers disagree about the path: they drop, merge or obey such segments."""
    plain = re.sub("%2[eE]", ".", path)
    return bool(_DOTS.search(plain)) or "//" in plain


def granted(entry: Mapping[str, Any], method: str, path: str, overridden: bool = False) -> bool:
    """Whether an entry of egress grants the request. path: as in the request line, with its query.

    overridden: whether a header asks for another method. Without a list every request is granted.
    """
    if not entry["requests"]:
        return True
    if overridden or _unclear(path.partition("?")[0]):
        return False
    return any(_matches(request, method, path) for request in map(read, entry["requests"]) if request)


def _matches(request: Request, method: str, path: str) -> bool:
    if request.methods != ANY and method not in request.methods.split(","):
        return False
    return bool(_pattern(request.path).fullmatch(path))


@functools.lru_cache(maxsize=4096)
def _pattern(path: str) -> Pattern[str]:
    """A path with wildcards as a regular expression. A query is granted only where the pattern has one."""
    place, mark, query = path.partition("?")
    return re.compile(_expression(place) + (r"\?" + ".*".join(map(re.escape, query.split("*"))) if mark else ""))


def _expression(place: str) -> str:
    return "".join(_WILDCARDS.get(part) or re.escape(part) for part in re.split(r"(\*\*?)", place))


def narrowed(entries: Iterable[Mapping[str, Any]]) -> bool:
    """Whether any of these entries grants some requests only."""
    return any(entry["requests"] for entry in entries)


def shown(requests: Sequence[str]) -> str:
    """For people, in one line."""
    return "; ".join(requests)
