# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. The firewall as text: what the resolved manifest allows becomes the body of our table.

Pure: agents in, text out. The way of a packet is drawn in docs/firewall.md. Users appear as variables
(``$uid_autopilot``), because their numbers are known on the target only: the module defines them.

Statement syntax: nft(8) of nftables 1.0.2 (Ubuntu 22.04) and later.
"""
from __future__ import annotations

import ipaddress
from typing import Any, Dict, Iterable, List, Tuple

from ._metadata import NETWORKS

# Each agent has its own limits, so that one that floods cannot hide what another does. The counter in front of the
# limit counts every refused packet, logged or not.
DENIED_LOGS = "limit rate 10/second burst 50 packets"
ALLOWED_LOGS = "limit rate 20/second burst 100 packets"

PROTOCOLS = ("tcp", "udp")


def users(agents: Iterable[Dict[str, Any]]) -> Dict[str, str]:
    """Which user each variable of the text stands for: {"uid_autopilot": "agent-autopilot"}."""
    return {variable(agent["name"]): agent["user"] for agent in agents}


def variable(name: str) -> str:
    """The nft variable that holds the number of this agent's user."""
    return f"uid_{name}"


def body(agents: Iterable[Dict[str, Any]]) -> str:
    """What stands between the braces of ``table inet cordon``; always the same text for the same manifest."""
    ordered = sorted(agents, key=lambda agent: agent["name"])
    blocks = [*_metadata_sets()]
    for agent in ordered:
        blocks += [*_allowed_sets(agent), *_counters(agent["name"])]
    blocks.append(_refuse())
    for agent in ordered:
        blocks += [*_verdicts(agent["name"]), _egress(agent)]
    blocks += [_agents_map(ordered), _output()]
    return "\n".join(blocks)


def destinations(egress: Iterable[Dict[str, Any]], version: int, log: bool) -> List[str]:
    """The allowlist of one IP version as set elements: ["10.20.0.0/24 . tcp . 5432", ...].

    Overlapping and adjacent networks of one port are merged: the kernel refuses overlapping elements.
    """
    networks: Dict[Tuple[str, int], List[Any]] = {}
    for entry in egress:
        network = ipaddress.ip_network(entry["cidr"])
        if entry["protocol"] not in PROTOCOLS:
            raise ValueError(f"protocol {entry['protocol']!r} is none of {', '.join(PROTOCOLS)}")
        if network.version == version and entry["log"] == log:
            networks.setdefault((entry["protocol"], entry["port"]), []).append(network)
    return [
        f"{_text(network)} . {protocol} . {port}"
        for (protocol, port), found in sorted(networks.items())
        for network in ipaddress.collapse_addresses(found)
    ]


def _block(kind: str, name: str, lines: Iterable[str]) -> str:
    inside = "".join(f"\t\t{line}\n" for line in lines)
    return f"\t{kind} {name} {{\n{inside}\t}}\n"


def _set(name: str, kind: str, elements: List[str]) -> str:
    listed = ",\n\t\t\t".join(elements)
    return _block("set", name, [f"type {kind}", "flags interval", f"elements = {{\n\t\t\t{listed}\n\t\t}}"])


def _metadata_sets() -> List[str]:
    networks = [ipaddress.ip_network(cidr) for cidr in NETWORKS]
    return [
        _set(f"metadata{version}", f"ipv{version}_addr", _collapsed(networks, version)) for version in (4, 6)
    ]


def _collapsed(networks: Iterable[Any], version: int) -> List[str]:
    chosen = [network for network in networks if network.version == version]
    return [_text(network) for network in ipaddress.collapse_addresses(chosen)]


def _text(network: Any) -> str:
    """A network as text, the same whatever Python the controller has.

    Python 3.13 began to write IPv4-mapped addresses with dots: two controllers would render two texts,
    and each run of the other one would report a change.
    """
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None:
        return str(network)
    number = int(mapped)
    return f"::ffff:{number >> 16:x}:{number & 0xFFFF:x}/{network.prefixlen}"


# (name of the set without version and agent, whether a new flow through it is logged)
_LISTS = (("quiet", False), ("allowed", True))


def _allowed_sets(agent: Dict[str, Any]) -> List[str]:
    sets = []
    for kind, log in _LISTS:
        for version in (4, 6):
            elements = destinations(agent["egress"], version, log)
            if elements:
                key = f"ipv{version}_addr . inet_proto . inet_service"
                sets.append(_set(f"{kind}{version}_{agent['name']}", key, elements))
    return sets


def _counters(name: str) -> List[str]:
    # Their values are state: `nft --stateless` leaves them out, so counting is no drift.
    return [_block("counter", f"{kind}_{name}", []) for kind in ("denied", "metadata")]


def _refuse() -> str:
    """An answer at once, so that a program gets an error and no timeout.

    TCP: a reset ends a new attempt (ECONNREFUSED) and a flow that a narrower allowlist cuts (ECONNRESET); an ICMP
    error would leave the second hanging, because TCP takes it for passing trouble (RFC 1122, 4.2.3.9).
    All else: the send itself fails (EPERM), and the ICMP error says why to those who listen for it.
    """
    return _block("chain", "refuse", ["meta l4proto tcp reject with tcp reset", "reject with icmpx admin-prohibited"])


def _verdicts(name: str) -> List[str]:
    """The ends of an agent's way: metadata and denied count, log and refuse; allowed logs a new flow and accepts."""
    ends = [_block("chain", f"{kind}_{name}", [
        f'counter name "{kind}_{name}"',
        f'{DENIED_LOGS} {_log(name, kind)}',
        "goto refuse",
    ]) for kind in ("metadata", "denied")]
    ends.append(_block("chain", f"allowed_{name}", [f"ct state new {ALLOWED_LOGS} {_log(name, 'allowed')}", "accept"]))
    return ends


def _log(name: str, kind: str) -> str:
    return f'log prefix "cordon:{name}:{kind} " level info flags skuid'


def _egress(agent: Dict[str, Any]) -> str:
    name = agent["name"]
    lines = [
        f"ip daddr @metadata4 goto metadata_{name}",
        f"ip6 daddr @metadata6 goto metadata_{name}",
        # Source routing: the header names an allowed first hop, the option names where it really goes.
        f"ip hdrlength > 5 goto denied_{name}",
        f"exthdr rt exists goto denied_{name}",
    ]
    for side in ("answers", "requests"):
        for kind, log in _LISTS:
            for version in (4, 6):
                if destinations(agent["egress"], version, log):
                    lines.append(_match(side, kind, version, name))
        if side == "answers":
            # What else answers somebody who connected to the agent is a channel that nobody allowed.
            lines.append(f"ct direction reply goto denied_{name}")
    return _block("chain", f"egress_{name}", [*lines, f"goto denied_{name}"])


def _match(side: str, kind: str, version: int, name: str) -> str:
    """One line for one set. Requests are matched by where they go, answers by the granted place that they come from."""
    family = "ip" if version == 4 else "ip6"
    verdict = f"goto allowed_{name}" if kind == "allowed" else "accept"
    if side == "requests":
        return f"{family} daddr . meta l4proto . th dport @{kind}{version}_{name} {verdict}"
    # Only within this host: whoever is granted 127.0.0.1:8080 may also serve there, to itself or another local program.
    return f"ct direction reply oif lo {family} saddr . meta l4proto . th sport @{kind}{version}_{name} accept"


def _agents_map(agents: List[Dict[str, Any]]) -> str:
    elements = ",\n\t\t\t".join(f"${variable(agent['name'])} : goto egress_{agent['name']}" for agent in agents)
    lines = ["type uid : verdict"] + ([f"elements = {{\n\t\t\t{elements}\n\t\t}}"] if agents else [])
    return _block("map", "agents", lines)


def _output() -> str:
    # Before the filter chains of ufw, firewalld and Docker: they may refuse more, they cannot allow again.
    return _block("chain", "output", [
        "type filter hook output priority filter - 10; policy accept;",
        "meta skuid vmap @agents",
    ])
