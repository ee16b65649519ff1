# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. What the resolver of the agents answers to whom, from the resolved manifest.

Its reader is roles/firewall/files/cordon_firewall/settings.py. Pure.
"""

from __future__ import annotations

import ipaddress
import json
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple

from . import _egress

Agent = Mapping[str, Any]
Entry = Mapping[str, Any]


def settings(agents: Iterable[Agent], servers: Sequence[str], proxy_resolves: bool = True) -> Dict[str, Any]:
    """The content of /etc/cordon/resolver.json; always the same for the same manifest.

    servers: whom the resolver asks, IP addresses. proxy_resolves: False where the proxy hands everything to another
    proxy, which resolves the names itself. Raises ValueError.
    """
    ordered = sorted(agents, key=lambda agent: agent["name"])
    listeners = _egress.addresses(ordered)
    clients = [
        _client(agent["name"], listeners[agent["name"]], _egress.direct_names(agent))
        for agent in ordered
        if _egress.needs_resolver(agent)
    ]
    proxied = [entry for agent in ordered for entry in _egress.https_names(agent)]
    if proxied and proxy_resolves:
        clients.append(_client(_egress.PROXY, _egress.PROXY_LISTENS_TO, proxied))
    return {"servers": _checked(servers, bool(clients)), "clients": clients}


def text(agents: Iterable[Agent], servers: Sequence[str], proxy_resolves: bool = True) -> str:
    """The same as the file has it."""
    return json.dumps(settings(agents, servers, proxy_resolves), indent=2, sort_keys=True) + "\n"


def _client(name: str, address: str, entries: Iterable[Entry]) -> Dict[str, Any]:
    return {"name": name, "address": address, "set": name, "names": _names(entries)}


def _names(entries: Iterable[Entry]) -> List[Dict[str, Any]]:
    """One item for each name and the networks that its ports share.

    Of the same name and port (of several agents, for the proxy) the networks are joined: the proxy decides by agent.
    """
    networks: Dict[Tuple[str, str, int], List[str]] = {}
    for entry in entries:
        protocol = "udp" if entry["protocol"] == "udp" else "tcp"
        networks.setdefault((entry["name"], protocol, entry["port"]), []).extend(entry["networks"])
    ports: Dict[Tuple[str, Tuple[str, ...]], List[List[Any]]] = {}
    for (name, protocol, port), found in sorted(networks.items()):
        ports.setdefault((name, tuple(sorted(set(found)))), []).append([protocol, port])
    return [{"name": name, "ports": found, "networks": list(shared)} for (name, shared), found in sorted(ports.items())]


def _checked(servers: Sequence[str], needed: bool) -> List[str]:
    if needed and not servers:
        raise ValueError("the manifest has names, but no DNS server is known: set firewall_dns_servers")
    for server in servers:
        try:
            ours = ipaddress.ip_address(server) in ipaddress.ip_network(_egress.LISTENERS)
        except ValueError as error:
            raise ValueError(f"firewall_dns_servers: {server!r} is no IP address") from error
        if ours:
            raise ValueError(f"firewall_dns_servers: {server} is the resolver itself ({_egress.LISTENERS})")
    return list(servers)
