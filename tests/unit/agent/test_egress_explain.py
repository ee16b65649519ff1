# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""May the agent reach it, which line decides, and what would allow it."""

from __future__ import annotations

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils import _egress
from ansible_collections.cordon.agent_host.plugins.module_utils._egress_explain import (
    ExplainError,
    address_of,
    explain,
    read,
)
from ansible_collections.cordon.agent_host.plugins.module_utils._manifest import resolve

RUNS = {"command": ["/usr/bin/sleep", "infinity"]}
AGENTS = resolve([
    {"name": "scout", **RUNS, "egress": [
        {"name": "api.example.org"},
        {"name": "*.cdn.example.net"},
        {"name": "git.example.org", "protocol": "ssh"},
        {"cidr": "10.20.0.0/24", "port": 5432},
        {"cidr": "192.0.2.53/32", "port": 53, "protocol": "udp"},
        {"cidr": "2001:db8:1::/48", "port": 8443},
        {"name": "alt.example.org", "port": 8443, "protocol": "https", "inspect": True},
        {"name": "db.corp.example.org", "port": 5432, "networks": ["10.30.0.0/24"]},
        {"name": "static.cdn.example.net"},
        {"cidr": "0.0.0.0/0", "port": 9999},
    ]},
    {"name": "scribe", **RUNS, "egress": [{"name": "api.example.org"}]},
    {"name": "hermit", **RUNS},
], {})
OWN = _egress.addresses(AGENTS)


def asked(destination, agent="scout", **said):
    return explain(AGENTS, agent, read(destination, **said))


@pytest.mark.parametrize(("destination", "way", "entry"), [
    ("api.example.org", "proxy", 0),
    ("API.Example.ORG.", "proxy", 0),
    ("api.example.org:443", "proxy", 0),
    ("https://api.example.org/v1/models?x=1", "proxy", 0),
    ("https://user:secret@api.example.org", "proxy", 0),
    ("a.cdn.example.net", "proxy", 1),
    ("a.b.CDN.example.net", "proxy", 1),
    ("static.cdn.example.net", "proxy", 8),  # the exact line decides, not the wildcard
    ("https://alt.example.org:8443/", "proxy", 6),
    ("alt.example.org:8443", "proxy", 6),
    ("git.example.org:22", "name", 2),
    ("ssh://git@git.example.org/team/repository", "name", 2),
    ("git@git.example.org:team/repository.git", "name", 2),
    ("postgresql://u:p@db.corp.example.org/main", "name", 7),
    ("10.20.0.7:5432", "direct", 3),
    ("10.20.7:5432", "direct", 3),  # inet_aton(3) reads 10.20.0.7
    ("0xa140007:5432", "direct", 3),
    ("012.024.0.07:5432", "direct", 3),
    ("169082887:5432", "direct", 3),
    ("[::ffff:10.20.0.7]:5432", "direct", 3),
    ("192.0.2.53:53/udp", "direct", 4),
    ("[2001:db8:1::7]:8443", "direct", 5),
    ("198.51.100.1:9999", "direct", 9),
])
def test_the_way_and_the_line_that_decides(destination, way, entry):
    found = asked(destination)
    assert (found["allowed"], found["way"]) == (True, way)
    assert found["decided_by"] == {"path": f"agents[0].egress[{entry}]", "entry": AGENTS[0]["egress"][entry]}
    assert found["to_allow"] is None and not found["never"] and found["because"]


@pytest.mark.parametrize("host", [
    "api.example.org", "10.20.0.0.7", "09.1.1.1", "256.1.1.1", "1.2.3.256", "0xg", "1.2.65536", "a.1", "",
])
def test_what_is_no_address(host):
    assert address_of(host) is None


def test_the_path_counts_the_agents_too():
    assert asked("api.example.org", "scribe")["decided_by"]["path"] == "agents[1].egress[0]"


@pytest.mark.parametrize(("destination", "said", "line"), [
    ("www.example.org", {}, {"name": "www.example.org"}),
    ("WWW.example.org:8080", {}, {"name": "www.example.org", "port": 8080}),
    ("www.example.org:8443", {"protocol": "https"}, {"name": "www.example.org", "port": 8443, "protocol": "https"}),
    ("www.example.org", {"protocol": "tcp"}, {"name": "www.example.org", "protocol": "tcp"}),
    ("www.example.org:123/udp", {}, {"name": "www.example.org", "port": 123, "protocol": "udp"}),
    ("www.example.org", {"protocol": "ssh"}, {"name": "www.example.org", "protocol": "ssh"}),
    ("http://www.example.org/", {}, {"name": "www.example.org", "port": 80}),
    ("cdn.example.net", {}, {"name": "cdn.example.net"}),  # *.cdn.example.net never means itself
    ("evilcdn.example.net", {}, {"name": "evilcdn.example.net"}),
    ("api.example.org.evil.example", {}, {"name": "api.example.org.evil.example"}),
    ("203.0.113.9", {}, {"cidr": "203.0.113.9/32", "port": 443}),
    ("10.20.0.7:5433", {}, {"cidr": "10.20.0.7/32", "port": 5433}),
    ("192.0.2.53:53", {}, {"cidr": "192.0.2.53/32", "port": 53}),
    ("2001:db8:2::1", {}, {"cidr": "2001:db8:2::1/128", "port": 443}),
    ("localhost:8080", {}, {"cidr": "127.0.0.1/32", "port": 8080}),
    ("0.0.0.0:8080", {}, {"cidr": "127.0.0.1/32", "port": 8080}),
    ("127.1:8080", {}, {"cidr": "127.0.0.1/32", "port": 8080}),
    ("[::]:8080", {}, {"cidr": "::1/128", "port": 8080}),
    ("https://203.0.113.9/", {}, {"cidr": "203.0.113.9/32", "port": 443}),
])
def test_what_to_write_is_taken_by_the_manifest_and_allows_it(destination, said, line):
    found = asked(destination, **said)
    assert (found["allowed"], found["never"], found["to_allow"], found["decided_by"]) == (False, False, line, None)
    changed = resolve([{**AGENTS[0], "egress": [*AGENTS[0]["egress"], line]}], {})
    after = explain(changed, "scout", read(destination, **said))
    assert after["allowed"] and after["decided_by"]["path"] == "agents[0].egress[10]"


@pytest.mark.parametrize(("destination", "agent", "word"), [
    ("169.254.169.254:80", "scout", "metadata"),
    ("169.254.169.254:9999", "scout", "metadata"),  # although 0.0.0.0/0 is granted on that port
    ("2852039166", "scout", "metadata"),
    ("0251.0376.0251.0376", "scout", "metadata"),
    ("0xA9FEA9FE", "scout", "metadata"),
    ("0xa9.254.0251.254", "scout", "metadata"),
    ("169.254.43518", "scout", "metadata"),
    ("[::ffff:169.254.169.254]:80", "scout", "metadata"),
    ("[::ffff:a9fe:a9fe]:80", "scout", "metadata"),
    ("[64:ff9b::a9fe:a9fe]:80", "scout", "metadata"),
    ("[2002:a9fe:a9fe::]:80", "scout", "metadata"),
    ("fd00:ec2::254", "scout", "metadata"),
    ("fe80::a9fe:a9fe%eth0", "scout", "metadata"),
    ("100.100.100.200", "scout", "metadata"),
    ("http://Metadata.Google.Internal./computeMetadata/v1/", "scout", "metadata"),
    ("x.metadata.google.internal", "scout", "metadata"),
    (f"{OWN['scribe']}:3128", "scout", "own address only"),
    (f"{OWN['scribe']}:9999", "scout", "own address only"),
    (f"{_egress.PROXY_LISTENS_TO}:53/udp", "scout", "own address only"),
    (f"{OWN['scribe']}:53/udp", "scribe", "what its names need"),  # https names only: no resolver
    (f"{OWN['hermit']}:3128", "hermit", "what its names need"),
    (f"{OWN['scout']}:3129", "scout", "what its names need"),
    ("203.0.113.9:7/icmp", "scout", "nothing grants icmp"),
    ("203.0.113.9:7/sctp", "scout", "nothing grants sctp"),
    ("intranet", "scout", "no domain"),
    ("bücher.example", "scout", "xn--"),
    ("a..example.org", "scout", "not a host name"),
])
def test_what_nothing_can_allow_says_why(destination, agent, word):
    found = asked(destination, agent)
    assert (found["allowed"], found["never"], found["to_allow"]) == (False, True, None)
    assert word in found["because"]


@pytest.mark.parametrize(("destination", "agent"), [
    (f"{OWN['scout']}:3128", "scout"),
    (f"{OWN['scout']}:53/udp", "scout"),
    (f"{OWN['scout']}:53", "scout"),
    (f"{OWN['scribe']}:3128", "scribe"),
])
def test_its_own_services_are_no_entry_of_the_manifest(destination, agent):
    found = asked(destination, agent)
    assert (found["allowed"], found["way"], found["decided_by"]) == (True, "service", None)


@pytest.mark.parametrize(("destination", "said", "note"), [
    ("api.example.org:22", {}, "agents[0].egress[0] allows it on https port 443"),
    ("git.example.org", {}, "agents[0].egress[2] allows it on tcp port 22"),
    ("10.20.0.7:22", {}, "agents[0].egress[3] allows it on tcp port 5432"),
    ("cdn.example.net", {}, "agents[0].egress[1] is for the names below cdn.example.net, not for itself"),
    ("api.example.org", {"protocol": "udp"}, "QUIC"),
    ("http://api.example.org", {}, "plain HTTP passes no proxy"),
    ("127.0.0.1:6379", {}, "this is the host itself"),
    ("192.168.1.1:22", {}, "private address"),
    ("8.8.8.8:53", {"protocol": "udp"}, "carries out whatever is put into a question"),
    ("db.corp.example.org:5432", {}, "of private addresses it may lead to 10.30.0.0/24 only"),
    ("api.example.org", {}, "grant those by networks"),
    ("api.example.org", {}, "server name (SNI)"),
    ("https://alt.example.org:8443", {}, "must trust /usr/lib/cordon/trust/ca-bundle.pem"),
])
def test_notes_say_what_is_near_and_what_may_still_fail(destination, said, note):
    assert note in "\n".join(asked(destination, **said)["notes"])


def test_a_tcp_connection_is_not_what_an_https_name_grants():
    assert not asked("api.example.org", protocol="tcp")["allowed"]
    assert not asked("git.example.org:22", protocol="udp")["allowed"]


@pytest.mark.parametrize("text", ["", "  ", "x" * 401, "a\nb", "a:b:c", "https://", "host:99999", "host:-1", "host:٤", "foo://host"])
def test_a_question_that_cannot_be_read(text):
    with pytest.raises(ExplainError):
        read(text)
