# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. The egress proxy as text: what the manifest grants by name becomes squid's configuration.

Pure: resolved agents in, text out. Each agent has two listeners on its own loopback address:

- PROXY_PORT is what the agent reaches. It looks at the CONNECT line only, so that what is not allowed gets a plain
  403 (squid would answer on a listener that may bump with a forged certificate instead), and passes the rest on to
- TLS_PORT, which no agent reaches. It reads the ClientHello: the name in it must be the name of the CONNECT line. Only
  then the connection is passed on unread (splice), or, for an inspected name, opened (bump).

Directives: squid.conf.documented of squid 5.7 (Debian 12, Ubuntu 22.04) and 6 (Debian 13, Ubuntu 24.04).
"""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
import json
import re
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple, Union

from . import _brokered
from ._egress import PROXY_LISTENS_TO, PROXY_PORT, addresses, https_names
from ._egress_requests import OVERRIDES, narrowed, read, shown
from ._metadata import NAMES, NETWORKS

Agent = Mapping[str, Any]
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

# squid talks to its helpers over 127.0.0.1, so the packet filter leaves the proxy a part of that.
LOOPBACK = ("127.0.0.0/8", "::1/128")
TLS_PORT = 3129
CONFIG = "/etc/cordon/proxy"
LOG = "/var/log/cordon/proxy.log"

# What may stand in a line of squid.conf. The manifest has refused all else; this is the last look before the text.
NAME = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
AGENT_NAME = re.compile(r"[a-z][a-z0-9_]{0,25}")


class Places(NamedTuple):
    """Where things are on a host; tests have their own."""

    runtime: str = "/run/cordon-proxy"
    certificate: str = "/var/lib/cordon/proxy/authority.pem"
    key: str = "/var/lib/cordon/proxy/authority.key"
    internal: str = f"{CONFIG}/internal-ca.pem"
    errors: str = f"{CONFIG}/errors"
    same_name: str = "/usr/lib/cordon/proxy_same_name.py"
    requests: str = "/usr/lib/cordon/proxy_requests.py"
    granted: str = f"{CONFIG}/requests.json"
    log: str = LOG
    brokered: str = _brokered.INCLUDED


HOST = Places()

# Why something was refused: the reason in the log, and what the agent is told where it can be told anything.
REASONS: Dict[str, str] = {
    "method": "Only CONNECT is served here, use https://; and no TRACE inside.",
    "metadata": "No agent may reach a metadata service.",
    "name": "The manifest does not grant this agent the name.",
    "port": "The manifest grants this agent the name, but not on this port.",
    "unresolved": "The name has no address that this agent may be led to.",
    "request": "The manifest grants this agent the name, but not this request: its method, its path or its query.",
    "host": "The request inside the connection is for another host than the connection.",
    "sni": "The TLS handshake names another host than CONNECT, or none.",
}


def config(
    agents: Iterable[Agent], upstream: Optional[Mapping[str, Any]] = None, internal_ca: bool = False, places: Places = HOST
) -> str:
    """The text of squid.conf; always the same for the same manifest.

    upstream: {"address", "port"} of the company's own proxy, which then resolves names in our place.
    internal_ca: whether places.internal holds certificates to trust besides the system's.
    """
    agents = list(agents)
    served = sorted((agent for agent in agents if https_names(agent)), key=lambda agent: agent["name"])
    where = addresses(agents)
    text = "\n".join([
        _general(upstream, internal_ca, places),
        _shared_lists(),
        _narrowed(served, places),
        *(_agent(agent, where[agent["name"]], places) for agent in served),
        _unread(places),
        _access(served, resolves=not upstream),
        _tls(served),
        _next_hops(served, upstream),
        *_included(_brokered.declared(agents), places),
    ])
    return text.replace(_DIGEST, digest(text))


def digest(text: str) -> str:
    """What the running proxy tells about its configuration: 16 hex digits, as in its first lines."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


_DIGEST = "@digest@"


def running(text: str) -> str:
    """The digest that a rendered configuration carries; "" if it carries none."""
    found = re.search(r"^visible_hostname cordon-([0-9a-f]{16})$", text, re.M)
    return found[1] if found else ""


def errors() -> Dict[str, str]:
    """The answers to what is refused, by the name of their file in places.errors."""
    hint = "On the host, `cordonctl explain AGENT %H` says which line of the manifest decides, and what to write to allow it."
    said = {reason: f"Refused by the egress proxy (cordon): {text}\n{hint}\n" for reason, text in REASONS.items()}
    return {f"CORDON_{reason.upper()}": text for reason, text in said.items()}


def requests(agents: Iterable[Agent]) -> str:
    """The file places.granted, for proxy_requests.py: what the agents of whom an entry narrows its requests may reach."""
    keys = ("name", "port", "protocol", "requests")
    found = {agent["name"]: [{key: entry[key] for key in keys} for entry in https_names(agent)]
             for agent in agents if narrowed(https_names(agent))}
    return json.dumps(found, sort_keys=True) + "\n"


def inspected(agents: Iterable[Agent]) -> List[str]:
    """The domains that the host's own authority may sign for, sorted; of "*.x" the domain x."""
    entries = (entry for agent in agents for entry in https_names(agent))
    return sorted({entry["name"].replace("*.", "", 1) for entry in entries if entry["inspect"]})


PEM = re.compile(r"-----BEGIN CERTIFICATE-----\n([A-Za-z0-9+/=]+\n)+-----END CERTIFICATE-----\n?")


def certificates(texts: Iterable[str]) -> str:
    """The company's own authorities as one file; what else than certificates stands in a text is refused."""
    found = []
    for number, text in enumerate(texts):
        blocks = PEM.sub("", text).strip()
        if blocks or not PEM.search(text):
            raise ValueError(f"ca_certificates[{number}] is no PEM certificate: write -----BEGIN CERTIFICATE----- to "
                             "-----END CERTIFICATE-----, and no key or text around it")
        found += [match[0].rstrip("\n") + "\n" for match in PEM.finditer(text)]
    return "".join(dict.fromkeys(found))


def _general(upstream: Optional[Mapping[str, Any]], internal_ca: bool, places: Places) -> str:
    trusted = f" cafile={places.internal}" if internal_ca else ""
    return f"""\
# The egress proxy of the AI agents. Rendered by cordon.agent_host from the manifest; edits are undone by the next run.
# The digest of this text: what the running proxy answers on {PROXY_LISTENS_TO}:{PROXY_PORT} names it.
visible_hostname cordon-{_DIGEST}
pid_filename {places.runtime}/squid.pid
# Messages go to the journal (-s).
cache_log /dev/null
# Section 4 tells of each of its own pages that the directory below does not replace.
debug_options ALL,1 4,0
coredump_dir {places.runtime}
max_filedescriptors 65536

# Nothing is kept: no cache, no disk, no statistics of clients.
cache deny all
cache_mem 0
cache_store_log none
memory_pools off
client_db off
netdb_filename none
pinger_enable off
logfile_rotate 0

# The agent and the server learn nothing of the proxy.
via off
forwarded_for delete
httpd_suppress_version_string on

# The resolver fills the packet filter with what it answers, so no other source of addresses would help.
dns_nameservers {PROXY_LISTENS_TO}
hosts_file none
# Their defaults have the client's name (%>A), for which squid would ask the resolver again and again, helper or not.
url_rewrite_extras "%>a"
store_id_extras "%>a"
dns_timeout 10 seconds
# Of a name that has not resolved, ask again soon. The resolver keeps an address open for two minutes at least.
negative_dns_ttl 10 seconds

# A tunnel may be idle for long (a websocket, a model that thinks); who only holds a connection open may not.
read_timeout 1 day
client_lifetime 30 days
request_start_timeout 30 seconds
request_timeout 30 seconds
connect_timeout 15 seconds
half_closed_clients off
shutdown_lifetime 0 seconds
# The first listener asks the second before that one listens: try again after 50 ms.
connect_retries 2

tls_outgoing_options min-version=1.2{trusted}
sslcrtd_program /usr/lib/squid/security_file_certgen -s {places.runtime}/certificates -M 4MB
sslcrtd_children 4 startup=1 idle=1
# The name of the inspected host and no other: the authority is constrained to those names.
sslproxy_cert_adapt setCommonName all

# Its own pages would show the configuration, secrets that it adds among it.
cachemgr_passwd disable all

# What a refused CONNECT is answered; squid takes its own pages from where they are.
error_directory {places.errors}

# Of a name and the name in the ClientHello, whether they are the same. squid has no such comparison of its own.
external_acl_type same_name ipv4 ttl=3600 negative_ttl=3600 cache=4096 concurrency=64 children-max=2 children-startup=1 \
children-idle=1 %>rd %ssl::>sni /usr/bin/python3 -I -S -B {places.same_name}

# The state of the proxy itself, for whoever asks on this host. No agent reaches it.
http_port {PROXY_LISTENS_TO}:{PROXY_PORT} name=_state
acl state myportname _state
""" + "".join(f"deny_info CORDON_{reason.upper()} why.{reason}\n" for reason in REASONS)


def _shared_lists() -> str:
    networks = [ipaddress.ip_network(cidr) for cidr in NETWORKS]
    found = sorted({str(network) for network in networks if not _mapped(network)})
    lines = [
        *(f"acl why.{reason} annotate_transaction reason={reason}" for reason in REASONS),
        *(f"acl is.{outcome} annotate_transaction outcome={outcome}" for outcome in ("tunnel", "inspected")),
        "acl CONNECT method CONNECT",
        "acl echo method TRACE",
        "acl opened connections_encrypted",
        "acl hello at_step SslBump2",
        "acl same_name external same_name",
        "acl resolves dst all",
        "acl judged note led yes",
        "acl now_judged annotate_transaction led=yes",
        "acl passed_on http_status 200",
        *(f"acl metadata_names dstdomain -n .{name}" for name in sorted(NAMES)),
        *(f"acl metadata dst {cidr}" for cidr in found),
        # -n: of an address in the request, in any spelling that squid reads as one; no name is looked up.
        *(f"acl metadata_addresses dst -n {cidr}" for cidr in found),
    ]
    return "\n".join(lines) + "\n"


def _narrowed(served: List[Agent], places: Places) -> str:
    """Of a request in an inspected connection, whether its entry grants it. squid's own lists compare a path only after they
    have decoded it, where servers still tell an encoded slash from a slash."""
    if not any(narrowed(https_names(agent)) for agent in served):
        return ""
    headers = " ".join(f"%>ha{{{name}}}" for name in OVERRIDES)
    words = f"children-idle=1 %DATA %>rd %>rP %>rm %>rp {headers} /usr/bin/python3 -I -S -B {places.requests} {places.granted}"
    return f"""\
# {places.granted} as {digest(requests(served))}: another one is read in with this text.
external_acl_type request ipv4 ttl=3600 negative_ttl=3600 cache=16384 concurrency=64 children-max=2 children-startup=1 {words}
"""


def _mapped(network: Any) -> bool:
    # squid reads an IPv4-mapped address as the IPv4 address that it is.
    return network.version == 6 and network.subnet_of(ipaddress.IPv6Network("::ffff:0:0/96"))


def acl(name: str) -> str:
    """What this agent's lists begin with; squid has names of its own ("all"), and so has this text."""
    return f"agent.{name}"


def _agent(agent: Agent, address: str, places: Places) -> str:
    """The listeners, the names and the log of one agent."""
    plain = _checked(AGENT_NAME, agent["name"])
    name = acl(plain)
    lines = [
        f"# Agent {plain}",
        f"http_port {address}:{PROXY_PORT} name={name} tcpkeepalive=60,30,4",
        f"http_port {address}:{TLS_PORT} name={name}.tls ssl-bump generate-host-certificates=on "
        f"dynamic_cert_mem_cache_size=1MB tls-cert={places.certificate} tls-key={places.key}",
        f"cache_peer {address} parent {TLS_PORT} 0 name={name}.tls no-query no-digest no-netdb-exchange default",
        f"acl {name} myportname {name}",
        f"acl {name}.tls myportname {name}.tls",
        f"acl {name}.any myportname {name} {name}.tls",
        "acl front myportname " + name,
        "acl tls myportname " + name + ".tls",
    ]
    entries = https_names(agent)
    for entry in entries:
        lines += [f"# {plain}: {_shown(entry)}", *_leads(plain, entry), *_entry(name, entry)]
    for port, kind in sorted({(entry["port"], _kind(entry)) for entry in entries}):
        lines += [f"acl {name}.{port} any-of {name}.{port}.{kind}", f"acl {name}.to.{port} port {port}",
                  f"acl {name}.on.{port} all-of {name}.to.{port} {name}.{port}",
                  f"acl {name}.granted any-of {name}.on.{port}", f"acl {name}.named any-of {name}.{port}"]
    for number, (_inspect, _port, run) in enumerate(_ways(entries)):
        lines += [f"acl {name}.way.{number} {_listed(entry)}" for entry in run]
    lines = list(dict.fromkeys(lines))
    if narrowed(entries):
        lines.append(f"acl {name}.request external request {plain}")
    lines += [f"logformat {name} {_log_format(plain)}",
              # One line when a tunnel opens, one when it ends; what the first listener passed on is told by the second.
              f"access_log stdio:{places.log} logformat={name} {name} !passed_on",
              f"access_log stdio:{places.log} logformat={name} {name}.tls"]
    return "\n".join(lines) + "\n"


def _entry(name: str, entry: Mapping[str, Any]) -> List[str]:
    return [f"acl {name}.{int(entry['port'])}.{_kind(entry)} {_listed(entry)}"]


def _kind(entry: Mapping[str, Any]) -> str:
    return "below" if entry["name"].startswith("*") else "exact"


def _listed(entry: Mapping[str, Any]) -> str:
    """A name as an acl's type and value; -n: an address is not looked up in the DNS."""
    name = _checked(NAME, entry["name"])
    if _kind(entry) == "exact":
        return f"dstdomain -n {name}"
    # dstdomain's own form, ".x", would mean x too.
    return r"dstdom_regex -n -i ^([a-z0-9_-]+\.)+" + name[2:].replace(".", r"\.") + "$"


def _ways(entries: List[Dict[str, Any]]) -> List[Tuple[bool, int, List[Dict[str, Any]]]]:
    """(inspect, port, entries of one kind), the first that matches decides; [] where nothing is inspected.

    Exact names come first and do not overlap, wildcards follow in the order of https_names: the longest first.
    """
    exact = sorted((e for e in entries if _kind(e) == "exact"), key=lambda e: (not e["inspect"], e["port"]))
    ordered = exact + [e for e in entries if _kind(e) == "below"]
    runs = [(inspect, port, list(run)) for (_kind_, inspect, port), run in
            itertools.groupby(ordered, key=lambda e: (_kind(e), e["inspect"], e["port"]))]
    while runs and not runs[-1][0]:
        runs.pop()
    return runs


def _shown(entry: Mapping[str, Any]) -> str:
    """The entry as the manifest has it."""
    inspect = ", inspect: true" if entry["inspect"] else ""
    name = f'"{entry["name"]}"' if entry["name"].startswith("*") else entry["name"]
    for request in entry["requests"]:
        if read(request) is None:
            raise ValueError(f"{request!r} is no request: pass the manifest through the filter agents first")
    granted = f", requests: [{shown(entry['requests'])}]" if entry["requests"] else ""
    return f"{{name: {name}, port: {int(entry['port'])}{inspect}{granted}}}"


def _leads(plain: str, entry: Mapping[str, Any]) -> List[str]:
    """The entry's networks, a line each: proxy_reload.py sees by them that one was taken away."""
    return [f"# {plain}: {entry['name']} on {int(entry['port'])} may lead to {ipaddress.ip_network(cidr)}"
            for cidr in entry["networks"]]


def _checked(form: re.Pattern[str], text: str) -> str:
    if not form.fullmatch(text) or len(text) > 253:
        raise ValueError(f"{text!r} cannot stand in the proxy's configuration: pass the manifest through the filter agents first")
    return text


def _access(served: List[Agent], resolves: bool) -> str:
    """Who may ask for what. The names are looked at before one is resolved: a question would carry data out."""
    names = [acl(agent["name"]) for agent in served]
    narrow = [acl(agent["name"]) for agent in served if narrowed(https_names(agent))]
    # The packet filter has the last word on addresses; this gives an error in words instead of a reset.
    addressed = ["http_access deny front metadata why.metadata", "http_access deny front !resolves why.unresolved",
                 *_led(served)]
    return "\n".join([
        "http_access deny front !CONNECT why.method",
        "http_access deny front metadata_names why.metadata",
        "http_access deny front metadata_addresses why.metadata",
        "http_access deny tls !opened !CONNECT why.method",
        "http_access deny tls opened CONNECT why.method",
        # A server answers TRACE with the request as it came, and so with what was added to it (RFC 9110, 9.3.8).
        "http_access deny tls opened echo why.method",
        *(f"http_access deny {name}.any !{name}.named why.name" for name in names),
        *(f"http_access deny {name}.any !{name}.granted why.port" for name in names),
        *(addressed if resolves else []),
        # The Host header of each request inside an inspected connection.
        "http_access deny tls opened !same_name why.host",
        *(f"http_access deny {name}.tls opened !{name}.request why.request" for name in narrow),
        *(line for agent in served for line in _used(agent)),
        *(f"http_access allow {name}.any" for name in names),
        "http_access deny all",
    ]) + "\n"


def _used(agent: Agent) -> List[str]:
    """Note of each request that gets secrets which they are, for the log; what adds them is _brokered.render()."""
    places: Dict[Tuple[str, int], List[str]] = {}
    for secret in _brokered.declared([agent]):
        places.setdefault((secret.host, secret.port), []).append(secret.name)
    lines, name = [], acl(agent["name"])
    for number, ((host, port), secrets) in enumerate(sorted(places.items())):
        lines += [f"acl {name}.for.{number} dstdomain -n {_checked(NAME, host)}",
                  f"acl {name}.uses.{number} annotate_transaction secret={','.join(secrets)}",
                  f"http_access allow {name}.tls opened {name}.to.{port} {name}.for.{number} {name}.uses.{number}"]
    return lines


def _led(served: List[Agent]) -> List[str]:
    """An agent's names lead into private networks that its own entries grant.

    The resolver answers the proxy with what any agent's entry for the name grants, and the packet filter lets the proxy
    there, whoever asked. So of those networks each agent is refused the ones that are not its own. Whatever else is private
    the resolver has left out. Only of CONNECT: a request inside a connection needs no resolver.
    """
    grants = _Grants(entry for agent in served for entry in https_names(agent))
    return [line for agent in served for line in _led_agent(acl(agent["name"]), https_names(agent), grants)]


def _led_agent(name: str, entries: List[Dict[str, Any]], grants: _Grants) -> List[str]:
    if not any(entry["networks"] for entry in entries):
        found = _without([*LOOPBACK, *grants.about(entries)], ())
        return [*(f"acl {name}.foreign dst {network}" for network in found),
                f"http_access deny {name}.any CONNECT {name}.foreign why.unresolved"]
    lines = []
    for number, (port, networks, run) in enumerate(_leading(entries)):
        one, foreign = f"{name}.foreign.{number}", _without([*LOOPBACK, *grants.about(run)], networks)
        lines += [f"acl {one}.names {_listed(entry)}" for entry in run]
        lines += [f"acl {one} dst {network}" for network in foreign]
        # The first run that has the name judges, and none after it.
        lines.append(f"http_access deny {name}.any CONNECT {name}.to.{port} !judged {one}.names now_judged "
                     + (f"{one} why.unresolved" if foreign else "!all"))
    return lines


class _Grants:
    """The networks that any agent's entries grant, by name: of a name only those count that can be answered for it."""

    def __init__(self, entries: Iterable[Mapping[str, Any]]) -> None:
        self._below: Dict[str, List[str]] = {}  # of all entries at or below a domain
        self._wildcards: Dict[str, List[str]] = {}
        for entry in entries:
            domain = _domain(entry)
            for above in _domains(domain) if entry["networks"] else ():
                self._below.setdefault(above, []).extend(entry["networks"])
            if _kind(entry) == "below":
                self._wildcards.setdefault(domain, []).extend(entry["networks"])

    def about(self, entries: Iterable[Mapping[str, Any]]) -> List[str]:
        """Those of all entries that may mean a host which one of these means."""
        found: List[str] = []
        for domain in map(_domain, entries):
            found += self._below.get(domain, ())
            for above in _domains(domain):
                found += self._wildcards.get(above, ())
        return list(dict.fromkeys(found))


def _domain(entry: Mapping[str, Any]) -> str:
    return str(entry["name"]).replace("*.", "", 1)


def _domains(domain: str) -> List[str]:
    """A domain and all above it."""
    labels = domain.split(".")
    return [".".join(labels[start:]) for start in range(len(labels))]


def _leading(entries: List[Dict[str, Any]]) -> List[Tuple[int, Tuple[str, ...], List[Dict[str, Any]]]]:
    """(port, networks, entries of one kind) in the order in which entries decide; see _ways."""
    def key(entry: Mapping[str, Any]) -> Tuple[str, int, Tuple[str, ...]]:
        return _kind(entry), entry["port"], tuple(sorted(entry["networks"]))

    exact = sorted((e for e in entries if _kind(e) == "exact"), key=key)
    ordered = exact + [e for e in entries if _kind(e) == "below"]
    return [(port, networks, list(run)) for (_kind_, port, networks), run in itertools.groupby(ordered, key=key)]


def _without(networks: Iterable[str], own: Iterable[str]) -> List[str]:
    """What these networks have besides own ones, as few networks as can be, sorted."""
    left = [ipaddress.ip_network(cidr) for cidr in networks]
    for taken in map(ipaddress.ip_network, own):
        left = [part for network in left for part in _parts(network, taken)]
    both = ([n for n in left if n.version == version] for version in (4, 6))
    return [str(network) for found in both for network in ipaddress.collapse_addresses(found)]  # type: ignore[type-var]


def _parts(network: Network, taken: Network) -> List[Network]:
    if network.version != taken.version or not network.overlaps(taken):
        return [network]
    if network.subnet_of(taken):  # type: ignore[arg-type]
        return []
    return list(network.address_exclude(taken))  # type: ignore[arg-type]


def _tls(served: List[Agent]) -> str:
    lines = ["ssl_bump peek !hello"]
    for agent in served:
        name = acl(agent["name"])
        for number, (inspect, port, _run) in enumerate(_ways(https_names(agent))):
            act, outcome = ("bump", "is.inspected") if inspect else ("splice", "is.tunnel")
            lines.append(f"ssl_bump {act} {name}.tls {name}.to.{port} {name}.way.{number} same_name {outcome}")
    return "\n".join([*lines, "ssl_bump splice same_name is.tunnel", "ssl_bump terminate why.sni"]) + "\n"


def _next_hops(served: List[Agent], upstream: Optional[Mapping[str, Any]]) -> str:
    where = "\n".join(_hop(acl(agent["name"])) for agent in served)
    lines = ["never_direct allow front"]
    if not upstream:
        return "\n".join([where, *lines, "always_direct allow tls"]) + "\n"
    address, port = ipaddress.ip_address(upstream["address"]), int(upstream["port"])
    shown = f"[{address}]" if address.version == 6 else str(address)
    return "\n".join([
        where, *lines,
        "# The company's own proxy, which resolves the names.",
        f"cache_peer {shown} parent {port} 0 name=_upstream no-query no-digest no-netdb-exchange default",
        "cache_peer_access _upstream allow tls",
        "never_direct allow tls",
    ]) + "\n"


def _included(secrets: List[_brokered.Secret], places: Places) -> List[str]:
    """Where the secrets are that are added to requests; their values are in no file that stays."""
    told = [f"# {secret.agent}: the secret {secret.name} as {secret.shown}" for secret in secrets]
    return ["\n".join([*told, f"include {places.brokered}", ""])] if secrets else []


def _hop(name: str) -> str:
    return f"cache_peer_access {name}.tls allow {name}"


def _unread(places: Places) -> str:
    return "\n".join([
        "# What could not be read as a request: squid knows no listener's name then, only its address.",
        f"logformat cordon.unread {_log_format('-')}",
        f"access_log stdio:{places.log} logformat=cordon.unread !front !tls !state",
    ]) + "\n"


def _log_format(name: str) -> str:
    """One JSON object a line; event() reads it. "#": whatever could end a string is percent-encoded."""
    fields = {
        "at": "%ts.%03tu", "agent": f'"{name}"', "address": '"%>la"', "method": '"%#rm"', "host": '"%#>rd"',
        "port": '"%>rP"', "sni": '"%#ssl::>sni"', "url": '"%#ru"', "outcome": '"%{outcome}note"',
        "reason": '"%{reason}note"', "secret": '"%{secret}note"', "status": "%>Hs", "sent": "%>st", "received": "%<st",
        "ms": "%tr", "hierarchy": '"%Sh"', "squid": '"%Ss"', "error": '"%err_code"', "detail": '"%#err_detail"',
        "mode": '"%ssl::bump_mode"',
    }
    return "{" + ",".join(f'"{key}":{value}' for key, value in fields.items()) + "}"
