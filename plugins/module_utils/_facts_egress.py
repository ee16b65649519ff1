# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of egress by name: do the proxy and the resolver serve the agents that need them, as they were configured?

    proxy     {wanted, configured, starts_at_boot: bool, running, configuration: str|null,
               served, unserved, faults: [str]}
    resolver  {wanted, configured, starts_at_boot: bool, served, unserved, faults: [str]}

wanted       some agent of the manifest needs it; where none does, nothing is looked at
configured   its configuration lies on disk
starts_at_boot  it does, or nobody needs it
running      digest of the configuration that the running proxy has; configuration: of the one on disk
unserved     names of the agents that need it, and on whose address it does not listen, or which does not answer at all
served       all others
faults       what else is wrong, in words

Everything is null where the manifest cannot be read. Who listens is asked of the kernel (/proc/net), and not tried: a
connection of ours would be a line in the agent's log.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from . import _egress, _egress_resolver
from ._facts_source import Source

Agents = Sequence[Mapping[str, Any]]
Facts = Dict[str, Any]

MANIFEST = "/etc/cordon/manifest.json"
PROXY_CONFIG = "/etc/cordon/proxy/squid.conf"
RESOLVER_CONFIG = "/etc/cordon/resolver.json"
WANTED_BY = "/etc/systemd/system/multi-user.target.wants/"
UNITS = {_egress.PROXY: "cordon-proxy.service", _egress.RESOLVER: "cordon-resolver.service"}

SECONDS = 1.0  # on loopback; a proxy that needs longer serves nobody
# tcp(7) and udp(7) in /proc/net: the state of a socket that takes calls.
TAKES_CALLS = {"tcp": "0A", "udp": "07"}
# The configuration names its own digest, and the proxy's pages name the configuration (_egress_proxy.py).
_NAMED = re.compile(r"\bcordon-([0-9a-f]{16})\b")
_UPSTREAM = re.compile(r"^cache_peer .* name=_upstream\b", re.M)
_UNKNOWN: Facts = dict.fromkeys(("wanted", "configured", "starts_at_boot", "served", "unserved", "faults"))


class Listener(NamedTuple):
    """A socket that takes calls."""

    protocol: str
    address: str
    port: int


def read(source: Source, agents: Optional[Agents] = None, ask: Optional[Callable[[], Optional[str]]] = None) -> Dict[str, Facts]:
    """Return the facts of this module (shape: module docstring).

    agents: the resolved manifest's; None takes the host's own record. ask: what the proxy says of itself, for tests.
    """
    if agents is None:
        recorded = source.record(MANIFEST)
        agents = recorded.get("agents") if isinstance(recorded, dict) else None
    if agents is None:
        return {"proxy": dict(_UNKNOWN, running=None, configuration=None), "resolver": dict(_UNKNOWN)}
    agents = [dict(agent, egress=agent.get("egress") or []) for agent in agents]
    text = source.optional(PROXY_CONFIG) or ""
    named = [agent for agent in agents if _egress.services([agent])]
    listening = _listening(source) if named else set()
    return {"proxy": _proxy(source, agents, text, listening, ask or ask_proxy),
            "resolver": _resolver(source, agents, not _UPSTREAM.search(text), listening)}


def down(facts: Mapping[str, Any]) -> bool:
    """Whether a service that is configured and needed does not serve everybody, by its part of read()."""
    return bool(facts["wanted"] and facts["configured"] and facts["unserved"])


# --- The proxy ----------------------------------------------------------------------------------------


def _proxy(source: Source, agents: Agents, text: str, listening: Optional[Set[Listener]],
           ask: Callable[[], Optional[str]]) -> Facts:
    wanted = _egress.proxy_wanted(agents)
    facts = _service(source, agents, _egress.PROXY, wanted, bool(text))
    facts.update(running=None, configuration=None)
    if not wanted:
        return facts
    own = _egress.addresses(agents)
    needed = {agent["name"]: [Listener("tcp", own[agent["name"]], _egress.PROXY_PORT)]
              for agent in agents if _egress.needs_proxy(agent)}
    found = _NAMED.search(ask() or "")
    # One that does not even answer us serves nobody, whoever holds its sockets.
    taking = listening if found or listening is None else set()
    facts.update(_serves(agents, needed, taking), running=found and found[1], configuration=configuration(text))
    facts["faults"] = _proxy_faults(text, facts)
    return facts


def configuration(text: str) -> Optional[str]:
    """The digest that a configuration of the proxy carries; null where it is not that of the text."""
    found = _NAMED.search(text)
    if not found:
        return None
    plain = text.replace(found[1], "@digest@")
    return found[1] if hashlib.sha256(plain.encode("utf-8")).hexdigest()[:16] == found[1] else None


def _proxy_faults(text: str, facts: Facts) -> List[str]:
    if not text:
        return ["%s is missing" % PROXY_CONFIG]
    if facts["configuration"] is None:
        return ["%s was edited since it was rendered" % PROXY_CONFIG]
    if facts["running"] is None:
        return ["the proxy does not answer on %s:%d" % (_egress.PROXY_LISTENS_TO, _egress.PROXY_PORT)]
    if facts["running"] != facts["configuration"]:
        return ["the proxy runs with configuration %s, on disk is %s" % (facts["running"], facts["configuration"])]
    return []


def ask_proxy() -> Optional[str]:
    """What the proxy says of itself to this host; null where it says nothing."""
    try:
        with socket.create_connection((_egress.PROXY_LISTENS_TO, _egress.PROXY_PORT), SECONDS) as channel:
            channel.sendall(b"OPTIONS * HTTP/1.0\r\n\r\n")
            said = b""
            while len(said) < 65536:
                part = channel.recv(4096)
                if not part:
                    break
                said += part
    except OSError:
        return None
    return said.decode("ascii", "replace")


# --- The resolver -------------------------------------------------------------------------------------


def _resolver(source: Source, agents: Agents, proxy_resolves: bool, listening: Optional[Set[Listener]]) -> Facts:
    proxied = _egress.proxy_wanted(agents) and proxy_resolves
    wanted = proxied or any(_egress.needs_resolver(agent) for agent in agents)
    facts = _service(source, agents, _egress.RESOLVER, wanted, source.exists(RESOLVER_CONFIG))
    if not wanted:
        return facts
    own, everyones = _egress.addresses(agents), _both(_egress.PROXY_LISTENS_TO) if proxied else []
    needed = {}
    for agent in agents:
        listeners = _both(own[agent["name"]]) if _egress.needs_resolver(agent) else []
        needed[agent["name"]] = listeners + (everyones if _egress.needs_proxy(agent) else [])
    facts.update(_serves(agents, needed, listening))
    facts["faults"] = _resolver_faults(source, agents, proxy_resolves)
    return facts


def _both(address: str) -> List[Listener]:
    return [Listener(protocol, address, _egress.DNS_PORT) for protocol in ("tcp", "udp")]


def _resolver_faults(source: Source, agents: Agents, proxy_resolves: bool) -> List[str]:
    found = source.record(RESOLVER_CONFIG)
    if not isinstance(found, dict):
        return ["%s is missing or damaged" % RESOLVER_CONFIG]
    try:
        expected = _egress_resolver.settings(agents, found.get("servers") or [], proxy_resolves)["clients"]
    except ValueError as error:
        return ["%s: %s" % (RESOLVER_CONFIG, error)]
    # As a file has it: tuples are lists there.
    if json.loads(json.dumps(expected)) != found.get("clients"):
        return ["%s grants other names than the manifest" % RESOLVER_CONFIG]
    return []


# --- Both ---------------------------------------------------------------------------------------------


def _service(source: Source, agents: Agents, service: str, wanted: bool, configured: bool) -> Facts:
    starts = not wanted or source.exists(WANTED_BY + UNITS[service])
    return {"wanted": wanted, "configured": configured, "starts_at_boot": starts, "unserved": [], "faults": [],
            "served": sorted(agent["name"] for agent in agents)}


def _serves(agents: Agents, needed: Mapping[str, List[Listener]], listening: Optional[Set[Listener]]) -> Facts:
    """Agents for whom every listener is there, and those for whom one is missing."""
    if listening is None:
        return {"served": None, "unserved": None}
    lacking = {name for name, listeners in needed.items() if not listening.issuperset(listeners)}
    return {"served": sorted(agent["name"] for agent in agents if agent["name"] not in lacking), "unserved": sorted(lacking)}


def _listening(source: Source) -> Optional[Set[Listener]]:
    """The sockets on IPv4 that take calls and are of our services: another's, root's too, answers no agent."""
    ours = _uids(source)
    found: Set[Listener] = set()
    for protocol, state in TAKES_CALLS.items():
        text = source.text("/proc/net/" + protocol)
        if text is None:
            return None
        found.update(Listener(protocol, *place) for place, uid in parse_sockets(text, state) if uid in ours)
    return found


def _uids(source: Source) -> Set[int]:
    users = set(_egress.USERS.values())
    rows = [line.split(":") for line in (source.text("/etc/passwd") or "").splitlines()]
    return {int(row[2]) for row in rows if len(row) == 7 and row[0] in users}


def parse_sockets(text: str, state: str) -> List[Tuple[Tuple[str, int], int]]:
    """Return ((address, port), uid) of the sockets of /proc/net/tcp or udp in this state (proc(5))."""
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and fields[3] == state:
            address, _colon, port = fields[1].partition(":")
            # The kernel prints the four bytes as one number of its own byte order.
            shown = socket.inet_ntoa(struct.pack("=I", int(address, 16)))
            found.append(((shown, int(port, 16)), int(fields[7])))
    return found
