# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the manifest's allowlists become. That nft and the kernel agree is tests/integration/firewall's business."""
from __future__ import annotations

import ipaddress
import re

import pytest
from ansible.errors import AnsibleFilterError
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.cordon.agent_host.plugins.filter.firewall_ruleset import firewall_ruleset
from ansible_collections.cordon.agent_host.plugins.module_utils import _egress
from ansible_collections.cordon.agent_host.plugins.module_utils._nftables_ruleset import body, destinations


def allow(cidr, port=443, protocol="tcp", log=True):
    return {"cidr": cidr, "port": port, "protocol": protocol, "log": log}


def agent(name, *egress):
    return {"name": name, "user": f"agent-{name}", "egress": list(egress)}


def chain(text, name):
    return [line.strip() for line in re.search(rf"chain {name} \{{\n(.*?)\t\}}", text, re.S)[1].splitlines()]


@pytest.mark.parametrize(("egress", "expected"), [
    ([], []),
    ([allow("10.20.0.0/24", 5432)], ["10.20.0.0/24 . tcp . 5432"]),
    ([allow("10.20.0.7/32"), allow("10.20.0.7/32")], ["10.20.0.7/32 . tcp . 443"]),
    ([allow("10.0.0.0/8"), allow("10.20.0.0/24")], ["10.0.0.0/8 . tcp . 443"]),
    ([allow("10.0.0.0/8"), allow("10.20.0.0/24", 22)], ["10.20.0.0/24 . tcp . 22", "10.0.0.0/8 . tcp . 443"]),
    ([allow("10.0.0.0/25"), allow("10.0.0.128/25")], ["10.0.0.0/24 . tcp . 443"]),
    ([allow("10.0.0.0/8", 53, "udp"), allow("10.0.0.0/8", 53)], ["10.0.0.0/8 . tcp . 53", "10.0.0.0/8 . udp . 53"]),
    ([allow("2001:db8::/32"), allow("10.0.0.0/8", log=False)], []),
    ([allow("0.0.0.0/0")], ["0.0.0.0/0 . tcp . 443"]),
])
def test_overlapping_networks_of_one_port_become_one(egress, expected):
    assert destinations(egress, 4, log=True) == expected


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(8, 32), st.sampled_from([22, 443])), max_size=30))
def test_merging_neither_adds_nor_loses_an_address(drawn):
    egress = [allow(str(ipaddress.IPv4Network((number, prefix), strict=False)), port) for number, prefix, port in drawn]
    merged = [element.split(" . ") for element in destinations(egress, 4, log=True)]
    networks = [(ipaddress.ip_network(cidr), int(port)) for cidr, _protocol, port in merged]

    for entry in egress:
        holders = [network for network, port in networks
                   if port == entry["port"] and ipaddress.ip_network(entry["cidr"]).subnet_of(network)]
        assert len(holders) == 1
    for port in (22, 443):
        wanted = ipaddress.collapse_addresses(ipaddress.ip_network(e["cidr"]) for e in egress if e["port"] == port)
        assert sum(n.num_addresses for n in wanted) == sum(n.num_addresses for n, p in networks if p == port)


def test_metadata_is_refused_before_anything_is_allowed():
    rules = chain(body([agent("a", allow("0.0.0.0/0"), allow("::/0"))]), "egress_a")
    assert rules[:2] == ["ip daddr @metadata4 goto metadata_a", "ip6 daddr @metadata6 goto metadata_a"]
    assert rules[-1] == "goto denied_a"


def test_no_rule_trusts_a_connection_for_being_established():
    text = body([agent("a", allow("10.0.0.0/8"))])
    assert "established" not in text
    assert "related" not in text


def test_an_entry_with_log_off_is_accepted_without_a_line_in_the_log():
    rules = chain(body([agent("a", allow("10.0.0.0/8", log=False), allow("10.1.0.0/16", 22))]), "egress_a")
    assert "ip daddr . meta l4proto . th dport @quiet4_a goto quiet_a" in rules
    assert "log" not in str(chain(body([agent("a")]), "quiet_a"))
    assert "ip daddr . meta l4proto . th dport @allowed4_a goto allowed_a" in rules


def test_the_text_depends_neither_on_the_order_of_agents_nor_on_that_of_entries():
    one, other = allow("10.0.0.0/8"), allow("2001:db8::/32", 22)
    assert body([agent("a", one, other), agent("b")]) == body([agent("b"), agent("a", other, one)])


def test_names_of_chains_and_sets_are_unique_whatever_agents_are_called():
    names = ["a", "a_allowed", "allowed_a", "denied", "metadata", "metadata4", "output", "refuse", "agents", "egress_a"]
    entries = allow("10.0.0.0/8"), allow("::/0"), name("x.org"), name("x.org", 22, "tcp")
    text = body([agent(one, *entries) for one in names], SERVICES)
    for kind in ("chain", "set", "map", "counter"):
        found = re.findall(rf"^\t{kind} (\S+) ", text, re.M)
        assert len(found) == len(set(found))


def test_without_agents_the_table_stands_and_matches_nobody():
    text = body([])
    assert "meta skuid vmap @agents" in text
    assert "elements" not in text.split("map agents")[1]


@pytest.mark.parametrize(("agents", "said"), [
    ([{"name": "a"}], "cordon.agent_host.agents first"),
    (["a"], "cordon.agent_host.agents first"),
    ([agent("a", allow("10.0.0.1/8"))], "host bits"),
    ([agent("a", allow("10.0.0.0/8", protocol="sctp"))], "sctp"),
])
def test_what_is_no_resolved_manifest_is_named(agents, said):
    with pytest.raises(AnsibleFilterError, match=said):
        firewall_ruleset(agents)


SERVICES = {"upstream_proxy": None, "dns_servers": ["192.0.2.53", "2001:db8::53", "fe80::1%eth0", "192.0.2.53"]}


def name(host, port=443, protocol="https", log=True, networks=()):
    return {"name": host, "port": port, "protocol": protocol, "log": log, "inspect": False, "networks": list(networks),
            "requests": []}


def index(lines, *wanted):
    return [next(number for number, line in enumerate(lines) if part in line) for part in wanted]


def test_a_host_without_names_has_no_set_that_expires_and_no_user_of_a_service():
    agents = [agent("a", allow("10.0.0.0/8"))]
    text = body(agents, SERVICES)
    assert text == body(agents)
    assert not re.search(r"127\.99|timeout|ct mark|_proxy|_resolver|_others", text)
    assert chain(text, "output")[1:] == ["meta skuid vmap @agents"]
    assert firewall_ruleset(agents)["users"] == {"uid_a": "agent-a"}


def test_an_agent_reaches_its_own_listeners_and_nobody_else_s():
    agents = [agent("web", name("x.org")), agent("git", name("x.org", 22, "tcp")), agent("all", allow("0.0.0.0/0", 3128))]
    text, where = body(agents, SERVICES), _egress.addresses(agents)
    for one in ("web", "git", "all"):
        rules = chain(text, f"egress_{one}")
        assert f"ct direction reply ip saddr 127.99.0.0/16 goto denied_{one}" in rules
        assert f"ip daddr 127.99.0.0/16 goto denied_{one}" in rules
        accepted = [line for line in rules if line.startswith("ip daddr 127.99.") and "goto quiet" in line]
        assert accepted == {
            "web": [f"ip daddr {where['web']} tcp dport 3128 goto quiet_web"],
            "git": [f"ip daddr {where['git']} meta l4proto {{ tcp, udp }} th dport 53 goto quiet_git"],
            "all": [],
        }[one]
    rules = chain(text, "egress_all")
    assert index(rules, "ip saddr 127.99", "th sport @", "reply goto", "ip daddr 127.99", "th dport @") == sorted(
        index(rules, "ip saddr 127.99", "th sport @", "reply goto", "ip daddr 127.99", "th dport @"))


def test_what_a_name_leads_to_comes_after_metadata_and_answers_and_lives_on_by_its_mark():
    text = body([agent("a", name("x.org", 22, "tcp"))], SERVICES)
    rules = chain(text, "egress_a")
    mark = f"0x{_egress.mark('a', [name('x.org', 22, 'tcp')]):08x}"
    assert rules[-4:] == [
        "ip daddr . meta l4proto . th dport @named4_a goto named_a",
        "ip6 daddr . meta l4proto . th dport @named6_a goto named_a",
        f"ct mark {mark} ct state established accept",
        "goto denied_a",
    ]
    assert rules[:2] == ["ip daddr @metadata4 goto metadata_a", "ip6 daddr @metadata6 goto metadata_a"]
    assert chain(text, "named_a")[:3] == ["oif lo goto denied_a", f"ct mark set {mark}", "jump flows_a"]
    assert "set named4_a {\n\t\ttype ipv4_addr . inet_proto . inet_service\n\t\tsize 65535\n\t\tflags timeout\n" in text


LOCAL = "oif lo ip saddr 127.0.0.1 ip daddr 127.0.0.1 meta l4proto tcp"


def test_everybody_else_is_kept_from_the_listeners_and_root_may_ask_the_proxy_s_state():
    with_proxy, without = (body([agent("a", name("x.org", *how))], SERVICES) for how in ((), (22, "tcp")))
    for text in (with_proxy, without):
        assert chain(text, "output")[-3:] == [
            "meta skuid vmap @agents", "ip daddr 127.99.0.0/16 meta skuid >= 0 goto others",
            "ip saddr 127.99.0.0/16 meta skuid >= 0 goto others"]
        assert '"cordon:_others:denied "' in text
    assert chain(with_proxy, "others") == ["meta skuid 0 ip daddr 127.99.255.1 tcp dport 3128 accept", "goto denied__others"]
    assert chain(without, "others") == ["goto denied__others"]


def test_whatever_is_accepted_for_an_agent_is_counted_among_its_flows_but_answers():
    text = body([agent("a", allow("10.0.0.0/8"), allow("10.0.0.0/8", 22, log=False), name("x.org"), name("x.org", 22, "tcp"))],
                SERVICES)
    for one in ("quiet_a", "allowed_a", "named_a"):
        rules = chain(text, one)
        assert rules.index("jump flows_a") < rules.index("accept") == len(rules) - 1
        assert not [line for line in rules[:rules.index("jump flows_a")] if "log" in line]
    accepted = [line for line in chain(text, "egress_a") if line.endswith("accept")]
    assert [line for line in accepted if "ct direction reply" not in line and "ct state established" not in line] == []
    assert [line.split(" goto ")[1] for line in chain(text, "flows_a")] == ["flood_a", "flood_a"]


@pytest.mark.parametrize(("networks", "rules"), [
    ([()], ["oif lo goto denied_a"]),
    ([("10.0.0.0/9", "10.128.0.0/9"), ("198.51.100.7/32",)],
     ["oif lo ip daddr != { 10.0.0.0/8, 198.51.100.7/32 } goto denied_a", "oif lo meta nfproto ipv6 goto denied_a"]),
    ([(), ("fd00::/8",)], ["oif lo meta nfproto ipv4 goto denied_a", "oif lo ip6 daddr != { fd00::/8 } goto denied_a"]),
])
def test_a_name_leads_back_into_this_host_where_networks_say_so(networks, rules):
    entries = [name(f"{number}.x.org", 22, "tcp", networks=found) for number, found in enumerate(networks)]
    assert chain(body([agent("a", *entries)], SERVICES), "named_a")[:len(rules)] == rules


@pytest.mark.parametrize(("entries", "start"), [
    ([(22, True), (22, False)], "ct state new"),
    ([(22, True), (5432, False)], "meta l4proto . th dport { tcp . 22 } ct state new"),
    ([(22, True), (22, False), (5432, False)], "meta l4proto . th dport { tcp . 22 } ct state new"),
])
def test_a_port_is_logged_where_one_of_its_names_is(entries, start):
    listed = [name(f"{number}.x.org", port, "tcp", log=log) for number, (port, log) in enumerate(entries)]
    (line,) = [line for line in chain(body([agent("a", *listed)], SERVICES), "named_a") if "log prefix" in line]
    assert line.startswith(start)


def test_names_without_a_line_in_the_log():
    assert "log prefix" in str(chain(body([agent("a", name("x.org", 22, "tcp"))], SERVICES), "named_a"))
    assert "log prefix" not in str(chain(body([agent("a", name("x.org", 22, "tcp", log=False))], SERVICES), "named_a"))


def test_the_proxy_sends_to_the_resolver_and_where_names_lead_and_nowhere_else():
    text = body([agent("a", name("x.org"))], SERVICES)
    rules = chain(text, "egress__proxy")
    helpers = f"0x{_egress.mark('_proxy and its helpers', []):08x}"
    assert chain(text, "output")[1] == f"ct mark {helpers} ct direction reply meta skuid != $uid__proxy goto denied__proxy"
    assert rules[:2] == ["ip daddr @metadata4 goto metadata__proxy", "ip6 daddr @metadata6 goto metadata__proxy"]
    assert [line for line in rules if "accept" in line or "goto named" in line] == [
        "oif lo ip daddr 127.99.255.1 tcp dport 3128 accept",
        "oif lo ip daddr 127.99.0.0/16 tcp dport 3129 accept",
        f"ct direction original ct state new {LOCAL} ct mark set {helpers} accept",
        f"{LOCAL} ct mark {helpers} accept",
        "ct direction reply oif lo ip saddr 127.99.0.0/16 tcp sport { 3128, 3129 } accept",
        "ip daddr 127.99.255.1 meta l4proto { tcp, udp } th dport 53 accept",
        "ip daddr . meta l4proto . th dport @named4__proxy goto named__proxy",
        "ip6 daddr . meta l4proto . th dport @named6__proxy goto named__proxy",
        f"ct mark 0x{_egress.mark('_proxy', []):08x} ct state established accept",
    ]
    assert rules[-1] == "goto denied__proxy"
    assert '"cordon:_proxy:denied "' in text


def test_behind_a_company_s_proxy_ours_sends_to_that_one_only():
    services = {"upstream_proxy": {"address": "10.0.0.8", "port": 8080}, "dns_servers": []}
    rules = chain(body([agent("a", name("x.org"))], services), "egress__proxy")
    assert "ip daddr 10.0.0.8 tcp dport 8080 accept" in rules
    assert not [line for line in rules if "@named" in line or "established" in line]


def test_the_resolver_asks_the_servers_of_this_host_even_among_metadata_addresses():
    text = body([agent("a", name("x.org", 22, "tcp"))], {"dns_servers": ["168.63.129.16", "fe80::1%eth0"]})
    rules = chain(text, "egress__resolver")
    assert rules[:3] == [
        "ct direction original ip daddr 168.63.129.16 meta l4proto { tcp, udp } th dport 53 accept",
        "ct direction original ip6 daddr fe80::1 meta l4proto { tcp, udp } th dport 53 accept",
        "ip daddr @metadata4 goto metadata__resolver",
    ]
    assert rules[-2:] == ["ct direction reply oif lo ip saddr 127.99.0.0/16 meta l4proto { tcp, udp } th sport 53 accept",
                          "goto denied__resolver"]


@pytest.mark.parametrize(("services", "said"), [
    (None, "no DNS server to ask: name one in dns_servers"),
    ({"dns_servers": ["dns.example.org"]}, r"dns_servers\[0\]: 'dns.example.org' is not an address"),
    ({"dns_servers": ["192.0.2.1; accept"]}, "is not an address"),
    ({"upstream_proxy": {"address": "proxy.corp", "port": 8080}}, "upstream_proxy.address: 'proxy.corp' is not an address"),
    ({"upstream_proxy": {"address": "10.0.0.8", "port": "8080"}}, "'8080' is not a port"),
    ({"upstream_proxy": {"address": "10.0.0.8"}}, "address and port"), ({"upstream_proxy": "10.0.0.8:8080"}, "address and port"),
])
def test_services_that_are_none_are_named(services, said):
    with pytest.raises(AnsibleFilterError, match=said):
        firewall_ruleset([agent("a", name("x.org"))], services)


def test_the_services_have_users_of_their_own():
    with_proxy = firewall_ruleset([agent("a", name("x.org"))], SERVICES)
    assert with_proxy["users"] == {"uid_a": "agent-a", "uid__proxy": "cordon-proxy", "uid__resolver": "cordon-resolver"}
    assert "$uid__proxy : goto egress__proxy" in with_proxy["content"]
    assert "cordon-proxy" not in firewall_ruleset([agent("a", name("x.org", 22, "tcp"))], SERVICES)["users"].values()


def test_metadata_is_everybodys_unless_users_are_listed():
    agents = [agent("a")]
    assert "metadata__others" not in body(agents)
    assert "ip daddr @metadata4 meta skuid != { 0 } goto metadata__others" in chain(body(agents, None, []), "output")
    listed = firewall_ruleset(agents, None, ["shipper", "root", "clock", "shipper"])
    assert listed["users"] == {"uid_a": "agent-a", "uid__metadata_0": "clock", "uid__metadata_1": "shipper"}
    assert chain(listed["content"], "output")[-2:] == [
        f"{family} meta skuid != {{ 0, $uid__metadata_0, $uid__metadata_1 }} goto metadata__others"
        for family in ("ip daddr @metadata4", "ip6 daddr @metadata6")]


def test_the_filter_names_the_user_of_each_variable():
    result = firewall_ruleset([agent("autopilot")])
    assert result["users"] == {"uid_autopilot": "agent-autopilot"}
    assert "$uid_autopilot : goto egress_autopilot" in result["content"]


def test_the_text_does_not_depend_on_the_controllers_python() -> None:
    """Python 3.13 writes IPv4-mapped addresses with dots, earlier ones do not."""
    assert "::ffff:a9fe:0/112," in body([])
