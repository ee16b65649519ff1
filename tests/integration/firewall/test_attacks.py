# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each way out is tried by an ordinary user first, who gets an answer, and then by an agent, who gets an error at once.

The same programs, the same addresses, the same moment: only the user differs. Ways: research, peers S-25 to S-27.
"""
from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from .network import AGENT, ORDINARY, OTHER_AGENT, Network, agent, allow

UNLISTED = "irc"  # a user of Debian's whom nothing names
AT_ONCE = 1.0  # seconds
REFUSED = {"tcp": {"ECONNREFUSED"}, "fast_open": {"ECONNREFUSED", "EPERM"}}
BY_SEND = {"EPERM", "EACCES"}

# A wide allowlist on purpose: metadata must be refused although every address is granted.
WIDE = (allow("0.0.0.0/0", 80), allow("::/0", 80), allow("0.0.0.0/0", 53, "udp"), allow("::/0", 53, "udp"))
NARROW = (allow("10.20.0.0/28", 5432), allow("2001:db8:20::/64", 443), allow("10.20.0.2/32", 123, "udp", log=False))

METADATA = [(how, address, port) for how, port in (("tcp", 80), ("udp", 53)) for address in (
    "169.254.169.254", "168.63.129.16", "100.100.100.200", "fd00:ec2::254", "fd20:ce::254",
    "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1")]
OFF_LIST = [
    ("tcp", "203.0.113.9", 443), ("tcp", "2001:db8:9::9", 443),
    ("tcp", "10.20.0.2", 22), ("tcp", "10.20.0.2", 443), ("tcp", "::ffff:10.20.0.2", 443),
    ("tcp", "10.20.0.1", 8080), ("tcp", "2001:db8:20::1", 8080),
    ("tcp", "127.0.0.1", 8080), ("tcp", "::1", 8080), ("tcp", "127.0.0.1", 5432),
    ("udp", "127.0.0.1", 53), ("udp", "::1", 53), ("tcp", "127.0.0.1", 53), ("tcp", "203.0.113.9", 853),
    ("udp", "10.20.0.2", 53), ("udp", "203.0.113.9", 443), ("udp", "2001:db8:9::9", 443), ("udp", "10.20.0.2", 443),
    ("udp", "10.20.0.3", 123),
    ("ping", "10.20.0.2", 0), ("ping", "2001:db8:20::2", 0), ("ping", "203.0.113.9", 0), ("ping", "127.0.0.1", 0),
    ("udplite", "203.0.113.9", 443), ("udplite", "10.20.0.2", 5432),
    ("raw", "203.0.113.9", 0), ("raw", "2001:db8:9::9", 0),
    ("sctp", "203.0.113.9", 443), ("sctp", "10.20.0.2", 5432), ("sctp", "2001:db8:9::9", 443), ("sctp", "127.0.0.1", 8080),
    ("fast_open", "203.0.113.9", 443), ("source_route", "10.20.0.2", 123),
]
GRANTED = [("tcp", "10.20.0.2", 5432), ("tcp", "10.20.0.3", 5432), ("tcp", "::ffff:10.20.0.2", 5432),
           ("tcp", "2001:db8:20::2", 443), ("udp", "10.20.0.2", 123)]


@pytest.fixture(scope="module")
def firewall(network: Network) -> Iterator[Network]:
    """The table with one agent that may reach a little and one that may reach every address on two ports."""
    result = network.apply(agent("narrow", AGENT, *NARROW), agent("wide", OTHER_AGENT, *WIDE))
    assert not result.get("failed"), result
    yield network
    network.forget()


@pytest.mark.parametrize(("user", "counter", "ways"), [
    (AGENT, "metadata_narrow", METADATA), (OTHER_AGENT, "metadata_wide", METADATA), (AGENT, "denied_narrow", OFF_LIST),
], ids=["metadata, off the list", "metadata, on the list", "off the list"])
def test_what_an_ordinary_user_reaches_is_refused_to_an_agent_at_once(firewall, user, counter, ways):
    reached = firewall.attempts(ORDINARY, *ways)
    assert {outcome for outcome, _seconds in reached} <= {"answered", "sent"}, list(zip(ways, reached))

    before = firewall.counter(counter)
    refused = firewall.attempts(user, *ways)

    wrong = [(way, got) for way, got in zip(ways, refused)
             if got[0] not in REFUSED.get(way[0], BY_SEND) or got[1] > AT_ONCE]
    assert not wrong
    assert firewall.counter(counter) >= before + len(ways)


def test_what_the_manifest_grants_is_answered(firewall):
    assert [outcome for outcome, _seconds in firewall.attempts(AGENT, *GRANTED)] == ["answered"] * len(GRANTED)


@pytest.mark.parametrize(("address", "port"), [("203.0.113.9", 80), ("2001:db8:9::9", 80)])
@pytest.mark.parametrize(("how", "protocol"), [("sctp", 132), ("raw", 253)])
def test_what_is_neither_tcp_nor_udp_never_arrives(firewall, how, protocol, address, port):
    """Whoever may reach every address on this port by TCP may not do so by another transport."""
    heard = firewall.start("hear", address, str(protocol), side=firewall.world)
    assert heard.first == "ready"
    for user, said in ((ORDINARY, "sent"), (OTHER_AGENT, "EPERM"), (AGENT, "EPERM"), (ORDINARY, "sent")):
        assert firewall.attempts(user, (how, address, port))[0][0] == said
    time.sleep(0.2)
    heard.kill()
    assert len(heard.communicate()[0].split()) == 2  # the two of the ordinary user


def test_a_grant_to_one_agent_is_none_to_another(firewall):
    (wide, _), (narrow, _) = firewall.attempts(OTHER_AGENT, ("tcp", "203.0.113.9", 80), ("tcp", "10.20.0.2", 5432))
    assert (wide, narrow) == ("answered", "ECONNREFUSED")


def test_root_and_other_users_are_never_matched(firewall):
    assert {outcome for outcome, _ in firewall.attempts("root", *METADATA, *OFF_LIST)} <= {"answered", "sent"}


@pytest.mark.parametrize("address", ["10.20.0.1", "2001:db8:20::1"])
@pytest.mark.parametrize("how", ["tcp", "udp"])
def test_a_listener_of_an_agent_cannot_answer_who_connects_to_it(firewall, how, address):
    mine = firewall.start("listen", address, "9000", user=ORDINARY)
    assert firewall.attempts("root", (how, address, 9000), side=firewall.world)[0][0] == "answered"
    mine.kill()
    mine.wait()

    firewall.start("listen", address, "9001", user=AGENT)
    assert firewall.attempts("root", (how, address, 9001), side=firewall.world)[0][0] == "ETIMEDOUT"


def test_an_answer_to_an_allowed_destination_is_still_no_way_out(clean):
    """Without a look at the direction, the answer to a call *from* an allowed address and port would match the list."""
    clean.apply(agent("a", AGENT, allow("10.20.0.0/24", 5432), allow("10.20.0.0/24", 5432, "udp")))
    clean.start("listen", "10.20.0.1", "9002", user=AGENT)
    assert clean.attempts("root", ("udp_from_5432", "10.20.0.1", 9002), side=clean.world)[0][0] == "ETIMEDOUT"


def test_a_granted_loopback_place_serves_both_ends(clean):
    """An agent's own helper on 127.0.0.1, say a browser's debugging port."""
    clean.apply(agent("a", AGENT, allow("127.0.0.1/32", 9100)), agent("b", OTHER_AGENT))
    clean.start("listen", "127.0.0.1", "9100", user=AGENT)
    clean.start("listen", "127.0.0.1", "9101", user=AGENT)

    granted, other = clean.attempts(AGENT, ("tcp", "127.0.0.1", 9100), ("tcp", "127.0.0.1", 9101))
    assert (granted[0], other[0]) == ("answered", "ECONNREFUSED")
    assert clean.attempts(OTHER_AGENT, ("tcp", "127.0.0.1", 9100))[0][0] == "ECONNREFUSED"


def test_a_narrower_allowlist_cuts_a_connection_that_stands(clean):
    clean.apply(agent("a", AGENT, allow("10.20.0.2/32", 443)))
    held = clean.start("hold", "10.20.0.2", "443", user=AGENT)
    assert held.first == "answered"
    assert _say(held) == "sent"

    clean.apply(agent("a", AGENT, allow("10.20.0.3/32", 443)))

    assert _say(held) in ("ECONNRESET", "EPIPE")


def test_metadata_is_for_the_listed_users_and_root(clean):
    """A log shipper may ask there, and nobody else has to."""
    agents = agent("narrow", AGENT, *NARROW), agent("wide", OTHER_AGENT, *WIDE)
    assert not clean.apply(*agents).get("failed")
    assert {outcome for outcome, _seconds in clean.attempts(UNLISTED, *METADATA)} <= {"answered", "sent"}

    result = clean.apply(*agents, metadata_users=[ORDINARY, OTHER_AGENT, "root"])
    assert not result.get("failed"), result
    assert not clean.apply(*agents, metadata_users=["root", OTHER_AGENT, ORDINARY])["changed"]
    for user in (ORDINARY, "root"):
        assert {outcome for outcome, _seconds in clean.attempts(user, *METADATA)} <= {"answered", "sent"}
    refused = {*REFUSED["tcp"], *BY_SEND}
    # An agent that is listed is an agent all the same.
    for user, counter in ((UNLISTED, "metadata__others"), (AGENT, "metadata_narrow"), (OTHER_AGENT, "metadata_wide")):
        before = clean.counter(counter)
        assert {outcome for outcome, _seconds in clean.attempts(user, *METADATA)} <= refused
        assert clean.counter(counter) >= before + len(METADATA)
    assert {outcome for outcome, _seconds in clean.attempts(UNLISTED, *OFF_LIST)} <= {"answered", "sent"}


def _say(held) -> str:
    held.stdin.write("\n")
    held.stdin.flush()
    return held.stdout.readline().strip()
