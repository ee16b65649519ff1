# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. Reads the destinations that an agent may reach."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Tuple, Union

from ._manifest_place import Place, show
from ._metadata import endpoint_of

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

V4_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
THIS_HOST = ("0.0.0.0/32", "::/128")

# ipaddress also reads netmasks and scope ids ("fe80::1%eth0"), and does not look at the text of a scope id.
CIDR = re.compile(r"[0-9A-Fa-f:.]+(/[0-9]{1,3})?")


def read_cidr(value: Any, place: Place) -> str:
    """A destination in the form "10.20.0.0/24". A bare address becomes the network of that one address."""
    network = _parse(value)
    if network is None:
        place.refuse(
            f"{show(value)} is not an address or network",
            "write it as 10.20.0.0/24, 10.20.0.7 or 2001:db8::/32",
        )
        return ""
    address = value.split("/")[0]
    if "/" in value and ipaddress.ip_address(address) != network.network_address:
        place.refuse(
            f"{value} has bits set beyond its prefix",
            f"write {network} for the network, or {address} for the one address",
        )
    refusal = _refusal(network)
    if refusal:
        place.refuse(*refusal)
    return str(network)


def _parse(value: Any) -> Network | None:
    if not isinstance(value, str) or not CIDR.fullmatch(value):
        return None
    try:
        return ipaddress.ip_network(str(value), strict=False)
    except ValueError:
        return None


def _refusal(network: Network) -> Tuple[str, str] | None:
    """Why an agent could never, or must never, be let through to this network: (problem, remedy)."""
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(V4_MAPPED):
        plain = ipaddress.IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
        return f"{network} is IPv4-mapped, and the kernel sends such packets as IPv4", f"write {plain}"
    if str(network) in THIS_HOST:
        return f"{network} means this host itself", "write 127.0.0.1 or ::1 for a service on this host"
    endpoint = endpoint_of(str(network))
    if endpoint:
        return (
            f"{network} is inside {endpoint}, where clouds hand out the credentials of the host",
            "remove it; the firewall denies it to every agent",
        )
    return None
