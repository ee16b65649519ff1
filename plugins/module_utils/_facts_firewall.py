# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of the egress firewall: our table as the kernel has it.

    present  bool|null
    sha256   str|null: of the canonical listing, comparable with the record made when it was loaded
    uids     [int]|null: the uids that the table binds
    lines    int|null
    proxy, resolver  see _facts_egress.py; and unsteady: [str]|null, what is wrong with how the unit runs (_facts_units.py)
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Optional

from . import _facts_egress, _nftables
from ._facts_source import Source

RECORD = "/etc/cordon/firewall.json"
# The same listing and digest as when the table was loaded, so that only the kernel can differ.
LIST = ("nft",) + _nftables.LIST
ABSENT = "No such file or directory"


def read(source: Source) -> Dict[str, Any]:
    """Return the facts of this module (shape: module docstring)."""
    return dict(_table(source), **_facts_egress.read(source))


def _table(source: Source) -> Dict[str, Any]:
    unknown: Dict[str, Any] = {"present": None, "sha256": None, "uids": None, "lines": None}
    answer = source.command(*LIST)
    if answer is None:
        # Without nft there is no telling whether a table is loaded, only that nobody here can list it.
        return unknown
    rc, out, err = answer
    if rc != 0:
        source.note(" ".join(LIST), err or "exit code %d" % rc)
        return dict(unknown, present=False if ABSENT in err else None)
    # What the resolver puts into its sets comes and goes; it is no part of the rules.
    digest = _nftables.digest(_nftables.comparable(out))
    return {"present": True, "sha256": digest, "uids": bound_uids(out), "lines": len(out.splitlines())}


def recorded(source: Source) -> Optional[str]:
    """Return the digest recorded when the table was loaded; null when there is no record."""
    if not source.exists(RECORD):
        return None
    found = source.record(RECORD)
    return found.get("sha256") if isinstance(found, dict) else None


def bound_uids(listing: str) -> List[int]:
    """Return the uids that the table sends to a chain: the elements `UID : goto CHAIN` of its maps.

    A map counts only if a rule looks the socket's user up in it.
    """
    used = set(re.findall(r"\bskuid vmap @([A-Za-z0-9_]+)", listing))
    maps = re.findall(r"\bmap ([A-Za-z0-9_]+) \{[^{}]*\{([^{}]*)\}", listing)
    return sorted({int(uid) for name, elements in maps if name in used
                   for uid in re.findall(r"([0-9]+) : (?:goto|jump) ", elements)})
