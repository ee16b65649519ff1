# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What packet filter, proxy, resolver and units agree on."""
from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.cordon.agent_host.plugins.module_utils import _egress as egress
from ansible_collections.cordon.agent_host.plugins.module_utils._metadata import name_of


def https(name, port=443, inspect=False, networks=()):
    return {"name": name, "port": port, "protocol": "https", "log": True, "inspect": inspect,
            "networks": list(networks), "requests": []}


def direct(name, port=22, protocol="tcp", networks=()):
    return {**https(name, port, networks=networks), "protocol": protocol}


def cidr(network, port=443, protocol="tcp"):
    return {"cidr": network, "port": port, "protocol": protocol, "log": True}


def agent(*entries, name="a"):
    return {"name": name, "user": f"agent-{name}", "egress": list(entries)}


@given(st.lists(st.text("abcdefghij_0123456789", min_size=1, max_size=26), unique=True, max_size=60))
def test_every_agent_has_a_loopback_address_of_its_own(names):
    agents = [agent(name=name) for name in names]
    found = egress.addresses(agents)
    assert set(found) == set(names)
    assert len(set(found.values())) == len(names)
    for text in found.values():
        octets = [int(octet) for octet in text.split(".")]
        assert octets[:2] == [127, 99]
        assert octets[2] <= 254
        assert 1 <= octets[3] <= 254
    assert egress.addresses(reversed(agents)) == found


def test_an_address_is_the_name_s_hash_and_the_next_one_where_two_collide():
    assert egress.addresses([agent(name="autopilot")]) == {"autopilot": egress.address("autopilot")}
    first: dict[str, str] = {}
    names = (f"a{number}" for number in range(5000))
    one, other = next((first[where], name) for name in names
                      if first.setdefault(where := egress.address(name), name) != name)
    found = egress.addresses([agent(name=other), agent(name=one)])
    earlier, later = sorted([one, other])
    assert found[earlier] == egress.address(one)
    assert ipaddress.ip_address(found[later]) - 1 == ipaddress.ip_address(found[earlier]) or found[later][-2:] == ".1"


def test_the_kinds_of_names_and_who_is_needed():
    mixed = agent(https("b.example.org"), direct("git.example.org"), cidr("10.0.0.0/8"), https("*.example.org"))
    assert [entry["name"] for entry in egress.https_names(mixed)] == ["b.example.org", "*.example.org"]
    assert [entry["name"] for entry in egress.direct_names(mixed)] == ["git.example.org"]
    only = agent(https("b.example.org"))
    assert (egress.needs_proxy(only), egress.needs_resolver(only)) == (True, False)
    assert egress.services([only]) == ["_proxy", "_resolver"]
    assert egress.services([agent(direct("x.org"))]) == ["_resolver"]
    assert egress.services([agent(cidr("10.0.0.0/8"))]) == []


@pytest.mark.parametrize(("pattern", "name", "expected"), [
    ("x.org", "x.org", True), ("x.org", "X.ORG.", True), ("x.org", "a.x.org", False), ("x.org", "ax.org", False),
    ("*.x.org", "a.x.org", True), ("*.x.org", "a.b.x.org", True), ("*.x.org", "A.X.Org.", True),
    ("*.x.org", "x.org", False), ("*.x.org", ".x.org", False), ("*.x.org", "ax.org", False),
    ("*.x.org", "a.x.org.evil.net", False), ("*.x.org", "..x.org", False), ("*.x.org", "a.x.org..", False),
])
def test_a_wildcard_is_one_label_or_more_and_never_the_domain_itself(pattern, name, expected):
    assert egress.matches(pattern, name) is expected


def test_the_most_specific_entry_decides():
    entries = [https("*.org", networks=["10.0.0.0/8"]), https("*.x.org"), https("a.x.org", inspect=True),
               https("a.x.org", 8443)]
    assert egress.entry_for(entries, "a.x.org", 443)["inspect"]
    assert egress.entry_for(entries, "a.x.org", 8443)["name"] == "a.x.org"
    assert egress.entry_for(entries, "b.x.org")["name"] == "*.x.org"
    assert egress.entry_for(entries, "b.y.org")["name"] == "*.org"
    assert egress.entry_for(entries, "b.y.org", 80) is None
    assert egress.entry_for([https("*.google.internal")], "metadata.google.internal") is None


@pytest.mark.parametrize(("name", "known"), [
    ("metadata.google.internal", "metadata.google.internal"), ("x.metadata.google.internal", "metadata.google.internal"),
    ("metadata", "metadata"), ("metadata.example.org", None), ("example.metadata", None), ("google.internal", None),
])
def test_names_of_metadata_services_and_all_below_them(name, known):
    assert name_of(name) == known


PUBLIC = ["93.184.216.34", "203.0.113.9", "2606:4700::1111", "2001:db8::1", "::ffff:93.184.216.34",
          "64:ff9b::5db8:d822"]
PRIVATE = ["10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "127.0.0.1", "0.0.0.0", "224.0.0.251",
           "255.255.255.255", "::", "::1", "fd12::1", "fe80::1", "ff02::fb", "::ffff:10.0.0.1", "64:ff9b::a00:1",
           "2002:a00:1::1", "::10.0.0.1", "64:ff9b:1::1"]


@pytest.mark.parametrize(("text", "expected"), [(text, False) for text in PUBLIC] + [(text, True) for text in PRIVATE])
def test_private_addresses_in_every_spelling(text, expected):
    assert egress.private(text) is expected
    assert (egress.refusal(text) is not None) is expected


@pytest.mark.parametrize(("text", "networks", "said"), [
    ("10.1.2.3", ["10.1.0.0/16"], None), ("10.2.0.1", ["10.1.0.0/16"], "private"), ("127.0.0.1", ["127.0.0.1/32"], None),
    ("::ffff:10.1.2.3", ["10.1.0.0/16"], None), ("fd12::1", ["fd12::/16", "10.0.0.0/8"], None),
    ("169.254.169.254", ["0.0.0.0/0"], "metadata"), ("::ffff:169.254.169.254", ["::/0"], "metadata"),
    ("64:ff9b::a9fe:a9fe", ["::/0"], "metadata"), ("168.63.129.16", [], "metadata"), ("fd00:ec2::254", ["::/0"], "metadata"),
    ("127.99.3.7", ["127.0.0.0/8"], "belongs to the proxy"), ("::ffff:127.99.3.7", ["127.0.0.0/8"], "belongs to"),
])
def test_a_network_can_be_granted_but_never_metadata_and_never_a_listener(text, networks, said):
    found = egress.refusal(text, networks)
    assert found is None if said is None else said in found


def test_a_mark_is_one_agent_s_names_and_no_other_s():
    one, other = direct("x.org"), direct("y.org")
    assert egress.mark("a", [one, other]) == egress.mark("a", [other, one])
    different = {egress.mark("a", [one]), egress.mark("b", [one]), egress.mark("a", [one, other]), egress.mark("a", []),
                 egress.mark("a", [direct("x.org", 2222)]), egress.mark("a", [direct("x.org", networks=["10.0.0.0/8"])])}
    assert len(different) == 6
    assert all(0xC0000000 <= number <= 0xFFFFFFFF for number in different)


def test_the_environment_names_the_proxy_and_what_goes_around_it():
    found = egress.proxy_environment(agent(
        https("api.example.org"), https("git.example.org"), direct("git.example.org"), direct("*.db.example.net", 5432),
        direct("plain.example.net", 80), cidr("10.20.0.0/24"), cidr("10.20.1.7/32"), cidr("10.20.1.7/32", 80),
    ), "127.99.3.7")
    assert {found[key] for key in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY")} == {"http://127.99.3.7:3128"}
    assert found["no_proxy"] == found["NO_PROXY"]
    assert found["no_proxy"] == "localhost,127.0.0.1,::1,10.20.0.0/24,10.20.1.7,plain.example.net,.db.example.net"
    assert "-Dhttps.proxyHost=127.99.3.7 -Dhttps.proxyPort=3128" in found["JAVA_TOOL_OPTIONS"]
    assert "-Dhttp.nonProxyHosts=localhost|127.0.0.1|::1|10.20.1.7|plain.example.net|*.db" in found["JAVA_TOOL_OPTIONS"]
    assert "SSL_CERT_FILE" not in found


@pytest.mark.parametrize(("inspect", "ca"), [(True, False), (False, True)])
def test_who_is_inspected_or_has_a_ca_of_its_own_trusts_the_bundle(inspect, ca):
    found = egress.proxy_environment(agent(https("x.org", inspect=inspect)), "127.99.3.7", ca=ca)
    assert {found[key] for key in egress.CA_VARIABLES} == {"/usr/lib/cordon/trust/ca-bundle.pem"}
    assert "trustStore=/usr/lib/cordon/trust/java-trust-store" in found["JAVA_TOOL_OPTIONS"]


def test_without_https_names_there_is_no_environment():
    assert egress.proxy_environment(agent(direct("x.org"), cidr("10.0.0.0/8")), "127.99.3.7", ca=True) == {}
