# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the manifest's https names become. That squid agrees is tests/integration/firewall/test_proxy.py's business."""
from __future__ import annotations

import ipaddress
import re

import pytest
from ansible.errors import AnsibleFilterError
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.cordon.agent_host.plugins.filter.egress_proxy import egress_proxy
from ansible_collections.cordon.agent_host.plugins.module_utils import _egress, _egress_proxy
from ansible_collections.cordon.agent_host.plugins.module_utils._egress_proxy import config

# The machine may be busy: how long one example takes says nothing.
PATIENT = settings(deadline=None)


def granted(name, port=443, inspect=False, networks=()):
    return {"name": name, "port": port, "protocol": "https", "log": True, "inspect": inspect, "networks": list(networks)}


def agent(name, *egress):
    return {"name": name, "user": f"agent-{name}", "egress": list(egress)}


def decisions(text):
    """The lines that count, without comments."""
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize(("entry", "lines"), [
    (granted("api.example.org"), ["acl agent.a.443.exact dstdomain -n api.example.org", "acl agent.a.to.443 port 443"]),
    (granted("api.example.org", 8443), ["acl agent.a.8443.exact dstdomain -n api.example.org", "acl agent.a.to.8443 port 8443"]),
    (granted("*.example.org"), [r"acl agent.a.443.below dstdom_regex -n -i ^([a-z0-9_-]+\.)+example\.org$"]),
    (granted("api.example.org", inspect=True),
     ["acl agent.a.way.0 dstdomain -n api.example.org",
      "ssl_bump bump agent.a.tls agent.a.to.443 agent.a.way.0 same_name is.inspected"]),
])
def test_an_entry_becomes_these_lines(entry, lines):
    assert set(lines) <= set(decisions(config([agent("a", entry)])))


def test_each_block_names_the_line_of_the_manifest_that_it_comes_from():
    text = config([agent("a", granted("api.example.org", inspect=True), granted("*.example.org", 8443))])
    assert "# a: {name: api.example.org, port: 443, inspect: true}\nacl " in text
    assert '# a: {name: "*.example.org", port: 8443}\nacl ' in text


def test_the_order_of_the_manifest_does_not_count():
    entries = [granted("a.example.org"), granted("b.example.org", inspect=True), granted("*.example.org", 8443)]
    one, two = agent("one", *entries), agent("two", *entries[:1])
    assert config([one, two]) == config([agent("two", *entries[:1]), agent("one", *entries[::-1])])


@pytest.mark.parametrize(("entries", "ways"), [
    ([granted("a.example.org"), granted("*.example.org")], []),
    ([granted("a.example.org"), granted("*.example.org", inspect=True)],
     [("splice", "a.example.org"), ("bump", "*.example.org")]),
    ([granted("a.example.org", inspect=True), granted("*.example.org")], [("bump", "a.example.org")]),
    ([granted("*.example.org", inspect=True), granted("*.eu.example.org")],
     [("splice", "*.eu.example.org"), ("bump", "*.example.org")]),
])
def test_the_most_specific_entry_decides_whether_a_host_is_inspected(entries, ways):
    found = _egress_proxy._ways(_egress.https_names(agent("a", *entries)))
    assert [("bump" if inspect else "splice", entry["name"]) for inspect, _port, run in found for entry in run] == ways


@PATIENT
@given(st.text(max_size=40), st.sampled_from([False, True]))
def test_no_name_can_bring_a_line_with_it(name, inspect):
    plain = [line.split()[0] for line in decisions(config([agent("a", granted("x.example", inspect=inspect))]))]
    try:
        text = config([agent("a", granted(name, inspect=inspect))])
    except ValueError:
        return
    assert [line.split()[0] for line in decisions(text)] == plain
    assert re.fullmatch(r"[a-z0-9_.*-]+", name)


@pytest.mark.parametrize("name", ["x.example\nhttp_access allow all", "x.example all", "x.example#", "x\"y", "", "x..y", ".x",
                                  "x\r", "${x}", "x\n", "ü.example", "a" * 254])
def test_a_name_that_could_mean_more_is_refused(name):
    with pytest.raises(ValueError, match="cannot stand in the proxy's configuration"):
        config([agent("a", granted(name))])


@PATIENT
@given(st.from_regex(_egress_proxy.NAME, fullmatch=True), st.from_regex(r"[a-zA-Z0-9_.-]{1,40}", fullmatch=True))
def test_the_pattern_of_a_wildcard_means_what_the_manifest_means(pattern, host):
    if pattern.startswith("*."):
        regex = _egress_proxy._listed(granted(pattern)).split()[-1]
        for one in (host, f"{host}{pattern[1:]}", pattern[2:]):
            wellformed = re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", one)
            if wellformed:
                assert bool(re.search(regex, one, re.I)) == _egress.matches(pattern, one)


def test_names_of_agents_cannot_be_taken_for_squids_own():
    """"all", "manager" and "CONNECT" are lists that squid or this text defines."""
    text = config([agent(name, granted("x.example")) for name in ("all", "manager", "front", "tls")])
    defined = {(line.split()[1], line.split()[2]) for line in decisions(text) if line.startswith("acl ")}
    assert len({name for name, _type in defined}) == len(defined), "a list has two types"


def test_the_longest_list_has_a_name_that_squid_takes():
    text = config([agent("a" * 26, granted("*.example.org", 65535))])
    assert max(len(line.split()[1]) for line in decisions(text) if line.startswith("acl ")) < 64  # ACL_NAME_SZ


def test_the_digest_is_that_of_the_text():
    text = config([agent("a", granted("x.example"))])
    found = _egress_proxy.running(text)
    assert found == _egress_proxy.digest(text.replace(f"cordon-{found}", "cordon-@digest@"))
    assert found != _egress_proxy.running(config([agent("a", granted("y.example"))]))


NETWORKS = st.lists(st.builds(lambda number, length: str(ipaddress.ip_network((number & ~0 << 32 - length, length))),
                              st.integers(0x0A000000, 0x0A0000FF), st.integers(24, 32)), max_size=4)


@PATIENT
@given(NETWORKS, NETWORKS)
def test_what_is_foreign_is_what_others_have_besides_ones_own(granted_to_all, own):
    def inside(networks, address):
        return any(address in ipaddress.ip_network(network) for network in networks)

    left = _egress_proxy._without(granted_to_all, own)
    for number in range(256):
        address = ipaddress.ip_address(0x0A000000 + number)
        assert inside(left, address) == (inside(granted_to_all, address) and not inside(own, address))


def test_networks_of_both_versions_are_told_apart():
    assert _egress_proxy._without(["fd00::/8", "10.0.0.0/8", "::1/128"], ["fd00::/9", "10.0.0.0/8"]) == ["::1/128", "fd80::/9"]


LOCAL = ["127.0.0.0/8", "::1/128"]


def foreign(text, name):
    """The networks that an agent is refused, by the names that each list is about; None: by all names."""
    lines = [line.split() for line in decisions(text) if f"agent.{name}.foreign" in line]
    found = {}
    for acl in dict.fromkeys(words[1] for words in lines if words[0] == "acl" and not words[1].endswith(".names")):
        names = [words[-1] for words in lines if words[1] == f"{acl}.names"]
        found[" ".join(names) or None] = [words[-1] for words in lines if words[1] == acl]
    return found


def test_each_agent_is_refused_the_networks_of_others():
    led = granted("db.example.org", networks=["10.30.0.0/24"])
    other = agent("c", granted("z.org"))
    text = config([agent("a", led, granted("x.example.org")), agent("b", granted("db.example.org")), other])
    # What c asks for is never answered with it.
    assert foreign(text, "a") == {"x.example.org": LOCAL, "db.example.org": LOCAL}
    assert foreign(text, "b") == {None: ["10.30.0.0/24", *LOCAL]}
    assert foreign(text, "c") == {None: LOCAL}
    assert "http_access deny agent.b.any CONNECT agent.b.foreign why.unresolved" in text


def test_a_wildcard_is_refused_what_a_name_below_it_leads_to_and_the_other_way_round():
    below = agent("a", granted("x.example.org", networks=["10.1.0.0/16"]), granted("*.example.net", networks=["10.2.0.0/16"]))
    text = config([below, agent("b", granted("*.example.org")), agent("c", granted("y.example.net"))])
    assert foreign(text, "b") == {None: ["10.1.0.0/16", *LOCAL]}
    assert foreign(text, "c") == {None: ["10.2.0.0/16", *LOCAL]}


def test_the_entry_that_decides_is_the_one_that_judges():
    """The exact name before the wildcard, and of what it does not grant nothing that the wildcard does."""
    entries = [granted("*.example.org", networks=["10.1.0.0/16"]), granted("x.example.org"), granted("y.example.org", 8443)]
    text = config([agent("a", *entries)])
    assert [line for line in decisions(text) if line.startswith("http_access") and "foreign" in line] == [
        f"http_access deny agent.a.any CONNECT agent.a.to.{port} !judged agent.a.foreign.{number}.names now_judged "
        f"agent.a.foreign.{number} why.unresolved" for number, port in enumerate((443, 8443, 443))]
    regex, refused = r"^([a-z0-9_-]+\.)+example\.org$", ["10.1.0.0/16", *LOCAL]
    assert foreign(text, "a") == {"x.example.org": refused, "y.example.org": refused, regex: LOCAL}


def test_this_host_is_foreign_but_to_a_name_that_may_lead_there():
    text = config([agent("a", granted("x.example.org", networks=LOCAL)), agent("b", granted("x.example.org"))])
    assert foreign(text, "a") == {} and foreign(text, "b") == {None: LOCAL}
    assert "now_judged !all" in text


def test_a_companys_proxy_resolves_in_our_place():
    text = config([agent("a", granted("x.example"))], {"address": "2001:db8::8", "port": 8080})
    lines = decisions(text)
    assert "cache_peer [2001:db8::8] parent 8080 0 name=_upstream no-query no-digest no-netdb-exchange default" in lines
    assert "never_direct allow tls" in lines and "always_direct allow tls" not in lines
    assert not [line for line in lines if line.startswith("http_access") and "resolves" in line]


def test_a_host_without_https_names_has_no_files():
    assert egress_proxy([agent("a", {"cidr": "192.0.2.0/24", "port": 443, "protocol": "tcp", "log": True})]) == []


PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


def test_the_companys_authorities_stand_in_a_file_once():
    files = {one["path"]: one["content"] for one in egress_proxy([agent("a", granted("x.example"))], None, [PEM, PEM + PEM])}
    assert files["/etc/cordon/proxy/internal-ca.pem"] == PEM
    assert "cafile=/etc/cordon/proxy/internal-ca.pem" in files["/etc/cordon/proxy/squid.conf"]


@pytest.mark.parametrize("text", ["", "x", PEM + "x", PEM.replace("CERTIFICATE", "PRIVATE KEY")])
def test_what_is_no_certificate_is_refused(text):
    with pytest.raises(AnsibleFilterError, match=r"ca_certificates\[0\] is no PEM certificate"):
        egress_proxy([agent("a", granted("x.example"))], None, [text])
