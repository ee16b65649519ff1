# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of a question, and of the addresses in an answer. Pure: no packet is read or sent here."""

from __future__ import annotations

import ipaddress
import re
from typing import Callable, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from cordon import _egress, _metadata

from .settings import Client, Grant

INTERNET = 1  # class IN, RFC 1035 3.2.4
TYPES = {1: "A", 28: "AAAA"}
# A zone can hold any octet, a host name cannot (RFC 952, 1123; "_" is common in names of services). What is refused
# here can neither smuggle octets to a zone nor look like another name once it is text.
_LABEL = re.compile(rb"[A-Za-z0-9_-]{1,63}")
# A set has room for 65535 elements, and no program tries more addresses than a few.
MOST_ADDRESSES = 32

Element = Tuple[str, str, int]  # address, protocol, port
Own = Callable[[str], bool]  # whether an address is this host's own


class Decision(NamedTuple):
    """ask: under this name, lower case, the upstream is asked. Otherwise why not; empty: the name is allowed though."""

    ask: Optional[str]
    grants: Tuple[Grant, ...] = ()
    reason: str = ""
    empty: bool = False


class Opening(NamedTuple):
    """The addresses that are handed out, the elements that open the firewall to them, and what was left out and why."""

    addresses: Tuple[str, ...]
    elements: Tuple[Element, ...]
    dropped: Tuple[str, ...]


def decide(client: Client, labels: Sequence[bytes], kind: int, internet: int = INTERNET) -> Decision:
    """Decide about a question by its labels (without the root's), type and class."""
    name = host_name(labels)
    if name is None:
        return Decision(None, reason="it is no host name")
    if _metadata.name_of(name):
        return Decision(None, reason="it is the name of a metadata service")
    grants = grants_for(client.grants, name)
    if not grants:
        return Decision(None, reason="the manifest does not allow it")
    if internet != INTERNET:
        return Decision(None, reason="its class is not IN")
    if kind not in TYPES:
        return Decision(None, grants, "only addresses are given", empty=True)
    return Decision(name, grants)


def host_name(labels: Sequence[bytes]) -> Optional[str]:
    """The name as text in lower case, so that its spelling carries nothing; None where it is no host name."""
    if not labels or not all(_LABEL.fullmatch(label) for label in labels):
        return None
    return b".".join(labels).decode("ascii").lower()


def grants_for(grants: Iterable[Grant], name: str) -> Tuple[Grant, ...]:
    """The grants that mean this name, the most specific first: the exact one, then from the longest wildcard on."""
    found = [grant for grant in grants if _egress.matches(grant.name, name)]
    return tuple(sorted(found, key=lambda grant: (grant.name.startswith("*"), -len(grant.name))))


def leads_to_metadata(names: Iterable[str]) -> Optional[str]:
    """The first of these names (an answer's aliases) that is a metadata service's."""
    return next((name for name in names if _metadata.name_of(name)), None)


def open_for(grants: Sequence[Grant], addresses: Iterable[str], own: Own) -> Opening:
    """Sort out an answer's addresses. Each port is decided by the most specific grant that has it."""
    kept: List[str] = []
    elements: List[Element] = []
    dropped: List[str] = []
    for address in dict.fromkeys(addresses):
        if len(kept) == MOST_ADDRESSES:
            dropped.append(f"{address} is one address too many: an answer has {MOST_ADDRESSES} at most")
            continue
        refusals: List[str] = []
        ports = _ports(grants, address, own, refusals)
        if ports:
            kept.append(address)
            elements += [(address, protocol, port) for protocol, port in ports]
        else:
            dropped += refusals[:1]
    return Opening(tuple(kept), tuple(elements), tuple(dropped))


def _ports(grants: Sequence[Grant], address: str, own: Own, refusals: List[str]) -> List[Tuple[str, int]]:
    """What may be connected to at this address; why not goes into refusals."""
    decided: List[Tuple[str, int]] = []
    opened: List[Tuple[str, int]] = []
    for grant in grants:
        fresh = [port for port in grant.ports if port not in decided]
        decided += fresh
        why = _refusal(address, grant.networks, own)
        if why is None:
            opened += fresh
        elif fresh:
            refusals.append(why)
    return opened


def _refusal(address: str, networks: Iterable[str], own: Own) -> Optional[str]:
    parsed = ipaddress.ip_address(address)
    # The kernel sends to the IPv4 address inside, so the element could never match (RFC 4291, 2.5.5.2).
    if getattr(parsed, "ipv4_mapped", None) is not None:
        return f"{address} is an IPv4 address in the form of IPv6"
    if parsed.is_multicast or parsed.is_unspecified or parsed == ipaddress.IPv4Address("255.255.255.255"):
        return f"{address} is no address of one host"
    return _egress.refusal(address, networks, own)
