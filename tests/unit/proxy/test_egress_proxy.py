# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the manifest's https names become. That squid agrees is tests/integration/firewall/test_proxy.py's business."""
from __future__ import annotations

import re

import pytest
from ansible.errors import AnsibleFilterError
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.cordon.agent_host.plugins.filter.egress_proxy import egress_proxy
from ansible_collections.cordon.agent_host.plugins.module_utils import _egress, _egress_proxy
from ansible_collections.cordon.agent_host.plugins.module_utils._egress_proxy import config


def granted(name, port=443, inspect=False, networks=()):
    return {"name": name, "port": port, "protocol": "https", "log": True, "inspect": inspect, "networks": list(networks),
            "requests": []}


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
