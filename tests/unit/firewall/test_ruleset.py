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
    assert "ip daddr . meta l4proto . th dport @quiet4_a accept" in rules
    assert "ip daddr . meta l4proto . th dport @allowed4_a goto allowed_a" in rules


def test_the_text_depends_neither_on_the_order_of_agents_nor_on_that_of_entries():
    one, other = allow("10.0.0.0/8"), allow("2001:db8::/32", 22)
    assert body([agent("a", one, other), agent("b")]) == body([agent("b"), agent("a", other, one)])


def test_names_of_chains_and_sets_are_unique_whatever_agents_are_called():
    names = ["a", "a_allowed", "allowed_a", "denied", "metadata", "metadata4", "output", "refuse", "agents", "egress_a"]
    text = body([agent(name, allow("10.0.0.0/8"), allow("::/0")) for name in names])
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


def test_the_filter_names_the_user_of_each_variable():
    result = firewall_ruleset([agent("autopilot")])
    assert result["users"] == {"uid_autopilot": "agent-autopilot"}
    assert "$uid_autopilot : goto egress_autopilot" in result["content"]


def test_the_text_does_not_depend_on_the_controllers_python() -> None:
    """Python 3.13 writes IPv4-mapped addresses with dots, earlier ones do not."""
    assert "::ffff:a9fe:0/112," in body([])
