# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The resolver against a real kernel, a DNS server that writes down what reaches it, and an agent that means harm.

Each attack is shown first: an ordinary user, against the DNS server itself. Who asks is told by the address that was
asked: a packet's source may be any of 127.0.0.0/8, and what keeps an agent from another's address is the firewall.
"""
from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import pytest

from .network import AGENT, ORDINARY, OTHER_AGENT, Network, agent, without_rules
from .resolver_world import GIT, OTHER, RESOLVER_USER, SERVER, World, direct, without_dns

OPEN = "203.0.113.9 . tcp . 22"
SSH = ("tcp", "203.0.113.9", 22)


@pytest.fixture(scope="module")
def place(network: Network) -> Iterator[Network]:
    """A host of agents that has no other DNS server."""
    with tempfile.TemporaryDirectory(prefix="cordon-resolver-") as directory:
        built = Network(Path(directory), network.collections)
        built.host, built.world = (f"cordon-resolver-{side}-{os.getpid()}" for side in ("host", "world"))
        try:
            built.build()
            without_dns(built)
            yield built
        finally:
            built.close()


@pytest.fixture
def world(place: Network) -> Iterator[World]:
    """With two agents, the table and the resolver."""
    place.forget()
    built = World(place)
    try:
        built.build()
        yield built
    finally:
        built.close()


def question(name: str = "git.example.org", kind: str = "A", **more: Any) -> dns.message.Message:
    return dns.message.make_query(name, kind, **more)


def addresses(answer: Any) -> list[str]:
    assert isinstance(answer, dns.message.Message), answer
    return sorted(rdata.address for rrset in answer.answer for rdata in rrset)


def rcode(answer: Any) -> str:
    return answer if isinstance(answer, str) else dns.rcode.to_text(answer.rcode())


def connects(world: World, user: str, *ways: tuple[str, str, int]) -> list[str]:
    return [outcome for outcome, _seconds in world.network.attempts(user, *ways)]


# --- What it is for ---------------------------------------------------------------------------------------


def test_an_allowed_name_is_answered_and_opens_its_address_for_a_while(world):
    assert connects(world, ORDINARY, SSH) == ["answered"]
    assert connects(world, AGENT, SSH) == ["ECONNREFUSED"]

    (answer,) = world.agent(question())
    assert addresses(answer) == ["203.0.113.9"]
    assert answer.answer[0].ttl <= 60

    assert connects(world, AGENT, SSH, ("tcp", "203.0.113.9", 443)) == ["answered", "ECONNREFUSED"]
    assert connects(world, OTHER_AGENT, SSH) == ["ECONNREFUSED"]
    # What the answer says and a minute: then the kernel lets go by itself (test_names.py waits for that).
    assert list(world.elements()) == [OPEN]
    assert 110 <= world.elements()[OPEN] <= 120
    assert world.elements("other") == {}


def test_both_families_and_both_protocols(world):
    world.answer({"git.example.org": {"AAAA": ["2001:db8:9::9"]}, "time.example.org": {"A": ["203.0.113.9"]}})
    ways = (("tcp", "2001:db8:9::9", 22), ("udp", "203.0.113.9", 123))
    assert connects(world, AGENT, *ways) == ["ECONNREFUSED", "EPERM"]
    world.agent(question(kind="AAAA"), question("time.example.org"))
    assert connects(world, AGENT, *ways) == ["answered", "answered"]


def test_libc_and_dig_are_content_with_it(world):
    """The C library's own resolver asks for A and AAAA at once, by one socket."""
    place = world.network.directory / "resolv.conf"
    place.write_text(f"nameserver {world.addresses['git']}\noptions edns0 timeout:2 attempts:1\n")
    place.chmod(0o644)
    mount = f"mount --bind {place} /etc/resolv.conf && exec setpriv --reuid={AGENT} --regid={AGENT} --clear-groups -- "
    inside = ["ip", "netns", "exec", world.network.host, "unshare", "-m", "sh", "-c"]

    def run(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*inside, mount + command], capture_output=True, text=True, check=False)

    found = run("getent -s dns ahosts git.example.org")
    assert "203.0.113.9" in found.stdout, found
    assert run("getent -s dns ahosts secret.git.example.org").returncode == 2
    dug = run("dig +noall +answer +comments git.example.org")
    assert "NOERROR" in dug.stdout
    assert "WARNING" not in dug.stdout + dug.stderr
    assert "203.0.113.9" in dug.stdout


def test_a_granted_private_network_is_reached_by_that_name_alone(world):
    world.answer({name: {"A": ["10.20.0.2"]} for name in ("db.example.org", "git.example.org")})
    db, git = world.agent(question("db.example.org"), question())
    assert (addresses(db), addresses(git)) == (["10.20.0.2"], [])
    assert list(world.elements()) == ["10.20.0.2 . tcp . 5432"]
    assert connects(world, AGENT, ("tcp", "10.20.0.2", 5432), ("tcp", "10.20.0.2", 22)) == ["answered", "ECONNREFUSED"]


def test_an_answer_is_given_again_without_a_question(world):
    world.agent(question())
    assert world.questions() == ["git.example.org. IN A"]
    first, second = world.agent(question(), question())
    assert world.questions() == []
    assert addresses(first) == addresses(second) == ["203.0.113.9"]
    assert 0 < first.answer[0].ttl <= 60


# --- Channels out -----------------------------------------------------------------------------------------


def test_the_dns_server_itself_is_out_of_reach(world):
    assert rcode(world.directly(question("stolen.example.org"))[0]) == "NOERROR"
    assert world.questions() == ["stolen.example.org. IN A"]
    assert world.ask(AGENT, SERVER, question("stolen.example.org")) == ["EPERM"]
    assert world.ask(AGENT, SERVER, question("stolen.example.org"), by="tcp") == ["ECONNREFUSED"]
    assert world.questions() == []


@pytest.mark.parametrize("name", ["secret.git.example.org", "secret.example.org", "example.org", "secret.test",
                                  "git.example.org.evil.test", "wild.example.org", "other.example.org"])
def test_no_label_leaves_but_those_of_an_allowed_name(world, name):
    assert rcode(world.directly(question(name))[0]) == "NOERROR"
    assert world.questions() == [f"{name}. IN A"]
    answers = world.agent(question(name), question(name, "AAAA"), question(name, "TXT")) + world.agent(question(name), by="tcp")
    assert [rcode(answer) for answer in answers] == ["REFUSED"] * 4
    assert world.questions() == []
    assert world.elements() == {}
    line = next(line for line in world.lines() if line["name"] == name)
    assert (line["agent"], line["event"], line["outcome"], line["addresses"]) == ("git", "dns", "refused", [])


KINDS = ("TXT", "NULL", "HTTPS", "SVCB", "ANY", "CNAME", "MX", "SRV", "NS", "PTR", "TYPE65400")


def test_no_type_but_addresses_leaves_or_comes_back(world):
    names = ("git.example.org", "a.wild.example.org")
    queries = [question(name, kind) for name in names for kind in KINDS]
    assert "orders for the agent" in world.directly(question("git.example.org", "TXT"))[0].to_text()
    world.directly(*queries)
    assert len(world.questions()) == len(queries) + 1
    for by in ("udp", "tcp"):
        answers = world.agent(*queries, by=by)
        assert {(rcode(answer), len(answer.answer), len(answer.authority)) for answer in answers} == {("NOERROR", 0, 0)}
    assert world.questions() == []


def test_no_zone_is_transferred(world):
    assert isinstance(world.directly(question("example.org", "AXFR"), by="tcp")[0], dns.message.Message)
    assert world.questions() == ["example.org. IN AXFR"]
    for kind in ("AXFR", "IXFR"):
        answers = world.agent(question("example.org", kind), question("git.example.org", kind), by="tcp")
        assert [(rcode(answer), len(answer.answer)) for answer in answers] == [("REFUSED", 0), ("NOERROR", 0)]
    assert world.questions() == []


def test_spelling_carries_nothing(world):
    spelling = dns.name.from_text("GiT.eXAmPle.ORg")
    world.directly(question(spelling))
    assert world.questions() == ["GiT.eXAmPle.ORg. IN A"]
    (answer,) = world.agent(question(spelling))
    assert answer.question[0].name.to_text() == "GiT.eXAmPle.ORg."
    world.agent(question(dns.name.from_text("SeCReT.WiLD.eXAmPle.ORg")))
    assert world.questions() == ["git.example.org. IN A", "secret.wild.example.org. IN A"]


def test_nothing_of_the_packet_is_passed_on(world):
    cookie, own = dns.edns.GenericOption(10, b"stolen!!"), dns.edns.GenericOption(65001, b"key")
    options = [dns.edns.ECSOption("198.51.100.0", 24), cookie, own]
    flags = dns.flags.RD | dns.flags.CD | dns.flags.AD
    telling = question(use_edns=0, payload=4321, options=options, want_dnssec=True, flags=flags)
    telling.id = 0x5EC1
    world.directly(telling)
    ((_by, seen),) = world.asked()
    assert len(seen.options) == 3
    assert (seen.id, seen.payload) == (0x5EC1, 4321)

    (answer,) = world.agent(telling)
    assert (addresses(answer), answer.options) == (["203.0.113.9"], ())
    ((_by, seen),) = world.asked()
    assert (seen.flags, seen.ednsflags, seen.payload, seen.options) == (dns.flags.RD, 0, 1232, ())
    assert seen.id != telling.id or seen.question[0].name.to_text() == "git.example.org."


def test_a_name_that_is_no_host_name_does_not_leave_under_a_wildcard(world):
    odd = dns.name.Name([b"key=\x00\xff.", b"wild", b"example", b"org", b""])
    dotted = dns.name.Name([b"git.example", b"org", b""])
    world.directly(question(odd), question(dotted))
    assert len(world.questions()) == 2
    assert [rcode(answer) for answer in world.agent(question(odd), question(dotted))] == ["REFUSED", "REFUSED"]
    assert world.questions() == []


def test_a_wildcard_carries_little(world):
    """Names under a wildcard reach its zone: that is what was allowed. How many, is limited."""
    names = [f"{number}-secret.wild.example.org" for number in range(1000)]
    world.directly(*map(question, names))
    assert len(world.questions()) == 1000
    start = time.monotonic()
    answers = world.agent(*map(question, names))
    took = time.monotonic() - start
    assert len(world.questions()) <= 200 + 20 * took + 1
    assert {rcode(answer) for answer in answers} == {"NOERROR", "SERVFAIL"}


# --- Ways round -------------------------------------------------------------------------------------------


def test_tcp_gets_what_udp_gets(world):
    (answer,) = world.agent(question(), by="tcp")
    assert addresses(answer) == ["203.0.113.9"]
    assert rcode(world.agent(question("secret.git.example.org"), by="tcp")[0]) == "REFUSED"


def test_other_ports_and_other_agents_resolvers_are_closed(world):
    own, theirs = world.addresses["git"], world.addresses["other"]
    with without_rules(world.network, "output", "goto others"):
        assert [rcode(one) for one in world.ask(ORDINARY, theirs, question("other.example.org"))] == ["NOERROR"]
    noted = len(world.lines())
    assert world.ask(ORDINARY, theirs, question("other.example.org")) == ["EPERM"]
    assert world.ask(ORDINARY, theirs, question("other.example.org"), by="tcp") == ["ECONNREFUSED"]
    assert len(world.lines()) == noted  # nobody speaks in an agent's name in the resolver's own log
    assert world.ask(AGENT, theirs, question("other.example.org")) == ["EPERM"]
    assert world.ask(AGENT, theirs, question("other.example.org"), by="tcp") == ["ECONNREFUSED"]
    for port in (5353, 853, 443):
        assert world.ask(AGENT, own, question(), port=port) == ["EPERM"]
    assert world.ask(AGENT, "127.0.0.53", question()) == ["EPERM"]
    assert world.ask(AGENT, "127.0.0.1", question()) == ["EPERM"]


def test_the_source_of_a_question_says_nothing(world):
    """With another agent's address as its source, a question is still judged by where it arrived."""
    queries = (question("other.example.org"), question())
    answers = world.agent(*queries, **{"from": world.addresses["other"]})
    # Answered by the agent's own list, or not sent at all; never by the other's.
    assert rcode(answers[0]) in ("REFUSED", "EPERM", "ETIMEDOUT")
    assert [rcode(one) for one in world.agent(*queries, **{"from": "127.5.5.5"})] == ["REFUSED", "NOERROR"]
    assert world.elements("other") == {}


REBINDING = [
    ("127.0.0.1", 8080), ("127.99.255.1", 53), ("10.20.0.2", 22), ("10.20.0.1", 22), ("169.254.169.254", 80),
    ("168.63.129.16", 80), ("100.100.100.200", 80), ("0.0.0.0", 22), ("224.0.0.1", 22), ("255.255.255.255", 22),
    ("fd00:ec2::254", 80), ("fd20:ce::254", 80), ("::1", 8080), ("fe80::a9fe:a9fe", 80), ("::ffff:169.254.169.254", 80),
    ("::ffff:203.0.113.9", 22), ("64:ff9b::a9fe:a9fe", 80), ("2002:a9fe:a9fe::1", 80), ("::", 22), ("ff02::1", 22),
]  # fmt: skip


@pytest.mark.parametrize("bad", [address for address, _port in REBINDING])
def test_an_allowed_name_leads_to_no_place_inside(world, bad):
    kind = "AAAA" if ":" in bad else "A"
    good = {"A": "203.0.113.9", "AAAA": "2001:db8:9::9"}[kind]
    world.answer({"git.example.org": {kind: [bad]}, "x.wild.example.org": {kind: [bad, good]}})
    queries = (question(kind=kind), question("x.wild.example.org", kind))
    assert len(addresses(world.directly(*queries)[1])) == 2

    alone, beside = world.agent(*queries)
    assert (rcode(alone), addresses(alone), addresses(beside)) == ("NOERROR", [], [good])
    assert list(world.elements()) == [f"{good} . tcp . 8080"]
    first, second = world.lines()[-2:]
    assert (first["outcome"], first["addresses"], second["outcome"], second["addresses"]) == ("filtered", [], "filtered", [good])


@pytest.fixture
def sshd(world) -> Iterator[None]:
    """Something on the host's own port 22, on all addresses of both families."""
    servers = len(world.network.children)
    world.network.start("listen", "::", "22")
    yield
    world.network.end(servers)


@pytest.mark.parametrize("nonlocal_bind", ["0", "1"])
@pytest.mark.parametrize("own", ["198.51.100.7", "2001:db8:20::1"])
def test_an_allowed_name_does_not_lead_back_to_this_host_s_own_address(world, sshd, own, nonlocal_bind):
    """The host's public address: what listens there for the world, or for the host alone because a cloud's firewall says so.

    With net.ipv4.ip_nonlocal_bind, as keepalived wants it, everybody may bind to every address: that tells nothing.
    """
    inside = ["ip", "netns", "exec", world.network.host]
    settings = [f"net.ipv{version}.ip_nonlocal_bind={nonlocal_bind}" for version in (4, 6)]
    for command in (["ip", "address", "add", "198.51.100.7/32", "dev", "lo"], ["sysctl", "-qw", *settings]):
        subprocess.run([*inside, *command], check=True)
    try:
        kind, good = ("AAAA", "2001:db8:9::9") if ":" in own else ("A", "203.0.113.9")
        world.answer({"git.example.org": {kind: [own, good]}})
        assert connects(world, ORDINARY, ("tcp", own, 22)) == ["answered"]
        assert len(addresses(world.directly(question(kind=kind))[0])) == 2

        assert addresses(world.agent(question(kind=kind))[0]) == [good]
        assert connects(world, AGENT, ("tcp", own, 22), ("tcp", good, 22)) == ["ECONNREFUSED", "answered"]
        assert f"{own} is an address of this very host" in world.lines()[-1]["reason"]
        assert world.lines()[-1]["outcome"] == "filtered"
    finally:
        subprocess.run([*inside, "ip", "address", "del", "198.51.100.7/32", "dev", "lo"], check=True)
        subprocess.run([*inside, "sysctl", "-qw", "net.ipv4.ip_nonlocal_bind=0", "net.ipv6.ip_nonlocal_bind=0"], check=True)


def test_the_host_s_own_address_is_reached_where_networks_grant_it(world, sshd):
    world.agents = [agent("git", AGENT, direct("git.example.org", networks=("2001:db8:20::1/128",))), OTHER]
    world.write_settings()
    world.apply()
    world.reload()
    world.answer({"git.example.org": {"AAAA": ["2001:db8:20::1"]}})
    assert addresses(world.agent(question(kind="AAAA"))[0]) == ["2001:db8:20::1"]
    assert connects(world, AGENT, ("tcp", "2001:db8:20::1", 22)) == ["answered"]


def test_what_was_filtered_could_have_been_reached(world):
    """The same addresses, by an ordinary user who believes the DNS server: this is what the filter is for."""
    reachable = [("tcp", address, port) for address, port in REBINDING
                 if address in ("169.254.169.254", "168.63.129.16", "100.100.100.200", "fd00:ec2::254", "10.20.0.2")]
    assert connects(world, ORDINARY, *reachable) == ["answered"] * len(reachable)
    assert set(connects(world, AGENT, *reachable)) == {"ECONNREFUSED"}


def test_an_alias_leads_on_but_not_to_metadata(world):
    world.answer({
        "git.example.org": {"CNAME": "edge.cdn.example.", "A": ["203.0.113.9"]},
        "a.wild.example.org": {"CNAME": "metadata.google.internal.", "A": ["203.0.113.66"]},
    })
    good, bad = world.agent(question(), question("a.wild.example.org"))
    assert addresses(good) == ["203.0.113.9"]
    assert "cdn" not in good.to_text()  # a second text of the upstream's that would reach the agent
    assert (addresses(bad), list(world.elements())) == ([], [OPEN])
    assert "metadata.google.internal" in world.lines()[-1]["reason"]


def test_a_second_answer_may_not_rebind(world):
    """First a good address, then, a second later, one inside: the lifetime is the attacker's choice."""
    world.answer({"git.example.org": {"A": ["203.0.113.9"], "ttl": 0}})
    assert addresses(world.agent(question())[0]) == ["203.0.113.9"]
    world.answer({"git.example.org": {"A": ["169.254.169.254"], "ttl": 0}})
    assert addresses(world.directly(question())[0]) == ["169.254.169.254"]
    assert addresses(world.agent(question())[0]) == []
    assert list(world.elements()) == [OPEN]


# --- Bad weather ------------------------------------------------------------------------------------------


def test_a_truncated_answer_comes_whole(world):
    many = [f"203.0.113.{number}" for number in range(1, 25)]
    world.answer({"git.example.org": {"A": many, "how": "truncated"}})
    assert world.directly(question())[0].flags & dns.flags.TC
    assert addresses(world.agent(question())[0]) == sorted(many)
    assert [by for by, _query in world.asked()] == ["udp", "udp", "tcp"]
    assert len(world.elements()) == 24


def test_what_does_not_fit_is_fetched_by_tcp(world):
    many = [f"2001:db8:9::{number:x}" for number in range(1, 31)]
    world.answer({"git.example.org": {"AAAA": many, "how": "truncated"}})
    (short,) = world.agent(question(kind="AAAA"))
    assert (short.flags & dns.flags.TC, short.answer) == (dns.flags.TC, [])
    assert len(addresses(world.agent(question(kind="AAAA"), by="tcp")[0])) == 30


def test_answers_to_other_questions_open_nothing(world):
    world.answer({"git.example.org": {"how": "foreign", "A": ["203.0.113.66"]}})
    start = time.monotonic()
    assert rcode(world.agent(question())[0]) == "SERVFAIL"
    assert time.monotonic() - start < 2.5
    assert world.elements() == {}
    assert world.lines()[-1]["outcome"] == "failed"


def test_a_dead_upstream_is_an_error_and_no_hang(world):
    world.answer({"git.example.org": {"how": "silent"}})
    own = {"to": world.addresses["git"], "by": "udp"}
    (silent,) = world.exchange(AGENT, {**own, "wire": question().to_wire().hex()})
    assert rcode(dns.message.from_wire(bytes.fromhex(silent["wire"]))) == "SERVFAIL"
    assert silent["seconds"] < 2.0  # the agent's own patience
    world.upstream.kill()
    world.upstream.wait()
    (dead,) = world.exchange(AGENT, {**own, "wire": question("a.wild.example.org").to_wire().hex()})
    assert rcode(dns.message.from_wire(bytes.fromhex(dead["wire"]))) == "SERVFAIL"
    assert dead["seconds"] < 0.5
    world.start_upstream()
    world.answer({})
    assert addresses(world.agent(question("b.wild.example.org"))[0]) == ["203.0.113.9"]


def test_octets_at_random_do_no_harm(world):
    rng, packets = random.Random(4), []
    whole = question(use_edns=0, options=[dns.edns.GenericOption(10, b"12345678")]).to_wire()
    for _ in range(300):
        damaged = bytearray(whole)
        for _change in range(rng.randint(1, 8)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        packets.append(bytes(damaged[:rng.randint(0, len(damaged))] if rng.random() < 0.3 else damaged))
    packets += [rng.randbytes(rng.randint(0, 600)) for _ in range(200)]
    packets += [whole[:12] + b"\xc0\x0c" * 200, whole[:4] + b"\xff\xff" * 4 + whole[12:], rng.randbytes(60000)]
    own = world.addresses["git"]
    for by in ("udp", "tcp"):
        world.exchange(AGENT, *({"to": own, "by": by, "wire": one.hex(), "timeout": 0.005} for one in packets))
    assert set(world.questions()) <= {"git.example.org. IN A", "git.example.org. IN AAAA"}
    assert set(world.elements()) <= {OPEN}
    time.sleep(1.5)  # its limit of questions fills up again
    assert addresses(world.agent(question())[0]) == ["203.0.113.9"]
    assert world.process.poll() is None
    assert "Traceback" not in world.complaints()


def test_a_flood_of_one_agent_is_counted_and_leaves_the_other_its_answers(world):
    wires = ",".join(question(f"{number}.secret.test").to_wire().hex() for number in range(50))
    flood = subprocess.Popen(world.command(AGENT, "flood", world.addresses["git"], wires, "3", "0"),
                             stdout=subprocess.PIPE, text=True)
    time.sleep(0.5)
    took = [one["seconds"] for one in world.exchange(OTHER_AGENT, *(
        {"to": world.addresses["other"], "by": "udp", "wire": question("other.example.org").to_wire().hex()} for _ in range(50)))]
    told = json.loads(flood.communicate()[0])
    assert told["sent"] > 5000
    assert told["received"] < 1000 + 500 * 4
    assert max(took) < 1.0, took
    world.end_resolver()  # which writes what it had only counted
    lines = world.lines()
    assert sum(line["agent"] == "git" for line in lines) < 1200
    counted = sum(line.get("suppressed", 1) for line in lines if line["agent"] == "git")
    # What the kernel had no room for in the socket, nobody sees.
    assert counted > told["received"]
    assert any(line.get("reason") == "flood" and line.get("suppressed", 0) > 100 for line in lines)
    assert world.questions() == ["other.example.org. IN A"]
    print(f"\nflood: sent {told['sent']}, answered {told['received']}, counted {counted}; the other agent waited"
          f" {1000 * sorted(took)[25]:.1f} ms (median), {1000 * max(took):.1f} ms (longest)")


# --- The table --------------------------------------------------------------------------------------------


def test_without_its_set_no_address_is_told(world):
    assert addresses(world.agent(question())[0]) == ["203.0.113.9"]
    world.network.nft("delete", "table", "inet", "cordon")
    time.sleep(0.3)
    own = world.addresses["git"]
    assert rcode(world.ask(ORDINARY, own, question())[0]) == "SERVFAIL"
    assert rcode(world.ask(ORDINARY, own, question("a.wild.example.org"))[0]) == "SERVFAIL"
    assert rcode(world.ask(ORDINARY, own, question("secret.test"))[0]) == "REFUSED"
    assert "systemctl reload cordon-firewall" in world.complaints()
    world.apply()
    time.sleep(0.3)
    assert addresses(world.agent(question())[0]) == ["203.0.113.9"]
    assert connects(world, AGENT, SSH) == ["answered"]


def test_a_table_that_is_loaded_again_has_its_elements_back_by_itself(world):
    world.agent(question(), question("a.wild.example.org"))
    before = world.elements()
    assert len(before) == 2
    world.network.nft("-f", str(world.network.directory / "firewall.nft"))
    time.sleep(0.3)
    after = world.elements()
    assert set(after) == set(before)
    assert all(0 <= before[key] - after[key] <= 3 for key in before)
    assert connects(world, AGENT, SSH) == ["answered"]


def test_a_reload_puts_back_what_somebody_flushed(world):
    world.agent(question())
    world.network.nft("flush", "set", "inet", "cordon", "named4_git")
    assert connects(world, AGENT, SSH) == ["ECONNREFUSED"]
    world.reload()
    assert connects(world, AGENT, SSH) == ["answered"]


def test_a_name_that_leaves_the_manifest_is_closed_at_the_reload(world):
    world.agent(question(), question("a.wild.example.org"))
    world.agents = [{**GIT, "egress": [direct("*.wild.example.org", 8080)]}, OTHER]
    world.write_settings()
    world.reload()
    assert list(world.elements()) == ["203.0.113.9 . tcp . 8080"]
    world.apply()
    time.sleep(0.3)
    assert list(world.elements()) == ["203.0.113.9 . tcp . 8080"]
    assert rcode(world.agent(question())[0]) == "REFUSED"


def test_killed_it_comes_back_and_goes_on(world):
    world.agent(question())
    world.end_resolver(signal.SIGKILL)
    # What was open stays so until its time; nobody is answered.
    assert list(world.elements()) == [OPEN]
    assert world.agent(question()) == ["ECONNREFUSED"]
    time.sleep(2)
    world.start_resolver()
    world.agent(question())
    assert world.elements()[OPEN] > 117, "an element that an earlier process placed is prolonged"


def test_it_holds_two_rights_and_no_more(world):
    status = Path(f"/proc/{world.process.pid}/status").read_text()
    rows = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert {rows[name] for name in ("CapEff", "CapPrm", "CapAmb", "CapBnd")} == {f"{1 << 12 | 1 << 10:016x}"}
    assert rows["Uid"].split()[0] != "0"
    assert RESOLVER_USER != AGENT


# --- How fast ---------------------------------------------------------------------------------------------


def measured(world: World, user: str, to: str, names: list[str], under_way: int, seconds: float = 2.0) -> dict[str, float]:
    done = subprocess.run(world.command(user, "measure", to, ",".join(names), str(under_way), str(seconds)),
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout)
    return found


UNLIMITED = """
import sys
from cordon_firewall import bucket, resolver, service
resolver.QUESTIONS = resolver.ASKED = bucket.Limit(1e9, 1e9)
sys.exit(service.main(sys.argv[1:]))
"""


def test_it_has_room_above_its_limits(world, capsys):
    """Answers a second without the limits, of one process that runs beside its DNS server and whoever asks."""
    world.end_resolver()
    world.start_resolver("-c", UNLIMITED)
    own = world.addresses["git"]
    cached = measured(world, AGENT, own, ["git.example.org"], 20)
    world.answer({f"{number}.wild.example.org": {"A": ["203.0.113.9"], "ttl": 0} for number in range(200)})
    uncached = measured(world, AGENT, own, [f"{number}.wild.example.org" for number in range(200)], 20)
    alone = measured(world, ORDINARY, SERVER, [f"{number}.wild.example.org" for number in range(200)], 20)
    with capsys.disabled():
        for what, found in (("cached", cached), ("uncached", uncached), ("the DNS server itself", alone)):
            print(f"\n{what}: " + ", ".join(f"{key} {value:.1f}" for key, value in found.items()), end="")
    assert cached["rate"] > 500  # its limit of questions, and of one process
    assert uncached["rate"] > 40


def test_it_is_quick_enough(world, capsys):
    """Below its own limits, one question after the other."""
    own, names = world.addresses["git"], [f"{number}.wild.example.org" for number in range(150)]
    world.directly(question())
    plain = world.exchange(ORDINARY, *({"to": SERVER, "by": "udp", "wire": question(name).to_wire().hex()} for name in names))
    fresh = world.exchange(AGENT, *({"to": own, "by": "udp", "wire": question(name).to_wire().hex()} for name in names))
    again = world.exchange(AGENT, *({"to": own, "by": "udp", "wire": question(name).to_wire().hex()} for name in names))
    upstream, uncached, cached = (1000 * sorted(one["seconds"] for one in found)[75] for found in (plain, fresh, again))
    with capsys.disabled():
        print(f"\nmedian of 150, ms: upstream itself {upstream:.2f}, through the resolver {uncached:.2f}, cached {cached:.2f}")
    assert uncached - upstream < 50
    assert cached < 20
