# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role wrote to /etc/cordon/resolver.json: whom the resolver serves, and which names it answers to whom."""

from __future__ import annotations

import ipaddress
import json
import re
from pathlib import Path
from typing import Any, NamedTuple, Tuple

# What becomes part of an nft command. The names of agents are narrower, and the proxy's begins with "_".
_SET = re.compile(r"[a-z0-9_][a-z0-9_-]{0,62}")
PROTOCOLS = ("tcp", "udp")


class Grant(NamedTuple):
    """One name (or "*.name"), what may be connected to under it, and the private networks that it may lead into."""

    name: str
    ports: Tuple[Tuple[str, int], ...]  # (("tcp", 22),)
    networks: Tuple[str, ...]


class Client(NamedTuple):
    """An agent, or the proxy: who asks is told by the address that was asked. set: what named4_ and named6_ end in."""

    name: str
    address: str
    set: str
    grants: Tuple[Grant, ...]


class Settings(NamedTuple):
    """The whole file. servers: addresses of the resolvers that are asked in turn."""

    servers: Tuple[str, ...]
    clients: Tuple[Client, ...]


def read(path: Path) -> Settings:
    """Raises OSError or ValueError, which names the file and what is wrong with it."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return parse(data)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error!r} is missing or has the wrong form: run the role firewall again") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def parse(data: Any) -> Settings:
    """Check what would otherwise fail with a question at hand, or become another nft command."""
    servers = tuple(str(ipaddress.ip_address(server)) for server in data["servers"])
    if data["clients"] and not servers:
        raise ValueError("servers is empty: name the DNS servers that this host may ask")
    clients = tuple(_client(client) for client in data["clients"])
    if len({client.address for client in clients}) != len(clients):
        raise ValueError("two clients have one address: the answers of one would open the firewall for the other")
    return Settings(servers, clients)


def _client(data: Any) -> Client:
    if not _SET.fullmatch(data["set"]):
        raise ValueError(f"clients: {data['set']!r} is no name of a set")
    address = str(ipaddress.IPv4Address(data["address"]))
    return Client(data["name"], address, data["set"], tuple(_grant(name) for name in data["names"]))


def _grant(data: Any) -> Grant:
    ports = tuple((protocol, int(port)) for protocol, port in data["ports"])
    for protocol, port in ports:
        if protocol not in PROTOCOLS or not 0 < port < 65536:
            raise ValueError(f"names: {data['name']}: [{protocol!r}, {port}] is no protocol and port")
    networks = tuple(str(ipaddress.ip_network(network)) for network in data["networks"])
    return Grant(data["name"], ports, networks)
