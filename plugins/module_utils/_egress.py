# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. Egress by name: what the packet filter, the proxy, the resolver and the units agree on.

Every agent has one loopback address, and whatever serves that agent listens there: the proxy for its https names, the
resolver for its other names. The packet filter lets an agent reach its own address only, so who asks is told by where
the question arrives and never by what it says. Pure; the entries are those of a resolved manifest (docs/manifest.md).
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Tuple, Union

from ._metadata import embedded, endpoint_of, name_of

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
Agent = Mapping[str, Any]
Entry = Dict[str, Any]

LISTENERS = "127.99.0.0/16"  # everything in it is ours: no agent may serve there, none reaches another's
PROXY_PORT = 3128
DNS_PORT = 53
PROXY_LISTENS_TO = "127.99.255.1"  # where the resolver serves the proxy

# The two services have a user, a chain and two sets of their own; no agent's name begins with "_".
PROXY, RESOLVER = "_proxy", "_resolver"
USERS = {PROXY: "cordon-proxy", RESOLVER: "cordon-resolver"}

# Not below /etc/cordon, of which agents may read nothing.
TRUST = "/usr/lib/cordon/trust"
CA_BUNDLE = f"{TRUST}/ca-bundle.pem"
JAVA_TRUST_STORE = f"{TRUST}/java-trust-store"
JAVA_TRUST_STORE_PASSWORD = "changeit"  # Java's own default; the store holds public certificates only

# Where a name may not lead unless its entry grants it (networks): this host, its neighbours, and nobody's addresses.
# A list of our own, because ipaddress.is_private answers differently in each Python. The documentation networks are
# left out: nothing is there. Sources: IANA special-purpose address registries, RFC 1918, 4193, 6598, 6890, 8215.
PRIVATE = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
    "::/128", "::1/128", "64:ff9b:1::/48", "100::/64", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
)
_V4 = tuple(ipaddress.IPv4Network(cidr) for cidr in PRIVATE if ":" not in cidr)
# IPv6 can carry an IPv4 address inside: each private IPv4 network has those spellings too.
_V6 = tuple(ipaddress.IPv6Network(cidr) for cidr in PRIVATE if ":" in cidr) + tuple(
    ipaddress.IPv6Network(cidr) for network in _V4 for cidr in embedded(network)
)


def address(name: str) -> str:
    """The loopback address of the agent with this name, "127.99.3.7", where no other agent wants the same."""
    return _slot(_number(name))


def addresses(agents: Iterable[Agent]) -> Dict[str, str]:
    """The loopback address of each agent, all different: {"autopilot": "127.99.3.7"}.

    Of two that hash to one address the later by name takes the next free one.
    """
    taken: Dict[str, str] = {}
    for name in sorted(agent["name"] for agent in agents):
        number = _number(name)
        while _slot(number) in taken:
            number += 1
        taken[_slot(number)] = name
    return {name: slot for slot, name in taken.items()}


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode("utf-8")).digest()[:8], "big")


def _slot(number: int) -> str:
    """127.99.x.y with x in 0..254 and y in 1..254: no network or broadcast address, and 127.99.255.0/24 stays ours."""
    x, y = divmod(number % (255 * 254), 254)
    return f"127.99.{x}.{y + 1}"


def https_names(agent: Agent) -> List[Entry]:
    """The entries that go through the proxy, the most specific first."""
    return _by_precedence(entry for entry in agent["egress"] if entry.get("protocol") == "https")


def direct_names(agent: Agent) -> List[Entry]:
    """The names that the agent resolves itself and connects to itself (tcp, udp), the most specific first."""
    return _by_precedence(entry for entry in agent["egress"] if "name" in entry and entry["protocol"] != "https")


def needs_proxy(agent: Agent) -> bool:
    """Whether the agent has a name that goes through the proxy."""
    return bool(https_names(agent))


def needs_resolver(agent: Agent) -> bool:
    """Whether the agent asks the resolver itself. Its https names do not need that: the proxy resolves them."""
    return bool(direct_names(agent))


def proxy_wanted(agents: Iterable[Agent]) -> bool:
    """Whether this host needs the proxy."""
    return any(needs_proxy(agent) for agent in agents)


def resolver_wanted(agents: Iterable[Agent]) -> bool:
    """Whether this host needs the resolver: for an agent, or for the proxy."""
    return any("name" in entry for agent in agents for entry in agent["egress"])


def services(agents: Iterable[Agent]) -> List[str]:
    """Which of PROXY and RESOLVER this host needs."""
    listed = list(agents)
    return [PROXY] * proxy_wanted(listed) + [RESOLVER] * resolver_wanted(listed)


def _by_precedence(entries: Iterable[Entry]) -> List[Entry]:
    def key(entry: Entry) -> Tuple[Any, ...]:
        name = entry["name"]
        return name.startswith("*"), -len(name), name, entry["port"], entry["protocol"]

    return sorted(entries, key=key)


def matches(pattern: str, name: str) -> bool:
    """Whether a name of the manifest means this host: "*.x" is one or more labels before x, and never x itself.

    Case and one dot at the end do not count in name, as in DNS (RFC 4343).
    """
    plain = normal(name)
    if not pattern.startswith("*."):
        return plain == pattern
    return plain.endswith(pattern[1:]) and not plain.startswith(".") and plain != pattern[1:]


def entry_for(entries: Iterable[Entry], name: str, port: Optional[int] = None) -> Optional[Entry]:
    """The entry that decides about this name (and port): the exact one, else the longest wildcard; None: not allowed.

    No wildcard covers the name of a metadata service.
    """
    if name_of(normal(name)):
        return None
    for entry in _by_precedence(entries):
        if matches(entry["name"], name) and port in (None, entry["port"]):
            return entry
    return None


def normal(name: str) -> str:
    """A host name as the manifest has it: lower case, without the dot at the end."""
    lowered = name.lower()
    return lowered[:-1] if lowered.endswith(".") else lowered


def private(text: str) -> bool:
    """Whether no name may lead to this address unless the manifest grants its network."""
    parsed = _parsed(text)
    return any(parsed in network for network in (_V4 if parsed.version == 4 else _V6))


def private_network(cidr: str) -> bool:
    """Whether all of this network is private, so that an entry's networks have to grant it."""
    network = ipaddress.ip_network(cidr)
    return any(network.subnet_of(other) for other in (_V4 if network.version == 4 else _V6))  # type: ignore[arg-type]


def refusal(text: str, networks: Iterable[str] = (), own: Callable[[str], bool] = lambda _text: False) -> Optional[str]:
    """Why a name may not lead to this address; None where it may. networks: those that its entry grants.

    own: whether an address is one of this host's own; by those, too, a name would lead back to what listens here.
    """
    parsed = _parsed(text)
    endpoint = endpoint_of(str(parsed))
    if endpoint:
        return f"{text} is a metadata address ({endpoint})"
    if parsed in ipaddress.IPv4Network(LISTENERS) if parsed.version == 4 else False:
        return f"{text} belongs to the proxy and the resolver ({LISTENERS})"
    if any(_inside(parsed, cidr) for cidr in networks):
        return None
    if private(text):
        return f"{text} is a private address, and the entry's networks do not grant it"
    return f"{text} is an address of this very host, and the entry's networks do not grant it" if own(text) else None


def _parsed(text: str) -> Address:
    """The address as the kernel sends to it: an IPv4-mapped one leaves as IPv4."""
    parsed = ipaddress.ip_address(text.split("%")[0])
    return getattr(parsed, "ipv4_mapped", None) or parsed


def _inside(parsed: Address, cidr: str) -> bool:
    network = ipaddress.ip_network(cidr)
    return network.version == parsed.version and parsed in network


def sets(name: str) -> Tuple[str, str]:
    """The sets of the packet filter that the resolver fills for an agent or for PROXY: of IPv4, of IPv6."""
    return f"named4_{name}", f"named6_{name}"


def mark(name: str, entries: Iterable[Entry]) -> int:
    """The conntrack mark of the connections that these names opened.

    A connection keeps it when the answer that opened it has run out. A change of the names changes the mark, so that
    what the old ones opened ends. The two upper bits keep it apart from the small numbers that others use.
    """
    text = json.dumps([name, _by_precedence(entries)], sort_keys=True)
    return 0xC0000000 | int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:4], "big") >> 2


def proxy_environment(agent: Agent, listener: str, ca: bool = False) -> Dict[str, str]:
    """What a unit sets so that usual programs find the proxy at `listener`; empty where the agent has no https names.

    ca: whether the agent is to trust CA_BUNDLE even if none of its names is inspected (a company's own CA).
    """
    entries = https_names(agent)
    if not entries:
        return {}
    url = f"http://{listener}:{PROXY_PORT}"
    direct = ",".join(_around_proxy(agent, entries))
    # Both spellings: curl ignores HTTP_PROXY, Java and node's libraries read one or the other.
    found = dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"), url)
    found.update({"no_proxy": direct, "NO_PROXY": direct, "NODE_USE_ENV_PROXY": "1"})
    java = _java_proxy(listener, direct)
    if ca or any(entry["inspect"] for entry in entries):
        found.update(dict.fromkeys(CA_VARIABLES, CA_BUNDLE))
        java += [f"-Djavax.net.ssl.trustStore={JAVA_TRUST_STORE}",
                 f"-Djavax.net.ssl.trustStorePassword={JAVA_TRUST_STORE_PASSWORD}"]
    return {**found, "JAVA_TOOL_OPTIONS": " ".join(java)}


#: Who reads them: OpenSSL and Python's ssl; curl; requests; node (adds to its own); git; pip; cargo; AWS tools; Deno.
CA_VARIABLES = ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO",
                "PIP_CERT", "CARGO_HTTP_CAINFO", "AWS_CA_BUNDLE", "DENO_CERT")


def _java_proxy(listener: str, direct: str) -> List[str]:
    # Java knows no networks here, and parts by "|"; it reads no variable of the environment for a proxy.
    hosts = "|".join(f"*{item}" if item.startswith(".") else item for item in direct.split(",") if "/" not in item)
    return [f"-D{scheme}.proxy{what}" for scheme in ("http", "https")
            for what in (f"Host={listener}", f"Port={PROXY_PORT}")] + [f"-Dhttp.nonProxyHosts={hosts}"]


def _around_proxy(agent: Agent, entries: List[Entry]) -> List[str]:
    """no_proxy: loopback, granted networks, and the direct names that no https name is or stands below.

    Most programs read "x" as x and all below it, and none looks at the port. So a name with ssh and https is left to
    the proxy, which ssh does not ask.
    """
    found = ["localhost", "127.0.0.1", "::1"]
    for entry in agent["egress"]:
        if "cidr" in entry:
            network = ipaddress.ip_network(entry["cidr"])
            found.append(str(network.network_address if network.num_addresses == 1 else network))
    for entry in direct_names(agent):
        domain = entry["name"].replace("*.", "", 1)
        if not any(_at_or_below(other["name"].replace("*.", "", 1), domain) for other in entries):
            found.append("." + domain if entry["name"].startswith("*") else domain)
    return list(dict.fromkeys(found))


def _at_or_below(name: str, domain: str) -> bool:
    return name == domain or name.endswith("." + domain)
