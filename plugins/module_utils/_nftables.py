# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. Our nftables table in the kernel: read it, know what it should look like, replace it.

The kernel's own listing is the truth. What a text *would* look like there is found by loading it into a network
namespace of its own, which ends with the command: so both sides of a comparison come from the same nft and the same
kernel, and any rule that was added, removed, reordered or flushed shows.
"""
from __future__ import annotations

import hashlib
import re
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

TABLE = ("inet", "cordon")

#: argv, standard input -> exit code, standard output, standard error
Run = Callable[[Tuple[str, ...], Optional[str]], Tuple[int, str, str]]

# --stateless: the values of counters are no part of the rules. Users print as numbers unless asked otherwise.
LIST = ("--stateless", "list", "table", *TABLE)

# The script is constant; nft's path comes as $0 and the ruleset on standard input.
_NAMESPACE = ("unshare", "--net", "--")
_LOAD_AND_LIST = ("sh", "-euc", '"$0" --file - && exec "$0" ' + " ".join(LIST))

# The empty declaration makes `delete` succeed where there is no table yet; all three are one transaction, so no packet
# ever sees the host without the table. Other tables are never named.
REPLACE = f"table {TABLE[0]} {TABLE[1]} {{}}\ndelete table {TABLE[0]} {TABLE[1]}\n"


class NftablesError(Exception):
    """nft refused; the message carries what it said."""


class Record(NamedTuple):
    """What the last run left in /etc/cordon/firewall.json: digests of what it loaded and of the listing after."""

    source: str
    sha256: str


def digest(text: str) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def comparable(listing: str) -> str:
    """The listing without what the resolver puts into sets that expire: that is no more part of the rules than counting.

    Every comparison and every digest of a listing goes through here.
    """
    return _SET.sub(lambda match: _ELEMENTS.sub("", match.group()) if _EXPIRES.search(match.group()) else match.group(),
                    listing)


# As nft prints sets: the braces of the elements stand alone within those of the set, but for quoted comments.
_QUOTED = r'[^{}"]*(?:"[^"\n]*"[^{}"]*)*'
_SET = re.compile(r"^\tset \w+ \{" + _QUOTED + r"(?:\{" + _QUOTED + r"\}" + _QUOTED + r")?\}$", re.M)
_EXPIRES = re.compile(r"^\t\tflags [a-z,]*\btimeout\b", re.M)
_ELEMENTS = re.compile(r"^\t\telements = \{" + _QUOTED + r"\}\n", re.M)


def source(body: str, uids: Dict[str, Tuple[str, str]]) -> str:
    """The whole file for `nft -f`. uids: {variable: (number or name to define it as, user that it stands for)}."""
    _refuse_escape(body)
    defines = "".join(f"define {name} = {uid}  # {user}\n" for name, (uid, user) in sorted(uids.items()))
    return f"{REPLACE}{defines}table {TABLE[0]} {TABLE[1]} {{\n{body}}}\n"


def _refuse_escape(body: str) -> None:
    """A body that closes our table could go on and name another's."""
    depth = 0
    for sign in re.findall(r'"[^"\n]*"|#[^\n]*|[{}]', body):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if depth < 0:
            break
    if depth:
        raise NftablesError("the content's braces do not match: it must stay between the braces of our table")


def bound_uids(listed: str) -> List[int]:
    """The users that a listing binds: the elements `UID : verdict` of the maps that a rule looks them up in."""
    used = set(re.findall(r"\bskuid vmap @([A-Za-z0-9_]+)", listed))
    maps = re.findall(r"\bmap ([A-Za-z0-9_]+) \{[^{}]*\{([^{}]*)\}", listed)
    return sorted({int(uid) for name, elements in maps if name in used
                   for uid in re.findall(r"([0-9]+) : [a-z]", elements)})


def listing(run: Run, nft: str) -> Optional[str]:
    """The table as the kernel has it, in comparable form; None where there is none."""
    code, out, err = run((nft, *LIST), None)
    if code == 0:
        return comparable(out)
    if "No such file or directory" in err:
        return None
    raise NftablesError(f"cannot read table {' '.join(TABLE)} from the kernel: {err.strip()}")


def canonical(run: Run, nft: str, text: str) -> Optional[str]:
    """How the kernel would list this text; None where this host lets nobody make a network namespace.

    Raises NftablesError where nft does not accept the text.
    """
    # Asked first: a program that ends before it has read its standard input would be an error of another kind.
    if run((*_NAMESPACE, "true"), None)[0] != 0:
        check(run, nft, text)
        return None
    code, out, err = run((*_NAMESPACE, *_LOAD_AND_LIST, nft), text)
    if code != 0:
        raise NftablesError(refusal(err))
    return comparable(out)


def check(run: Run, nft: str, text: str) -> None:
    """Let nft and the kernel judge the text without loading it."""
    code, _out, err = run((nft, "--check", "--file", "-"), text)
    if code != 0:
        raise NftablesError(refusal(err))


def load(run: Run, nft: str, text: str) -> str:
    """Replace the table in one transaction and return the kernel's listing of it."""
    code, _out, err = run((nft, "--file", "-"), text)
    if code != 0:
        raise NftablesError(refusal(err))
    after = listing(run, nft)
    if after is None:
        raise NftablesError("table inet cordon vanished right after it was loaded: another program flushes rulesets")
    return after


def delete(run: Run, nft: str) -> None:
    """Remove our table; no other is touched."""
    code, _out, err = run((nft, "--file", "-"), REPLACE)
    if code != 0:
        raise NftablesError(refusal(err))


def refusal(err: str) -> str:
    """Say what nft said, with the first few errors of it."""
    lines = err.strip().splitlines()
    shown = "\n".join(lines[:9]) + ("\n..." if len(lines) > 9 else "")
    return f"nft does not accept the ruleset, nothing was changed:\n{shown}"


def stands(running: Optional[str], text: str, record: Optional[Record]) -> bool:
    """Whether the kernel still has what the last run loaded from this very text. Costs no program."""
    return running is not None and record == Record(digest(text), digest(running))
