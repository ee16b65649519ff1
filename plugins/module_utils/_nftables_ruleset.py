# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. The firewall as text: what the resolved manifest allows becomes the body of our table.

Pure: agents in, text out. The way of a packet is drawn in docs/firewall.md. Users appear as variables
(``$uid_autopilot``), because their numbers are known on the target only: the module defines them.

Names are no business of a packet filter: the resolver puts the addresses behind them into sets whose elements expire.
What the proxy and the resolver themselves may send is in chains like an agent's.

Statement syntax: nft(8) of nftables 1.0.2 (Ubuntu 22.04) and later.
"""
from __future__ import annotations

import ipaddress
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple

from . import _egress
from ._egress_proxy import TLS_PORT
from ._metadata import NETWORKS

# Each agent has its own limits, so that one that floods cannot hide what another does. The counter in front of the
# limit counts every refused packet, logged or not.
DENIED_LOGS = "limit rate 10/second burst 50 packets"
ALLOWED_LOGS = "limit rate 20/second burst 100 packets"

# The table of connections is the whole host's: 65536 of them from 1 GB of memory on, 262144 from 4 GB on (kernel,
# nf_conntrack_init_start). One agent takes 20192 at most: so many that live, and those that were begun within the two minutes
# for which a closed TCP connection stays (nf_conntrack_tcp_timeout_time_wait), which `ct count` does not count. For what it
# has the proxy do that is three times as many, its own, the proxy's to itself and the proxy's outwards: even these fit.
# The rate comes first: the kernel walks the list of those that live for each new one.
FLOWS = 4096
NEW_FLOWS_A_SECOND = 100
NEW_FLOWS = f"limit rate over {NEW_FLOWS_A_SECOND}/second burst {FLOWS} packets"
# The first packet of a flow. Not "ct state new": that is every packet until the other side answers, and who sends logs by
# UDP never gets an answer.
FIRST = "ct status & confirmed != confirmed"

PROTOCOLS = ("tcp", "udp")

# Elements of one set of answers: what the kernel keeps for it stays below ten megabytes.
NAMED_SIZE = 65535

# Who is neither an agent nor one of the two services. No agent's name begins with "_".
OTHERS = "_others"


def users(agents: Iterable[Dict[str, Any]], metadata_users: Optional[Iterable[str]] = None) -> Dict[str, str]:
    """Which user each variable of the text stands for: {"uid_autopilot": "agent-autopilot"}."""
    listed = list(agents)
    asking = _asking(metadata_users)
    found = {variable(agent["name"]): agent["user"] for agent in listed}
    return {**found, **{variable(name): _egress.USERS[name] for name in _egress.services(listed)}, **asking}


def _asking(metadata_users: Optional[Iterable[str]]) -> Dict[str, str]:
    """The users, other than root, who may ask metadata endpoints where not everybody but agents may."""
    named = sorted({user for user in metadata_users or () if user != "root"})
    return {variable(f"_metadata_{number}"): user for number, user in enumerate(named)}


def variable(name: str) -> str:
    """The nft variable that holds the number of this agent's user."""
    return f"uid_{name}"


def body(
    agents: Iterable[Dict[str, Any]], services: Optional[Mapping[str, Any]] = None, metadata_users: Optional[Iterable[str]] = None
) -> str:
    """What stands between the braces of ``table inet cordon``; always the same text for the same manifest.

    services: {"upstream_proxy": None or {"address": "192.0.2.8", "port": 8080}, "dns_servers": ["192.0.2.53"]}, where
    the proxy and the resolver send to. A host without a name in its manifest has neither.
    metadata_users: who of all other users may ask metadata endpoints, beside root; None: everybody.
    """
    ordered = sorted(agents, key=lambda agent: agent["name"])
    helpers = _egress.services(ordered)
    listeners = _egress.addresses(ordered) if helpers else {}
    blocks = [*_metadata_sets()]
    for agent in ordered:
        blocks += [*_allowed_sets(agent), *_counters(agent["name"]), _counter("flood", agent["name"])]
        blocks += _named_sets(agent["name"]) if _egress.needs_resolver(agent) else []
    for name in helpers:
        blocks += [*_counters(name), *(_named_sets(name) if name == _egress.PROXY else [])]
    blocks.append(_refuse())
    for agent in ordered:
        blocks += [*_verdicts(agent["name"]), *_named_chain(agent), _way(agent, listeners.get(agent["name"]))]
    blocks += _service_chains(ordered, helpers, services or {}) if helpers else []
    blocks += _others(helpers, metadata_users is not None)
    blocks += [_agents_map([*(agent["name"] for agent in ordered), *helpers]), _output(helpers, metadata_users)]
    return "\n".join(blocks)


def destinations(egress: Iterable[Dict[str, Any]], version: int, log: bool) -> List[str]:
    """The allowlist of one IP version as set elements: ["10.20.0.0/24 . tcp . 5432", ...].

    Overlapping and adjacent networks of one port are merged: the kernel refuses overlapping elements.
    """
    networks: Dict[Tuple[str, int], List[Any]] = {}
    for entry in egress:
        if "name" in entry:
            continue
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
    return [_counter(kind, name) for kind in ("denied", "metadata")]


def _counter(kind: str, name: str) -> str:
    return _block("counter", f"{kind}_{name}", [])


def _refuse() -> str:
    """An answer at once, so that a program gets an error and no timeout.

    TCP: a reset ends a new attempt (ECONNREFUSED) and a flow that a narrower allowlist cuts (ECONNRESET); an ICMP
    error would leave the second hanging, because TCP takes it for passing trouble (RFC 1122, 4.2.3.9).
    All else: the send itself fails (EPERM), and the ICMP error says why to those who listen for it.
    """
    return _block("chain", "refuse", ["meta l4proto tcp reject with tcp reset", "reject with icmpx admin-prohibited"])


def _verdicts(name: str) -> List[str]:
    """The ends of an agent's way: three that count, log and refuse, and two that accept, of which one logs a new flow."""
    return [
        *(_refusal(name, kind) for kind in ("metadata", "denied", "flood")),
        _block("chain", f"flows_{name}", [
            f"{FIRST} {NEW_FLOWS} goto flood_{name}",
            f"{FIRST} ct count over {FLOWS} goto flood_{name}",
        ]),
        _block("chain", f"quiet_{name}", [f"jump flows_{name}", "accept"]),
        _block("chain", f"allowed_{name}", [f"jump flows_{name}", _log_new(name), "accept"]),
    ]


def _refusal(name: str, kind: str) -> str:
    return _block("chain", f"{kind}_{name}", [
        f'counter name "{kind}_{name}"',
        f'{DENIED_LOGS} {_log(name, kind)}',
        "goto refuse",
    ])


def _log_new(name: str) -> str:
    return f"ct state new {ALLOWED_LOGS} {_log(name, 'allowed')}"


def _log(name: str, kind: str) -> str:
    return f'log prefix "cordon:{name}:{kind} " level info flags skuid'


def _way(agent: Dict[str, Any], listener: Optional[str]) -> str:
    """The chain of an agent. listener: its address of the proxy and the resolver, where this host has any."""
    name = agent["name"]
    lists = [(kind, version) for kind, log in _LISTS for version in (4, 6)
             if destinations(agent["egress"], version, log)]
    lines = _never(name)
    if listener:
        # Even where all of loopback is granted, nobody passes for the proxy or the resolver.
        lines.append(f"ct direction reply ip saddr {_egress.LISTENERS} goto denied_{name}")
    lines += [_match("answers", kind, version, name) for kind, version in lists]
    # What else answers somebody who connected to the agent is a channel that nobody allowed.
    lines.append(f"ct direction reply goto denied_{name}")
    if listener:
        lines += [*_listener(agent, listener), f"ip daddr {_egress.LISTENERS} goto denied_{name}"]
    lines += [_match("requests", kind, version, name) for kind, version in lists]
    if _egress.needs_resolver(agent):
        lines += _named(name, _egress.direct_names(agent))
    return _block("chain", f"egress_{name}", [*lines, f"goto denied_{name}"])


def _never(name: str) -> List[str]:
    return [
        f"ip daddr @metadata4 goto metadata_{name}",
        f"ip6 daddr @metadata6 goto metadata_{name}",
        # Source routing: the header names an allowed first hop, the option names where it really goes.
        f"ip hdrlength > 5 goto denied_{name}",
        f"exthdr rt exists goto denied_{name}",
    ]


def _listener(agent: Dict[str, Any], listener: str) -> List[str]:
    """An agent's way to its own proxy port and its own resolver port. They log; the kernel need not."""
    lines = []
    if _egress.needs_proxy(agent):
        lines.append(f"ip daddr {listener} tcp dport {_egress.PROXY_PORT} goto quiet_{agent['name']}")
    if _egress.needs_resolver(agent):
        lines.append(f"ip daddr {listener} {_dns('d')} goto quiet_{agent['name']}")
    return lines


def _dns(side: str) -> str:
    return f"meta l4proto {{ tcp, udp }} th {side}port {_egress.DNS_PORT}"


def _named_sets(name: str) -> List[str]:
    """Filled by the resolver: address, protocol and port, for as long as the answer holds."""
    return [_block("set", found, [
        f"type ipv{version}_addr . inet_proto . inet_service", f"size {NAMED_SIZE}", "flags timeout",
    ]) for version, found in zip((4, 6), _egress.sets(name))]


def _named(name: str, entries: List[Dict[str, Any]]) -> List[str]:
    """What the resolver answered may be reached; what was reached so may go on when the answer has run out.

    Only under the mark of this very list of names, and only once the other side has answered.
    """
    four, six = _egress.sets(name)
    return [
        f"ip daddr . meta l4proto . th dport @{four} goto named_{name}",
        f"ip6 daddr . meta l4proto . th dport @{six} goto named_{name}",
        f"ct mark {_mark(name, entries)} ct state established accept",
    ]


def _mark(name: str, entries: List[Dict[str, Any]]) -> str:
    return f"0x{_egress.mark(name, entries):08x}"


def _named_chain(agent: Dict[str, Any]) -> List[str]:
    entries = _egress.direct_names(agent)
    if not entries:
        return []
    name = agent["name"]
    return [_block("chain", f"named_{name}", [
        *_not_back(name, entries),
        f"ct mark set {_mark(name, entries)}",
        f"jump flows_{name}",
        *_named_log(name, entries),
        "accept",
    ])]


def _not_back(name: str, entries: List[Dict[str, Any]]) -> List[str]:
    """No name leads back into this host by an address of its own, but for what the entries grant.

    The resolver leaves such answers out; here are those addresses that became this host's since.
    """
    networks = [ipaddress.ip_network(cidr) for entry in entries for cidr in entry["networks"]]
    granted = {version: _collapsed(networks, version) for version in (4, 6)}
    if not networks:
        return [f"oif lo goto denied_{name}"]
    return [f"oif lo {_elsewhere(version, found)} goto denied_{name}" for version, found in granted.items()]


def _elsewhere(version: int, networks: List[str]) -> str:
    if not networks:
        return f"meta nfproto ipv{version}"
    return f"{'ip' if version == 4 else 'ip6'} daddr != {{ {', '.join(networks)} }}"


def _named_log(name: str, entries: List[Dict[str, Any]]) -> List[str]:
    """A packet has no name, but a port: it logs where one of the names with this port does."""
    def ports(log: bool) -> List[str]:
        return sorted({f"{'udp' if entry['protocol'] == 'udp' else 'tcp'} . {entry['port']}"
                       for entry in entries if entry["log"] == log})

    logged = ports(True)
    if not logged:
        return []
    only = f"meta l4proto . th dport {{ {', '.join(logged)} }} " if set(ports(False)) - set(logged) else ""
    return [only + _log_new(name)]


def _service_chains(agents: List[Dict[str, Any]], helpers: List[str], services: Mapping[str, Any]) -> List[str]:
    upstream, servers = _upstream(services.get("upstream_proxy")), _servers(services.get("dns_servers") or ())
    if not upstream and not servers:
        raise ValueError("the manifest grants names, and there is no DNS server to ask: name one in dns_servers")
    proxied = [entry for agent in agents for entry in _egress.https_names(agent)]
    blocks = []
    for name in helpers:
        blocks += [_refusal(name, kind) for kind in ("metadata", "denied")]
        blocks += _proxy(upstream, proxied) if name == _egress.PROXY else [_resolver(servers)]
    return blocks


# squid and an external_acl helper meet on loopback, on a port that the kernel picks. It may be any (ip_local_port_range), so
# what counts is that both ends are the proxy's: it may begin such a connection, and nobody else may answer in it.
_LOCALHOST = "127.0.0.1"
_BOTH_LOCAL = f"oif lo ip saddr {_LOCALHOST} ip daddr {_LOCALHOST} meta l4proto tcp"
_HELPERS = f"0x{_egress.mark(_egress.PROXY + ' and its helpers', []):08x}"


# The proxy's mark stays the same whatever the manifest grants: it ends the tunnels that are granted no more by itself, and
# a longer list must not cut those of all agents.
ITS_OWN: List[Dict[str, Any]] = []


def _proxy(upstream: List[str], entries: List[Dict[str, Any]]) -> List[str]:
    """What the proxy may send: answers to agents, questions to the resolver, and requests where the answers lead."""
    name = _egress.PROXY
    chain = _block("chain", f"egress_{name}", [
        *_never(name),
        # Its own parts talk to each other over loopback: the first listener to the second, and squid to its helpers.
        # ... and its reload asks its state.
        f"oif lo ip daddr {_egress.PROXY_LISTENS_TO} tcp dport {_egress.PROXY_PORT} accept",
        f"oif lo ip daddr {_egress.LISTENERS} tcp dport {TLS_PORT} accept",
        f"ct direction original ct state new {_BOTH_LOCAL} ct mark set {_HELPERS} accept",
        f"{_BOTH_LOCAL} ct mark {_HELPERS} accept",
        f"ct direction reply oif lo ip saddr {_egress.LISTENERS} tcp sport {{ {_egress.PROXY_PORT}, {TLS_PORT} }} accept",
        f"ct direction reply goto denied_{name}",
        f"ip daddr {_egress.PROXY_LISTENS_TO} {_dns('d')} accept",
        *(upstream or _named(name, ITS_OWN)),
        f"goto denied_{name}",
    ])
    # It has a log of its own, with names.
    marked = [*_not_back(name, entries), f"ct mark set {_mark(name, ITS_OWN)}", "accept"]
    return [*([] if upstream else [_block("chain", f"named_{name}", marked)]), chain]


def _upstream(upstream: Optional[Mapping[str, Any]]) -> List[str]:
    if not upstream:
        return []
    if not isinstance(upstream, dict) or set(upstream) != {"address", "port"}:
        raise ValueError("upstream_proxy is no mapping of address and port: write {address: 192.0.2.8, port: 8080}")
    address, port = _address("upstream_proxy.address", upstream["address"]), upstream["port"]
    if not isinstance(port, int) or not 1 <= port <= 65535:
        raise ValueError(f"upstream_proxy.port: {port!r} is not a port: write 1 to 65535, without quotes")
    return [f"{_family(address)} daddr {address} tcp dport {port} accept"]


def _servers(texts: Iterable[str]) -> List[Any]:
    # A zone (fe80::1%eth0) is no part of a packet's address.
    found = {_address(f"dns_servers[{index}]", str(text).split("%", maxsplit=1)[0]) for index, text in enumerate(texts)}
    return sorted(found, key=lambda address: (address.version, address))


def _address(place: str, text: Any) -> Any:
    try:
        return ipaddress.ip_address(str(text))
    except ValueError:
        raise ValueError(f"{place}: {text!r} is not an address: write one, e.g. 192.0.2.53") from None


def _family(address: Any) -> str:
    return "ip" if address.version == 4 else "ip6"


def _resolver(servers: List[Any]) -> str:
    """What the resolver may send: answers to agents and the proxy, and questions to the servers of this host.

    The servers come first: some clouds' are among the metadata addresses (Azure 168.63.129.16, Google 169.254.169.254).
    """
    name = _egress.RESOLVER
    return _block("chain", f"egress_{name}", [
        *(f"ct direction original {_family(server)} daddr {server} {_dns('d')} accept" for server in servers),
        *_never(name),
        f"ct direction reply oif lo ip saddr {_egress.LISTENERS} {_dns('s')} accept",
        f"goto denied_{name}",
    ])


def _match(side: str, kind: str, version: int, name: str) -> str:
    """One line for one set. Requests are matched by where they go, answers by the granted place that they come from."""
    family = "ip" if version == 4 else "ip6"
    if side == "requests":
        return f"{family} daddr . meta l4proto . th dport @{kind}{version}_{name} goto {kind}_{name}"
    # Only within this host: whoever is granted 127.0.0.1:8080 may also serve there, to itself or another local program.
    return f"ct direction reply oif lo {family} saddr . meta l4proto . th sport @{kind}{version}_{name} accept"


def _agents_map(names: List[str]) -> str:
    elements = ",\n\t\t\t".join(f"${variable(name)} : goto egress_{name}" for name in names)
    lines = ["type uid : verdict"] + ([f"elements = {{\n\t\t\t{elements}\n\t\t}}"] if names else [])
    return _block("map", "agents", lines)


def _others(helpers: List[str], metadata: bool) -> List[str]:
    """Everybody else on this host: what an agent's listener is told, its log says of the agent.

    Root too, but for the page by which the proxy tells its state: our own checks ask for it.
    """
    state = f"meta skuid 0 ip daddr {_egress.PROXY_LISTENS_TO} tcp dport {_egress.PROXY_PORT} accept"
    blocks = [_counter("metadata", OTHERS), _refusal(OTHERS, "metadata")] if metadata else []
    if helpers:
        blocks += [_counter("denied", OTHERS), _refusal(OTHERS, "denied"), _block("chain", "others", [
            *([state] if _egress.PROXY in helpers else []),
            f"goto denied_{OTHERS}",
        ])]
    return blocks


def _output(helpers: List[str], metadata_users: Optional[Iterable[str]]) -> str:
    # Before the filter chains of ufw, firewalld and Docker: they may refuse more, they cannot allow again.
    lines = ["type filter hook output priority filter - 10; policy accept;"]
    if _egress.PROXY in helpers:
        lines.append(f"ct mark {_HELPERS} ct direction reply meta skuid != ${variable(_egress.PROXY)}"
                     f" goto denied_{_egress.PROXY}")
    lines.append("meta skuid vmap @agents")
    if helpers:
        # Only what has an owner: a reset by which the kernel says that nobody listens has none. From there too, so that
        # nobody passes for a listener that is down.
        lines += [f"ip {side}addr {_egress.LISTENERS} meta skuid >= 0 goto others" for side in "ds"]
    if metadata_users is not None:
        # Root is always among them: it can become any of them.
        asking = ", ".join(["0", *(f"${name}" for name in _asking(metadata_users))])
        lines += [f"{family} daddr @metadata{version} meta skuid != {{ {asking} }} goto metadata_{OTHERS}"
                  for family, version in (("ip", 4), ("ip6", 6))]
    return _block("chain", "output", lines)
