# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Egress by name, without resolver and proxy: what they will do is done by hand here, to the kernel's own sets.

Each way is tried by an ordinary user first. Names: the sets of answers, the mark of connections, the listeners, and
what the two services themselves may send.
"""
from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils import _egress

from .network import AGENT, ORDINARY, OTHER_AGENT, SERVICE_USERS, Network, agent, allow, named, without_rules

PROXY, RESOLVER = SERVICE_USERS["cordon-proxy"], SERVICE_USERS["cordon-resolver"]
GIT = agent("git", AGENT, named("git.example.org", 22, "tcp"), named("time.example.org", 123, "udp"))
WEB = agent("web", OTHER_AGENT, named("api.example.org"))
WHERE = _egress.addresses([GIT, WEB])
SSH, NTP = ("tcp", "203.0.113.9", 22), ("udp", "203.0.113.9", 123)
SSH6 = ("tcp", "2001:db8:9::9", 22)


@pytest.fixture
def names(clean: Network) -> Network:
    """A host on which one agent has direct names and another https names."""
    result = clean.apply(GIT, WEB)
    assert not result.get("failed"), result
    return clean


def answer(network: Network, name: str, address: str, port: int, protocol: str = "tcp", seconds: int = 60) -> None:
    """What the resolver does before it answers."""
    where = _egress.sets(name)[":" in address]
    network.nft("add", "element", "inet", "cordon", where, f"{{ {address} . {protocol} . {port} timeout {seconds}s }}")


def outcomes(network: Network, user: str, *ways: tuple[str, str, int]) -> list[str]:
    return [outcome for outcome, _seconds in network.attempts(user, *ways)]


def say(held) -> str:
    held.stdin.write("\n")
    held.stdin.flush()
    return held.stdout.readline().strip()


def test_an_answer_opens_its_address_protocol_and_port_to_its_agent_alone(names):
    ways = (SSH, NTP, SSH6, ("tcp", "203.0.113.9", 443), ("udp", "203.0.113.9", 443), ("tcp", "10.20.0.2", 22))
    assert outcomes(names, ORDINARY, *ways) == ["answered"] * len(ways)
    assert outcomes(names, AGENT, SSH, NTP, SSH6) == ["ECONNREFUSED", "EPERM", "ECONNREFUSED"]

    answer(names, "git", "203.0.113.9", 22)
    answer(names, "git", "203.0.113.9", 123, "udp")
    answer(names, "git", "2001:db8:9::9", 22)

    assert outcomes(names, AGENT, *ways) == ["answered"] * 3 + ["ECONNREFUSED", "EPERM", "ECONNREFUSED"]
    assert outcomes(names, OTHER_AGENT, SSH, NTP, SSH6) == ["ECONNREFUSED", "EPERM", "ECONNREFUSED"]


def test_when_the_answer_has_run_out_nothing_new_begins_and_what_stands_goes_on(names):
    answer(names, "git", "203.0.113.9", 22, seconds=2)
    held = names.start("hold", "203.0.113.9", "22", user=AGENT)
    assert held.first == "answered"
    time.sleep(2.5)

    assert outcomes(names, AGENT, SSH) == ["ECONNREFUSED"]
    assert say(held) == "sent"
    assert say(held) == "sent"


def test_a_connection_outlives_the_same_list_loaded_again_and_not_another_list(names):
    answer(names, "git", "203.0.113.9", 22)
    held = names.start("hold", "203.0.113.9", "22", user=AGENT)

    names.nft("-f", str(names.directory / "firewall.nft"))  # as at a reload of nftables.service: the answers are gone
    assert outcomes(names, AGENT, SSH) == ["ECONNREFUSED"]
    assert say(held) == "sent"

    names.apply(agent("git", AGENT, named("other.example.org", 22, "tcp")), WEB)
    assert say(held) in ("ECONNRESET", "EPIPE")


def test_a_change_of_another_agent_s_list_leaves_a_connection_alone(names):
    answer(names, "git", "203.0.113.9", 22)
    held = names.start("hold", "203.0.113.9", "22", user=AGENT)
    names.apply(GIT, agent("web", OTHER_AGENT, named("other.example.org")))
    assert say(held) == "sent"


@pytest.fixture(params=[0xC0000001, _egress.mark("git", _egress.direct_names(GIT))], ids=["another", "our own"])
def foreign_marks(names: Network, request) -> Iterator[Network]:
    """Another program's table, which marks every connection before we look."""
    names.nft("-f", "-", stdin=f"""table inet foreign {{
        chain output {{ type filter hook output priority -150; ct mark set {request.param:#x}; }}
    }}""")
    yield names
    names.nft("delete", "table", "inet", "foreign")


def test_a_mark_opens_no_connection_that_is_new(foreign_marks):
    assert outcomes(foreign_marks, ORDINARY, SSH) == ["answered"]
    assert outcomes(foreign_marks, AGENT, SSH, NTP) == ["ECONNREFUSED", "EPERM"]


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254", "64:ff9b::a9fe:a9fe"])
@pytest.mark.parametrize(("name", "user"), [("git", AGENT), ("_proxy", PROXY)])
def test_an_answer_that_leads_to_metadata_opens_nothing(names, name, user, address):
    way = ("tcp", address, 80)
    assert outcomes(names, ORDINARY, way) == ["answered"]
    answer(names, name, address, 80)
    assert outcomes(names, user, way) == ["ECONNREFUSED"]


def test_each_agent_reaches_its_own_listeners_and_nobody_else_s(names):
    for address in WHERE.values():
        assert names.start("listen", address, "3128", user=PROXY).first == "ready"
    assert names.start("listen", WHERE["git"], "53", user=RESOLVER).first == "ready"
    ways = [(how, address, port) for address in (WHERE["git"], WHERE["web"]) for how, port in (
        ("tcp", 3128), ("udp", 53), ("tcp", 8080))] + [("udp", "127.99.255.1", 53), ("tcp", "127.99.9.9", 53)]
    with without_rules(names, "output", "goto others"):
        assert outcomes(names, ORDINARY, *ways) == ["answered"] * len(ways)

    reached = {user: [way for way, outcome in zip(ways, outcomes(names, user, *ways)) if outcome == "answered"]
               for user in (AGENT, OTHER_AGENT)}

    assert reached == {
        AGENT: [("udp", WHERE["git"], 53)],  # it has no https names
        OTHER_AGENT: [("tcp", WHERE["web"], 3128)],  # it resolves nothing
    }


def test_a_grant_of_all_of_loopback_opens_no_listener_and_lets_nobody_pass_for_one(clean):
    wide = agent("wide", AGENT, allow("127.0.0.0/8", 3128), allow("127.0.0.0/8", 53, "udp"))
    clean.apply(wide, WEB)
    where = _egress.addresses([wide, WEB])
    assert clean.start("listen", where["web"], "3128", user=PROXY).first == "ready"
    ways = (("tcp", where["web"], 3128), ("udp", where["web"], 53))
    with without_rules(clean, "output", "goto others"):
        assert outcomes(clean, ORDINARY, *ways) == ["answered", "answered"]
    assert outcomes(clean, AGENT, *ways) == ["ECONNREFUSED", "EPERM"]
    assert outcomes(clean, AGENT, ("tcp", "127.0.0.1", 3128)) == ["ECONNREFUSED"]  # nobody listens

    clean.start("listen", "127.99.8.8", "3128", user=AGENT)
    with without_rules(clean, "output", "goto others"):
        assert outcomes(clean, ORDINARY, ("tcp", "127.99.8.8", 3128)) == ["ETIMEDOUT"]


def test_an_agent_in_the_place_of_the_proxy_cannot_answer(names):
    """While the proxy is down its port is free to take: 3128 needs no right."""
    assert names.start("listen", WHERE["web"], "3128", user=AGENT).first == "ready"
    assert outcomes(names, OTHER_AGENT, ("tcp", WHERE["web"], 3128)) == ["ETIMEDOUT"]


PRIVATE = (("tcp", "10.20.0.2", 443), ("tcp", "10.20.0.1", 8080), ("tcp", "127.0.0.1", 8080), ("udp", "10.20.0.2", 53),
           ("tcp", "203.0.113.9", 443), ("tcp", "2001:db8:9::9", 443), ("ping", "203.0.113.9", 0), ("udp", "127.0.0.1", 53))


def test_the_proxy_itself_reaches_the_resolver_and_what_was_answered_and_nothing_else(names):
    assert names.start("listen", "127.99.255.1", "53", user=RESOLVER).first == "ready"
    resolver = (("udp", "127.99.255.1", 53),)
    with without_rules(names, "output", "goto others"):
        assert outcomes(names, ORDINARY, *PRIVATE, *resolver) == ["answered"] * (len(PRIVATE) + 1)
    # On 127.0.0.1 it might be one of its own helpers: only who answers shows that it is not.
    assert outcomes(names, PROXY, *PRIVATE) == [
        "ECONNREFUSED", "ECONNREFUSED", "ETIMEDOUT", "EPERM", "ECONNREFUSED", "ECONNREFUSED", "EPERM", "EPERM"]
    assert outcomes(names, PROXY, *resolver) == ["answered"]

    answer(names, "_proxy", "203.0.113.9", 443)
    assert outcomes(names, PROXY, ("tcp", "203.0.113.9", 443), ("tcp", "203.0.113.9", 22)) == ["answered", "ECONNREFUSED"]
    assert outcomes(names, AGENT, ("tcp", "203.0.113.9", 443)) == ["ECONNREFUSED"]
    assert outcomes(names, OTHER_AGENT, ("tcp", "203.0.113.9", 443)) == ["ECONNREFUSED"]


def test_behind_a_company_s_proxy_ours_reaches_that_one_only(clean):
    clean.apply(WEB, services={"upstream_proxy": {"address": "10.20.0.3", "port": 8080}, "dns_servers": []})
    answer(clean, "_proxy", "203.0.113.9", 443)
    ways = (("tcp", "10.20.0.3", 8080), ("tcp", "10.20.0.3", 443), ("tcp", "203.0.113.9", 443))
    assert outcomes(clean, ORDINARY, *ways) == ["answered"] * 3
    assert outcomes(clean, PROXY, *ways) == ["answered", "ECONNREFUSED", "ECONNREFUSED"]


def test_the_resolver_itself_reaches_this_host_s_servers_and_nothing_else(names):
    ways = (("udp", "10.20.0.2", 53), ("tcp", "10.20.0.2", 53), ("udp", "10.20.0.3", 53), ("tcp", "203.0.113.9", 53),
            ("tcp", "10.20.0.2", 443), ("udp", "127.0.0.1", 53), ("tcp", "169.254.169.254", 80))
    assert outcomes(names, ORDINARY, *ways) == ["answered"] * len(ways)
    assert outcomes(names, RESOLVER, *ways) == [
        "answered", "answered", "EPERM", "ECONNREFUSED", "ECONNREFUSED", "EPERM", "ECONNREFUSED"]


def test_a_server_among_the_metadata_addresses_is_asked_on_its_dns_port_only(clean):
    clean.apply(GIT, services={"dns_servers": ["168.63.129.16"]})
    ways = (("udp", "168.63.129.16", 53), ("tcp", "168.63.129.16", 53), ("tcp", "168.63.129.16", 80))
    assert outcomes(clean, ORDINARY, *ways) == ["answered"] * 3
    assert outcomes(clean, RESOLVER, *ways) == ["answered", "answered", "ECONNREFUSED"]
    assert outcomes(clean, AGENT, *ways) == ["EPERM", "ECONNREFUSED", "ECONNREFUSED"]


def test_answers_are_no_drift_and_survive_a_run_that_changes_nothing(names):
    answer(names, "git", "203.0.113.9", 22)
    assert not names.apply(GIT, WEB, check=True)["changed"]
    assert not names.apply(GIT, WEB)["changed"]
    assert outcomes(names, AGENT, SSH) == ["answered"]
    (names.directory / "firewall.json").unlink()  # without the record the kernel is compared in full
    assert names.apply(GIT, WEB)["changed_parts"] == ["record"]
    assert outcomes(names, AGENT, SSH) == ["answered"]


@pytest.mark.parametrize("tamper", [
    "add rule inet cordon egress__proxy accept",
    "insert rule inet cordon named_git accept",
    "add element inet cordon metadata4 { 198.51.100.1 }",
    "delete rule inet cordon egress_git handle HANDLE",
])
def test_what_is_no_answer_is_drift_still(names, tamper):
    lines = names.nft("-a", "list", "chain", "inet", "cordon", "egress_git").splitlines()
    handle = next(line for line in lines if "@metadata4" in line).split(" # handle ")[1]
    answer(names, "git", "203.0.113.9", 22)
    names.nft("-f", "-", stdin=tamper.replace("HANDLE", handle) + "\n")
    assert names.apply(GIT, WEB)["changed_parts"] == ["kernel"]


def test_five_hundred_names_and_networks_of_ten_agents_load_in_one_transaction(clean):
    users = [AGENT, OTHER_AGENT, "backup", "daemon", "bin", "sys", "man", "lp", "mail", "uucp"]
    agents = [agent(f"a{index}", user,
                    *[allow(f"10.{index}.{port}.0/24", 1000 + port) for port in range(20)],
                    *[named(f"h{port}.example.org") for port in range(20)],
                    *[named(f"h{port}.example.net", 22, "tcp") for port in range(10)])
              for index, user in enumerate(users)]
    started = time.monotonic()
    done = clean.apply(*agents)
    assert time.monotonic() - started < 20  # one second where this was written
    assert done["changed_parts"] == ["kernel", "file", "record"]
    assert not clean.apply(*agents)["changed"]
