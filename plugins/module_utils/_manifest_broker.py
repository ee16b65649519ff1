# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. Readers of `secrets[].broker`: the secret that the proxy adds to an agent's requests."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ._manifest_place import Place, show
from ._manifest_values import read_text

# RFC 9110, section 5.6.2, without the characters that squid.conf might read otherwise.
HEADER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
# What a secret may not replace: the message's own frame and way (RFC 9110, 7.6.1; RFC 9112, 6), and what the proxy writes.
FRAME = frozenset({
    "connection", "content-encoding", "content-length", "content-type", "expect", "forwarded", "host", "keep-alive",
    "max-forwards", "te", "trailer", "transfer-encoding", "upgrade", "via", "x-forwarded-for",
})
# What squid's request_header_access means many headers by.
SQUIDS = frozenset({"all", "other"})
ASCII = re.compile(r"[ -~]*")


def read_header(value: Any, place: Place) -> str:
    """The name of a request header."""
    text = read_text(value, place, empty=False)
    if text and not HEADER.fullmatch(text):
        place.refuse(f"{show(text)} is not the name of a header", "write it as Authorization or X-Api-Key")
    elif text.lower() in FRAME or text.lower().startswith("proxy-"):
        place.refuse(f"{text} tells how the request is carried, and no secret belongs there",
                     "write the header that the service reads its key from, e.g. Authorization")
    elif text.lower() in SQUIDS:
        place.refuse(f"{text} is squid's word for many headers", "write the header that the service reads its key from")
    return text


def read_prefix(value: Any, place: Place) -> str:
    """What stands before the secret in the header."""
    return _ascii(read_text(value, place), place)


def read_user(value: Any, place: Place) -> Optional[str]:
    """The user of RFC 7617, of whom the secret is the password."""
    if value is None:
        return None
    text = _ascii(read_text(value, place, empty=False), place)
    if ":" in text:
        place.refuse(f"{show(text)} has a colon, which ends the user", "write the user alone; the password is the secret")
    return text


def _ascii(text: str, place: Place) -> str:
    if not ASCII.fullmatch(text):
        place.refuse(f"{show(text)} is not ASCII, and headers are", "use printable ASCII characters")
    return text


def refuse_contradictions(secrets: List[Dict[str, Any]], place: Place) -> None:
    """What each key alone cannot tell. place: of the list of secrets."""
    first: Dict[Tuple[Any, ...], str] = {}
    for index, secret in enumerate(secrets):
        broker = secret["broker"]
        if not broker:
            continue
        at = place.item(index)
        if secret["tools"]:
            at.member("tools").refuse("no program reads a secret that the proxy adds", "leave tools out, or broker")
        if broker["user"] is not None and broker["prefix"]:
            at.member("broker").member("prefix").refuse("a user makes the header `Basic ...` by itself",
                                                        "leave prefix out, or user")
        same = first.setdefault(_where(broker), secret["name"])
        if same != secret["name"]:
            at.member("broker").refuse(f"the secret {same} is already the {broker['header']} of {broker['host']}",
                                       "give each host and header one secret; who needs two, needs two agents")


def _where(broker: Mapping[str, Any]) -> Tuple[Any, ...]:
    return broker["host"], broker["port"], broker["header"].lower()


def entry_of(broker: Mapping[str, Any], egress: List[Dict[str, Any]]) -> Optional[int]:
    """The number of the one entry that grants the host by its exact name; None where there is none."""
    for number, entry in enumerate(egress):
        if (entry.get("name"), entry["port"], entry["protocol"]) == (broker["host"], broker["port"], "https"):
            return number
    return None
