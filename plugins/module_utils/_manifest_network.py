# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. Reads the destinations that an agent may reach: networks and host names."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Tuple, Union

from ._egress import LISTENERS, private_network
from ._manifest_place import Place, show
from ._metadata import endpoint_of, name_of

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

V4_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
THIS_HOST = ("0.0.0.0/32", "::/128")

# ipaddress also reads netmasks and scope ids ("fe80::1%eth0"), and does not look at the text of a scope id.
CIDR = re.compile(r"[0-9A-Fa-f:.]+(/[0-9]{1,3})?")
OURS = ipaddress.IPv4Network(LISTENERS)

LONGEST_NAME = 253  # characters, RFC 1035 without the length bytes
# "_" is no letter of host names, and is in those of some; nothing reads it as syntax.
LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
# What ends in a number is read as an IPv4 address, 0x7f.1 too (WHATWG URL, "ends in a number checker").
NUMERIC = re.compile(r"(^|\.)([0-9]+|0[xX][0-9A-Fa-f]*)\.?$")


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
    if isinstance(network, ipaddress.IPv4Network) and network.subnet_of(OURS):
        return (
            f"{network} is inside {LISTENERS}, where the proxy and the resolver serve the agents",
            "use another loopback address; names are reached without it",
        )
    return None


def read_private_network(value: Any, place: Place) -> str:
    """A network that a name may lead into although it is private."""
    before = len(place.problems)
    cidr = read_cidr(value, place)
    if len(place.problems) == before and not private_network(cidr):
        place.refuse(
            f"{cidr} is not inside a private network, and to public addresses every name may lead",
            "write the private network alone, e.g. 10.20.0.0/24, or remove it",
        )
    return cidr


def read_host(value: Any, place: Place) -> str:
    """A host name, or "*." and a domain: lower case, without the dot at the end."""
    if not isinstance(value, str):
        place.refuse(f"{show(value)} is not a host name", "write it as api.example.org or *.example.org")
        return ""
    text = value.lower()
    text = text[:-1] if text.endswith(".") else text
    refusal = _no_host(value) or _no_name(text) or _no_destination(text)
    if refusal:
        place.refuse(*refusal)
        return ""
    return str(text)


def read_api(value: Any, place: Place) -> str:
    """A single host."""
    name = read_host(value, place)
    if name.startswith("*"):
        place.refuse(f"{show(name)} is more than one host", "write each host whose failures wake somebody")
    return name


def _no_host(value: str) -> Tuple[str, str] | None:
    """What people write where a host name belongs: (problem, remedy)."""
    if not value.isascii():
        return f"{show(value)} is not ASCII", "write its xn-- form, as certificates and DNS have it"
    if "/" in value and not CIDR.fullmatch(value):
        return f"{show(value)} is a URL or a path", "write the host alone, e.g. api.example.org"
    if (CIDR.fullmatch(value.strip("[]")) and _parse(value.strip("[]"))) or NUMERIC.search(value):
        return f"{show(value)} is an address", "write cidr instead of name"
    if ":" in value:
        return f"{show(value)} has a port", "write the port as a key of its own, port: 8443"
    return None


def _no_name(text: str) -> Tuple[str, str] | None:
    """What DNS would not take, and what would allow too much."""
    labels = text.split(".")
    if "*" in labels[0]:
        labels = labels[1:] if labels[0] == "*" else labels
        if len(labels) < 2:
            return f"{show(text)} is more than one domain", "name the domain, e.g. *.example.org"
    if "*" in "".join(labels):
        return (
            f"{show(text)} has a * elsewhere than as its whole first label",
            "write *.example.org, or each name by itself",
        )
    if len(text) > LONGEST_NAME or not all(LABEL.fullmatch(label) for label in labels):
        return (
            f"{show(text)} is not a host name",
            "use labels of a-z, 0-9, - and _, each up to 63 characters, parted by dots, e.g. api.example.org",
        )
    return None


def _no_destination(text: str) -> Tuple[str, str] | None:
    """Names that no agent may, or can, be let through to."""
    endpoint = name_of(text)
    if endpoint:
        return (
            f"{text} is {endpoint} or below it, where clouds hand out the credentials of the host",
            "remove it; no agent may reach it",
        )
    if text.split(".")[-1] == "localhost":
        return f"{text} means this host itself", "write cidr: 127.0.0.1 or ::1 for a service on this host"
    if "." not in text:
        return f"{text} has no domain, and agents search none", "write the whole name, e.g. api.example.org"
    return None
