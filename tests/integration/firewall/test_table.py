# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module nftables_table against a real kernel: each state in check, for real, again, and in check again."""
from __future__ import annotations

import hashlib
import json
import stat
from typing import Any

import pytest

from .network import AGENT, Network, agent, allow

LITTLE = agent("a", AGENT, allow("10.20.0.0/24", 5432))
LESS = agent("a", AGENT)
FOREIGN = """
table ip docker {
    chain forward { type filter hook forward priority filter; policy accept; counter; }
}
table inet ufw {
    set blocked { type ipv4_addr; elements = { 198.51.100.7 } }
    chain output { type filter hook output priority filter; policy accept; ip daddr @blocked drop; }
}
"""


def four_ways(network: Network, *agents: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    return [network.apply(*agents, check=check, **options) for check in (True, False, False, True)]


@pytest.mark.parametrize("options", [{}, {"state": "absent"}], ids=["present", "absent"])
def test_each_state_is_predicted_then_reached_then_unchanged(clean, options):
    if options:
        clean.apply(LITTLE)
    predicted, done, again, checked = four_ways(clean, LITTLE, **options)

    assert predicted["changed_parts"] == done["changed_parts"] == ["kernel", "file", "record"]
    assert predicted["diff"] == done["diff"]
    assert predicted["sha256"] == done["sha256"]
    assert not again["changed"]
    assert not checked["changed"]


def test_a_check_changes_neither_kernel_nor_files(clean):
    clean.apply(LITTLE, check=True)
    assert "cordon" not in clean.nft("list", "tables")
    assert not (clean.directory / "firewall.nft").exists()


@pytest.mark.parametrize("tamper", [
    "add rule inet cordon output accept",
    "insert rule inet cordon egress_a accept",
    "flush chain inet cordon egress_a",
    "add element inet cordon allowed4_a { 203.0.113.9 . tcp . 443 }",
    "delete element inet cordon metadata4 { 168.63.129.16 }",
    "flush map inet cordon agents",
    "delete table inet cordon",
    "flush ruleset",
    "add chain inet cordon back { type filter hook output priority -200; policy accept; }",
    "add table inet cordon { flags dormant; }",
])
def test_drift_in_the_kernel_is_seen_and_mended(clean, tamper):
    wanted = clean.apply(LITTLE)["sha256"]
    clean.nft("-f", "-", stdin=tamper + "\n")

    seen, mended = clean.apply(LITTLE, check=True), clean.apply(LITTLE)

    assert seen["changed_parts"] == mended["changed_parts"] == ["kernel"]
    assert mended["sha256"] == wanted
    assert not clean.apply(LITTLE, check=True)["changed"]


def test_a_moved_rule_is_drift(clean):
    clean.apply(LITTLE)
    lines = clean.nft("-a", "list", "chain", "inet", "cordon", "egress_a").splitlines()
    rule, handle = next(line for line in lines if "@metadata4" in line).split(" # handle ")
    move = f"add rule inet cordon egress_a {rule}\ndelete rule inet cordon egress_a handle {handle}\n"
    clean.nft("-f", "-", stdin=move)
    assert clean.apply(LITTLE)["changed_parts"] == ["kernel"]


def test_the_diff_shows_the_rules_that_change(clean):
    clean.apply(LESS)
    (kernel, *_files) = clean.apply(LITTLE, check=True)["diff"]
    added = set(kernel["after"].splitlines()) - set(kernel["before"].splitlines())
    assert "\t\telements = { 10.20.0.0/24 . tcp . 5432 }" in added
    assert "\t\tip daddr . meta l4proto . th dport @allowed4_a goto allowed_a" in added


def test_counting_is_no_drift(clean):
    clean.apply(LITTLE)
    clean.attempts(AGENT, ("tcp", "203.0.113.9", 443))
    assert clean.counter("denied_a") > 0
    assert not clean.apply(LITTLE)["changed"]


def test_tables_of_others_are_left_as_they_are(clean):
    clean.nft("-f", "-", stdin=FOREIGN)
    before = clean.nft("list", "table", "ip", "docker"), clean.nft("list", "table", "inet", "ufw")
    clean.apply(LITTLE)
    clean.apply(LESS)
    clean.apply(state="absent")
    assert (clean.nft("list", "table", "ip", "docker"), clean.nft("list", "table", "inet", "ufw")) == before
    clean.nft("delete", "table", "ip", "docker")
    clean.nft("delete", "table", "inet", "ufw")


def test_the_file_alone_brings_the_table_back(clean):
    clean.apply(LITTLE)
    running = clean.nft("-s", "list", "table", "inet", "cordon")
    clean.nft("flush", "ruleset")
    clean.nft("-f", str(clean.directory / "firewall.nft"))
    clean.nft("-f", str(clean.directory / "firewall.nft"))  # also over itself
    assert clean.nft("-s", "list", "table", "inet", "cordon") == running
    assert not clean.apply(LITTLE)["changed"]


def test_file_and_record_are_for_root_and_the_record_is_the_listing_s_digest(clean):
    clean.apply(LITTLE)
    for name in ("firewall.nft", "firewall.json"):
        assert stat.S_IMODE((clean.directory / name).stat().st_mode) == 0o640
    record = json.loads((clean.directory / "firewall.json").read_text())
    listing = clean.nft("--stateless", "list", "table", "inet", "cordon")
    assert record["sha256"] == hashlib.sha256(listing.encode()).hexdigest()


@pytest.mark.parametrize(("name", "content"), [
    ("firewall.nft", "table inet cordon {}\n"), ("firewall.json", "{}"), ("firewall.json", "nonsense"),
])
def test_a_changed_file_is_mended_without_touching_the_kernel(clean, name, content):
    clean.apply(LITTLE)
    good = (clean.directory / name).read_text()
    (clean.directory / name).write_text(content)
    assert clean.apply(LITTLE)["changed_parts"] == [{"firewall.nft": "file", "firewall.json": "record"}[name]]
    assert (clean.directory / name).read_text() == good


@pytest.mark.parametrize(("options", "said"), [
    ({"content": "\tchain x {\n\t\tnonsense here\n\t}\n"}, ["does not accept", "nonsense here", "nothing was changed"]),
    ({"content": "\tchain x {\n\t\tmeta skuid $uid_zz accept\n\t}\n"}, ["unknown identifier 'uid_zz'"]),
    ({"content": "}\nflush ruleset\ntable inet cordon {\n"}, ["braces"]),
    ({"users": {"uid_a": "agent-nobody-made-me"}}, ["agent-nobody-made-me", "cordon.agent_host.agent"]),
    ({"users": {"uid_a": "root"}}, ["root", "lock the operator out"]),
])
def test_bad_input_is_named_and_changes_nothing(clean, options, said):
    before = clean.apply(LITTLE)["sha256"]
    result = clean.apply(LESS, **options)
    assert result["failed"]
    assert [word for word in said if word not in result["msg"]] == []
    after = clean.nft("--stateless", "list", "table", "inet", "cordon")
    assert hashlib.sha256(after.encode()).hexdigest() == before


def test_a_check_before_the_users_exist_predicts_a_change_and_shows_their_names(clean):
    result = clean.apply(agent("a", "agent-not-made-yet"), check=True)
    assert result["changed_parts"] == ["kernel", "file", "record"]
    assert "agent-not-made-yet" in result["diff"][0]["after"]


def test_where_no_namespace_can_be_made_digests_do_and_the_module_says_so(clean):
    """A container without CAP_SYS_ADMIN."""
    def here(*agents, **options):
        return clean.apply(*agents, without="sys_admin", **options)

    first = here(LITTLE)
    assert (first["changed_parts"], first["compared_by"]) == (["kernel", "file", "record"], "nothing")
    assert here(LITTLE)["changed"] is False

    clean.nft("insert", "rule", "inet", "cordon", "egress_a", "accept")
    assert here(LITTLE, check=True)["changed_parts"] == ["kernel", "record"]
    assert here(LITTLE)["sha256"] == first["sha256"]

    assert "nonsense" in here(LITTLE, content="\tchain x {\n\t\tnonsense\n\t}\n")["msg"]
    assert here(LITTLE)["changed"] is False


def test_without_the_right_to_the_packet_filter_the_module_says_so(clean):
    assert "Operation not permitted" in clean.apply(LITTLE, without="net_admin")["msg"]


def test_five_hundred_grants_of_ten_agents_load_in_one_call(clean):
    users = [AGENT, "news", "backup", "daemon", "bin", "sys", "man", "lp", "mail", "uucp"]
    agents = [agent(f"a{index}", user, *[allow(f"10.{index}.{port}.0/24", 1000 + port) for port in range(50)])
              for index, user in enumerate(users)]
    assert clean.apply(*agents)["changed"]
    assert not clean.apply(*agents)["changed"]
