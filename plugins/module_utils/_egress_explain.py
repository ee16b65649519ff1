# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. May this agent reach that place, by which line of the manifest, and what would allow it?

Pure: it answers from the resolved manifest, as the packet filter, the proxy and the resolver were rendered from it, and
asks nobody. So it does not know where a name leads today.
"""
from __future__ import annotations

import ipaddress
import re
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

from . import _egress
from ._egress_requests import shown
from ._manifest_network import read_host
from ._manifest_place import Place
from ._metadata import endpoint_of, name_of

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
Agent = Mapping[str, Any]
Entry = Dict[str, Any]
Found = Tuple[str, Entry]  # an entry of the manifest, and its path there

TCP, UDP, HTTPS = "tcp", "udp", "https"
PROTOCOLS = (HTTPS, TCP, UDP)
#: The ways: straight to an address; to an address that the resolver answered with; through the proxy; to our own
#: proxy or resolver.
DIRECT, BY_NAME, BY_PROXY, SERVICE = "direct", "name", "proxy", "service"
HTTPS_PORT, SSH_PORT, HTTP_PORT, DNS_PORTS = 443, 22, 80, (53, 853)
PATH = "agents[%d].egress[%d]"
LONGEST = 400  # characters of a destination; a host name has at most 253

#: What people paste is a URL: its scheme says the port (IANA service names), and whether it is TLS from the start.
SCHEMES: Dict[str, Tuple[int, Optional[str]]] = {
    "https": (443, HTTPS), "wss": (443, HTTPS), "http": (80, TCP), "ws": (80, TCP), "ssh": (22, TCP), "sftp": (22, TCP),
    "git": (9418, TCP), "ftp": (21, TCP), "postgres": (5432, TCP), "postgresql": (5432, TCP), "mysql": (3306, TCP),
    "redis": (6379, TCP), "rediss": (6379, TCP), "amqp": (5672, TCP), "amqps": (5671, TCP), "mongodb": (27017, TCP),
    "smtp": (25, TCP), "smtps": (465, TCP), "ldap": (389, TCP), "ldaps": (636, TCP), "dns": (53, UDP), "ntp": (123, UDP),
}
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)")
_SCP = re.compile(r"[^@/:]+@([^@/:]+):(?![0-9]+$).*")  # git@git.example.org:team/repository
_WITH_PROTOCOL = re.compile(r"(.+)/([a-z0-9]+)")  # 192.0.2.53:53/udp
_BRACKETS = re.compile(r"\[([^\]]+)\](?::(.*))?")


class ExplainError(ValueError):
    """The question cannot be read; the message says how to put it."""


class Target(NamedTuple):
    """What was asked for. address: where the host is one, as the kernel sends to it. protocol: None where not said."""

    host: str
    port: int
    protocol: Optional[str]
    address: Optional[Address]


# --- The question -------------------------------------------------------------------------------------


def read(text: str, port: Optional[int] = None, protocol: Optional[str] = None) -> Target:
    """A destination as people write it: host, host:port, host:port/udp, [address]:port, URL, git@host:path."""
    if not text.strip() or len(text) > LONGEST or not text.isprintable():
        raise ExplainError("the destination is empty, or no host: write for example api.example.org:443")
    host, own_port, own_protocol = _parts(text.strip())
    protocol = protocol or own_protocol
    if protocol == "ssh":
        own_port, protocol = own_port or SSH_PORT, TCP
    chosen = port or own_port or HTTPS_PORT
    if not 0 < chosen < 65536:
        raise ExplainError("%d is no port: write 1 to 65535" % chosen)
    if not host:
        raise ExplainError("%r names no host: write for example api.example.org:443" % text)
    address = address_of(host)
    if ":" in host and address is None:
        raise ExplainError("%r is no address: write for example [2001:db8::7]:443" % host)
    return Target(host if address else _egress.normal(host), chosen, protocol, address)


def _parts(text: str) -> Tuple[str, Optional[int], Optional[str]]:
    """(host, port, protocol) of a text; None for what it does not say."""
    url, scp = _URL.match(text), _SCP.fullmatch(text)
    if url:
        port, protocol = SCHEMES.get(url[1].lower(), (None, None))
        host, own = _host_port(url[2].rpartition("@")[2])
        if own is None and port is None:
            raise ExplainError("no port is known for %s: write HOST:PORT" % url[1])
        return host, own or port, protocol
    if scp:
        return scp[1], SSH_PORT, TCP
    said = _WITH_PROTOCOL.fullmatch(text.lower())
    if said and not said[2].isdigit():
        return (*_host_port(said[1]), said[2])
    return (*_host_port(text), None)


def _host_port(text: str) -> Tuple[str, Optional[int]]:
    brackets = _BRACKETS.fullmatch(text)
    host, port = (brackets[1], brackets[2]) if brackets else (text, None)
    if not brackets and text.count(":") == 1:
        host, _colon, port = text.partition(":")
    if port and not (port.isascii() and port.isdigit() and len(port) < 6):
        raise ExplainError("%r is no port: write HOST:PORT, for example api.example.org:443" % port)
    return host, int(port) if port else None


def address_of(host: str) -> Optional[Address]:
    """The address that the kernel sends to, for every spelling that programs understand; None for a name.

    inet_aton(3) reads 2852039166, 0251.0376.0251.0376 and 0xa9fea9fe as 169.254.169.254; an IPv4-mapped IPv6 address
    leaves as IPv4; 0.0.0.0 and :: lead to this host, as localhost does (RFC 6761).
    """
    if host.lower().rstrip(".").split(".")[-1] == "localhost":
        return ipaddress.ip_address("127.0.0.1")
    try:
        found: Optional[Address] = ipaddress.ip_address(host.partition("%")[0]) if ":" in host else _inet_aton(host)
    except ValueError:
        return None
    found = getattr(found, "ipv4_mapped", None) or found
    if found is not None and found.is_unspecified:
        return ipaddress.ip_address("127.0.0.1" if found.version == 4 else "::1")
    return found


def _inet_aton(text: str) -> Optional[ipaddress.IPv4Address]:
    words = text[:-1].split(".") if text.endswith(".") else text.split(".")
    numbers = [_number(word) for word in words]
    if len(numbers) > 4 or any(number is None for number in numbers):
        return None
    known = [number for number in numbers if number is not None]
    # The last one fills what the others leave.
    if any(number > 255 for number in known[:-1]) or known[-1] >= 256 ** (5 - len(known)):
        return None
    return ipaddress.IPv4Address(sum(number << 8 * (3 - place) for place, number in enumerate(known[:-1])) + known[-1])


def _number(word: str) -> Optional[int]:
    if re.fullmatch(r"0[xX][0-9A-Fa-f]+", word):
        return int(word, 16)
    if re.fullmatch(r"0[0-7]+", word):
        return int(word, 8)
    return int(word) if re.fullmatch(r"0|[1-9][0-9]*", word) else None


# --- The answer ---------------------------------------------------------------------------------------


def explain(agents: Sequence[Agent], name: str, target: Target) -> Dict[str, Any]:
    """Whether the agent of this name may reach it.

    {agent, host, address, port, protocol, allowed, way, decided_by: {path, entry}|null, because, to_allow: entry|null,
    never, notes: [str]}. way: direct, name, proxy, service; null where it is refused. to_allow: the line to add to the
    agent's egress; null where it is allowed, and where nothing can allow it (never).
    """
    number = next(number for number, agent in enumerate(agents) if agent["name"] == name)
    answer: Dict[str, Any] = {
        "agent": name, "host": target.host, "address": target.address and str(target.address), "port": target.port,
        "protocol": target.protocol or (HTTPS if target.address is None and target.port == HTTPS_PORT else TCP),
        "allowed": False, "way": None, "decided_by": None, "because": "", "to_allow": None, "never": False, "notes": [],
    }
    if answer["protocol"] not in PROTOCOLS:
        return _never(answer, "nothing grants %s: an agent has TCP and UDP only" % answer["protocol"])
    case = _Case(agents[number], number, _egress.addresses(agents)[name], target, answer)
    return case.by_address(target.address) if target.address is not None else case.by_name()


def _never(answer: Dict[str, Any], because: str) -> Dict[str, Any]:
    return dict(answer, because=because, never=True)


class _Case:
    """One question about one agent."""

    def __init__(self, agent: Agent, number: int, own: str, target: Target, answer: Dict[str, Any]) -> None:
        self.agent, self.number, self.own, self.target, self.answer = agent, number, own, target, answer

    def entries(self, key: str) -> Iterator[Found]:
        """The entries that have this key, cidr or name, with their paths."""
        for place, entry in enumerate(self.agent["egress"]):
            if key in entry:
                yield PATH % (self.number, place), entry

    def allowed(self, found: Found, way: str, because: str, notes: List[str]) -> Dict[str, Any]:
        decided = {"path": found[0], "entry": found[1]}
        return dict(self.answer, allowed=True, way=way, decided_by=decided, because=because, notes=notes,
                    protocol=found[1]["protocol"])

    # --- an address ---

    def by_address(self, address: Address) -> Dict[str, Any]:
        """The way of a packet: metadata, our own listeners, the granted networks, and nothing else."""
        if self.answer["protocol"] == HTTPS:
            self.answer["protocol"] = TCP
        endpoint = endpoint_of(str(address))
        if endpoint:
            return _never(self.answer, "%s is a metadata address (%s), where clouds hand out the credentials of the host; it"
                          " is refused to every agent, whatever its egress says" % (address, endpoint))
        if address.version == 4 and address in ipaddress.IPv4Network(_egress.LISTENERS):
            return self._listener(str(address))
        for path, entry in self.entries("cidr"):
            if _holds(entry, address) and (entry["port"], entry["protocol"]) == (self.target.port, self.answer["protocol"]):
                return self.allowed((path, entry), DIRECT, "the packet filter lets it through to this address", [])
        return self._address_refused(address)

    def _listener(self, address: str) -> Dict[str, Any]:
        """What serves the agents: each reaches its own, and only the part that its names need."""
        if address != self.own:
            return _never(self.answer, "%s belongs to the proxy and the resolver of others (%s): every agent reaches its own"
                          " address only, %s" % (address, _egress.LISTENERS, self.own))
        asked = (self.target.port, self.answer["protocol"])
        if asked == (_egress.PROXY_PORT, TCP) and _egress.needs_proxy(self.agent):
            return self._own("its proxy, for the https names of its egress")
        if self.target.port == _egress.DNS_PORT and _egress.needs_resolver(self.agent):
            return self._own("its resolver, for the tcp and udp names of its egress")
        because = "on its own address the agent has nothing but what its names need: the proxy for https names (port %d)," \
            " the resolver for tcp and udp names (port %d)" % (_egress.PROXY_PORT, _egress.DNS_PORT)
        return _never(self.answer, because)

    def _own(self, because: str) -> Dict[str, Any]:
        return dict(self.answer, allowed=True, way=SERVICE, because=because)

    def _address_refused(self, address: Address) -> Dict[str, Any]:
        length = 32 if address.version == 4 else 128
        entry: Entry = {"cidr": "%s/%d" % (address, length), "port": self.target.port}
        entry.update({"protocol": UDP} if self.answer["protocol"] == UDP else {})
        near = ["%s allows it on %s" % (path, _port(one)) for path, one in self.entries("cidr") if _holds(one, address)]
        notes = near + ["a name is narrower than an address that many share: {name: ...} if the service has one"]
        if address.is_loopback:
            notes = near + ["this is the host itself: whatever listens on that port is given to the agent"]
        elif _egress.private(str(address)):
            notes = near + ["this is a private address: give the one service, not its network"]
        if self.target.port in DNS_PORTS:
            notes.append("a DNS server that the agent asks itself carries out whatever is put into a question")
        return dict(self.answer, because="no line of the agent's egress grants this address, port and protocol",
                    to_allow=entry, notes=notes)

    # --- a name ---

    def by_name(self) -> Dict[str, Any]:
        """By proxy where the line says https, else by the resolver's answers."""
        host = self.target.host
        if name_of(host):
            return _never(self.answer, "%s is a metadata service, where clouds hand out the credentials of the host; no name"
                          " and no * grants it" % name_of(host))
        found = self._deciding()
        if found is None:
            return self._name_refused()
        way = BY_PROXY if found[1]["protocol"] == HTTPS else BY_NAME
        because = "the proxy at %s:%d connects it" % (self.own, _egress.PROXY_PORT) if way == BY_PROXY else \
            "the resolver at %s answers for it, and opens the packet filter to the addresses of its answer" % self.own
        return self.allowed(found, way, because, _conditions(found[1], way))

    def _deciding(self) -> Optional[Found]:
        """The entry for this port: of several the most specific; where no protocol was said, TCP is as good as https."""
        said = self.target.protocol
        wanted = (said,) if said in (UDP, TCP) else (HTTPS, TCP)
        wanted = (HTTPS, TCP) if said is None else wanted
        for protocol in wanted:
            paths = {id(entry): path for path, entry in self.entries("name")}
            listed = [entry for _path, entry in self.entries("name") if entry["protocol"] == protocol]
            entry = _egress.entry_for(listed, self.target.host, self.target.port)
            if entry is not None:
                return paths[id(entry)], entry
        return None

    def _name_refused(self) -> Dict[str, Any]:
        host, place = self.target.host, Place("the name")
        read_host(host, place)
        if place.problems:
            return _never(self.answer, place.problems[0].partition(": ")[2])
        return dict(self.answer, because="no line of the agent's egress names it on this port",
                    to_allow=self._line(), notes=self._near())

    def _line(self) -> Entry:
        """The shortest line that allows it; the manifest's defaults say the rest."""
        host, port, protocol = self.target.host, self.target.port, self.answer["protocol"]
        if protocol == TCP and port == SSH_PORT:
            return {"name": host, "protocol": "ssh"}
        entry: Entry = {"name": host}
        if port != HTTPS_PORT:
            entry["port"] = port
        if (port == HTTPS_PORT) != (protocol == HTTPS) or protocol == UDP:
            entry["protocol"] = protocol
        return entry

    def _near(self) -> List[str]:
        """Lines that look as if they allowed it, and what is special about the port."""
        host, notes = self.target.host, []
        for path, entry in self.entries("name"):
            if _egress.matches(entry["name"], host):
                notes.append("%s allows it on %s" % (path, _port(entry)))
            elif entry["name"] == "*." + host:
                notes.append("%s is for the names below %s, not for itself" % (path, host))
        if self.answer["protocol"] == UDP and self.target.port == HTTPS_PORT:
            notes.append("QUIC is UDP and passes no proxy: programs go on without it, as https over TCP")
        if self.target.port == HTTP_PORT:
            notes.append("plain HTTP passes no proxy, and nobody sees what is changed on its way: is there https?")
        return notes


def _conditions(entry: Entry, way: str) -> List[str]:
    """What may still keep an allowed name from being reached."""
    if way == BY_PROXY:
        notes = ["only as TLS whose server name (SNI) is this name, by programs that use https_proxy"]
        notes += ["the proxy reads it: requests are logged, and the agent must trust %s" % _egress.CA_BUNDLE] * entry["inspect"]
        notes += ["of its requests these only: " + shown(entry["requests"])] if entry["requests"] else []
    else:
        notes = ["only at addresses that its resolver answered with"]
    if entry["networks"]:
        return notes + ["of private addresses it may lead to %s only" % ", ".join(entry["networks"])]
    return notes + ["where it leads to a private address or to this host it is refused: grant those by networks: [CIDR, ...]"]


def _holds(entry: Entry, address: Address) -> bool:
    network = ipaddress.ip_network(entry["cidr"])
    return network.version == address.version and address in network


def _port(entry: Entry) -> str:
    return "%s port %d" % (entry["protocol"], entry["port"])
