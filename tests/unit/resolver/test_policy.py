# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of a question and of an answer's addresses."""

from __future__ import annotations

import ipaddress
import re
from typing import List

import pytest
from cordon_firewall import policy
from cordon_firewall.settings import Client, Grant
from hypothesis import given
from hypothesis import strategies as st

from cordon import _metadata

A, AAAA = 1, 28


def nowhere(_address: str) -> bool:
    return False


def labels(name: str) -> List[bytes]:
    return name.encode("latin-1").split(b".")


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("git.example.org", "git.example.org"),
        ("GiT.eXaMpLe.OrG", "git.example.org"),
        ("a.example.net", "a.example.net"),
        ("a.b.example.net", "a.b.example.net"),
        ("_x-y.example.net", "_x-y.example.net"),
    ],
)
def test_an_allowed_name_is_asked_in_lower_case(client: Client, name: str, asked: str) -> None:
    for kind in (A, AAAA):
        assert policy.decide(client, labels(name), kind).ask == asked


@pytest.mark.parametrize(
    "name",
    [
        "secret.git.example.org",
        "example.org",
        "org",
        "example.net",
        "xgit.example.org",
        "git.example.org.evil.test",
        "evilexample.net",
        "data out.example.net",
        "\xff\x00.example.net",
    ],
)
def test_what_is_not_allowed_is_refused_and_not_empty(client: Client, name: str) -> None:
    decision = policy.decide(client, labels(name), A)
    assert decision.ask is None
    assert decision.reason
    assert not decision.empty


def test_a_dot_within_a_label_makes_no_other_name(client: Client) -> None:
    assert policy.decide(client, [b"git.example", b"org"], A).ask is None
    assert policy.decide(client, [b"x.example", b"net"], A).ask is None
    assert policy.decide(client, [], A).ask is None


def test_no_wildcard_covers_a_metadata_name() -> None:
    grants = tuple(Grant(f"*.{name.partition('.')[2]}", (("tcp", 80),), ()) for name in _metadata.NAMES if "." in name)
    client = Client("a", "127.99.0.1", "a", grants)
    for name in _metadata.NAMES:
        if "." in name:
            assert policy.grants_for(grants, name) or name.count(".") == 1
            assert "metadata" in policy.decide(client, labels(name), A).reason


@pytest.mark.parametrize("kind", [2, 5, 6, 10, 12, 15, 16, 33, 64, 65, 251, 252, 255, 65535])
def test_other_types_of_an_allowed_name_are_empty(client: Client, kind: int) -> None:
    decision = policy.decide(client, labels("git.example.org"), kind)
    assert (decision.ask, decision.empty) == (None, True)
    assert not policy.decide(client, labels("other.example.org"), kind).empty


def test_a_class_other_than_in_is_refused(client: Client) -> None:
    for other in (3, 255):
        decision = policy.decide(client, labels("git.example.org"), A, other)
        assert (decision.ask, decision.empty) == (None, False)


PRIVATE = [
    "127.0.0.1", "127.99.3.7", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "255.255.255.255", "169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "192.0.0.192",
    "::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:169.254.169.254", "::ffff:10.0.0.1",
    "::ffff:203.0.113.9", "64:ff9b::a9fe:a9fe", "64:ff9b::a00:1", "2002:a9fe:a9fe::1", "2002:7f00:1::1", "::127.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_leads_to_no_private_address(client: Client, address: str) -> None:
    grants = policy.grants_for(client.grants, "git.example.org")
    opening = policy.open_for(grants, [address, "203.0.113.9"], nowhere)
    assert opening.addresses == ("203.0.113.9",)
    assert opening.elements == (("203.0.113.9", "tcp", 22),)
    assert len(opening.dropped) == 1
    assert address in opening.dropped[0]


OWN = ["198.51.100.7", "2001:db8:20::1", "10.20.0.1"]


@pytest.mark.parametrize("address", OWN)
def test_a_name_leads_back_to_this_host_only_where_its_networks_say_so(address: str) -> None:
    def opened(*networks: str) -> policy.Opening:
        return policy.open_for((Grant("x.example.org", (("tcp", 22),), networks),), [address, "203.0.113.9"], OWN.__contains__)

    assert opened().addresses == opened("10.99.0.0/16").addresses == ("203.0.113.9",)
    assert re.fullmatch(f"{address} is (an address of this very host|a private address), and .*", opened().dropped[0])
    assert opened(address).addresses == (address, "203.0.113.9")


def test_the_kernel_is_not_asked_about_more_than_an_answer_may_have(client: Client) -> None:
    asked: List[str] = []
    many = [str(ipaddress.IPv4Address("203.0.113.0") + number) for number in range(200)]
    policy.open_for(policy.grants_for(client.grants, "git.example.org"), many, lambda address: bool(asked.append(address)))
    assert asked == many[: policy.MOST_ADDRESSES]


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254", "64:ff9b::a9fe:a9fe", "224.0.0.1", "255.255.255.255"])
def test_no_grant_opens_metadata_or_a_group(address: str) -> None:
    grants = (Grant("x.example.org", (("tcp", 80),), ("0.0.0.0/0", "::/0")),)
    assert policy.open_for(grants, [address], nowhere).addresses == ()
    assert policy.open_for(grants, ["10.0.0.1", "fd00::1"], nowhere).addresses == ("10.0.0.1", "fd00::1")


def test_each_port_is_decided_by_the_most_specific_grant(client: Client) -> None:
    grants = policy.grants_for(client.grants, "db.example.net")
    assert [grant.name for grant in grants] == ["db.example.net", "*.example.net"]
    opening = policy.open_for(grants, ["10.20.0.5", "203.0.113.9"], nowhere)
    # 5432 by the exact grant; 443 by the wildcard, which grants no private network.
    assert set(opening.elements) == {
        ("10.20.0.5", "tcp", 5432), ("203.0.113.9", "tcp", 5432), ("203.0.113.9", "udp", 443),
    }  # fmt: skip
    assert opening.dropped == ()


def test_an_exact_grant_without_networks_is_not_widened_by_a_wildcard() -> None:
    grants = (Grant("x.example.org", (("tcp", 22),), ()), Grant("*.example.org", (("tcp", 22),), ("10.0.0.0/8",)))
    assert policy.open_for(policy.grants_for(grants, "x.example.org"), ["10.0.0.1"], nowhere).addresses == ()
    assert policy.open_for(policy.grants_for(grants, "y.example.org"), ["10.0.0.1"], nowhere).addresses == ("10.0.0.1",)


def test_an_answer_opens_a_few_addresses_only(client: Client) -> None:
    many = [str(ipaddress.IPv4Address("203.0.113.0") + number) for number in range(100)]
    opening = policy.open_for(policy.grants_for(client.grants, "git.example.org"), many + many, nowhere)
    assert opening.addresses == tuple(many[: policy.MOST_ADDRESSES])
    assert len(opening.dropped) == 100 - policy.MOST_ADDRESSES


@given(st.lists(st.binary(min_size=1, max_size=63), min_size=1, max_size=8))
def test_what_is_asked_is_made_of_plain_labels(found: List[bytes]) -> None:
    client = Client("a", "127.99.0.1", "a", (Grant("*.example.net", (("tcp", 1),), ()),))
    asked = policy.decide(client, [*found, b"example", b"net"], A).ask
    if asked is not None:
        assert asked.isascii()
        assert asked == asked.lower()
        assert [label.lower() for label in found] == labels(asked)[:-2]


@given(st.lists(st.ip_addresses().map(str), max_size=50))
def test_nothing_opened_is_metadata_or_private(found: List[str]) -> None:
    opening = policy.open_for((Grant("x.y", (("tcp", 1), ("udp", 2)), ()),), found, nowhere)
    assert {element[0] for element in opening.elements} == set(opening.addresses)
    for address in opening.addresses:
        assert not policy._egress.private(address)
        assert _metadata.endpoint_of(address) is None
