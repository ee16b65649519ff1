# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who else is on the host: nobody speaks in an agent's name, nobody passes for what serves it, and no name leads back here.

Each attack is shown with the one rule taken out that ends it, by hand and in the same table; the rule is put back, and the
same attempt fails.
"""
from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils import _egress

from .network import AGENT, ORDINARY, OTHER_AGENT, SERVICE_USERS, Network, agent, allow, named, without_rules

PROXY, RESOLVER = SERVICE_USERS["cordon-proxy"], SERVICE_USERS["cordon-resolver"]
GIT = agent("git", AGENT, named("git.example.org", 22, "tcp"), named("time.example.org", 123, "udp"))
WEB = agent("web", OTHER_AGENT, named("api.example.org"), allow("127.0.0.1/32", 9100))
WHERE = _egress.addresses([GIT, WEB])
STATE = ("tcp", _egress.PROXY_LISTENS_TO, _egress.PROXY_PORT)
# Not TCP port 53: root's own server has that of all addresses, as a dnsmasq might; test_resolver.py asks by TCP.
WAYS = (("tcp", WHERE["web"], 3128), ("tcp", WHERE["web"], 3129), ("udp", WHERE["git"], 53), ("udp", "127.99.255.1", 53), STATE)


def outcomes(network: Network, user: str, *ways: tuple[str, str, int]) -> list[str]:
    return [outcome for outcome, _seconds in network.attempts(user, *ways)]


def answer(network: Network, name: str, address: str, port: int) -> None:
    """What the resolver does before it answers."""
    where = _egress.sets(name)[":" in address]
    network.nft("add", "element", "inet", "cordon", where, f"{{ {address} . tcp . {port} timeout 60s }}")


@pytest.fixture
def names(clean: Network) -> Network:
    """Two agents, and who serves them."""
    result = clean.apply(GIT, WEB)
    assert not result.get("failed"), result
    for address, port, user in ((WHERE["web"], 3128, PROXY), (WHERE["web"], 3129, PROXY), (STATE[1], 3128, PROXY),
                                (WHERE["git"], 53, RESOLVER), ("127.99.255.1", 53, RESOLVER)):
        assert clean.start("listen", address, str(port), user=user).first == "ready"
    return clean


def test_nobody_else_speaks_in_an_agent_s_name(names):
    with without_rules(names, "output", "goto others"):
        assert outcomes(names, ORDINARY, *WAYS) == ["answered"] * len(WAYS)
    assert not names.apply(GIT, WEB, check=True)["changed"]  # the very same table again

    before = names.counter("denied__others")
    refused = names.attempts(ORDINARY, *WAYS)
    assert [outcome for outcome, _ in refused] == [{"tcp": "ECONNREFUSED", "udp": "EPERM"}[how] for how, *_ in WAYS]
    assert max(seconds for _, seconds in refused) < 1
    assert names.counter("denied__others") >= before + len(WAYS)

    served = [outcomes(names, AGENT, *WAYS), outcomes(names, OTHER_AGENT, *WAYS)]
    assert [[way for way, outcome in zip(WAYS, found) if outcome == "answered"] for found in served] == [
        [WAYS[2]], [WAYS[0]]]
    assert outcomes(names, PROXY, *WAYS) == ["ECONNREFUSED", "answered", "EPERM", "answered", "answered"]


def test_root_may_ask_the_proxy_s_state_and_nothing_else_there(names):
    assert outcomes(names, "root", *WAYS) == ["ECONNREFUSED", "ECONNREFUSED", "EPERM", "EPERM", "answered"]
    assert outcomes(names, "root", ("tcp", "127.99.9.9", 8080)) == ["ECONNREFUSED"]
    assert outcomes(names, "root", ("tcp", "127.0.0.1", 8080), ("tcp", "127.98.0.1", 8080)) == ["answered", "answered"]


@pytest.mark.parametrize("spelled", ["::ffff:{}", "{}"])
def test_another_spelling_is_the_same_address(names, spelled):
    way = ("tcp", spelled.format(WHERE["web"]), 3128)
    assert outcomes(names, OTHER_AGENT, way) == ["answered"]
    assert outcomes(names, ORDINARY, way) == ["ECONNREFUSED"]


def test_nobody_else_serves_an_agent_in_the_proxy_s_place(clean):
    """3128 needs no right, and is free to take while the proxy is down."""
    clean.apply(GIT, WEB)
    assert outcomes(clean, OTHER_AGENT, ("tcp", WHERE["web"], 3128)) == ["ECONNREFUSED"]  # at once, by the kernel's own reset
    assert clean.start("listen", WHERE["web"], "3128", user=ORDINARY).first == "ready"
    with without_rules(clean, "output", "goto others"):
        assert outcomes(clean, OTHER_AGENT, ("tcp", WHERE["web"], 3128)) == ["answered"]
    before = clean.counter("denied__others")
    assert outcomes(clean, OTHER_AGENT, ("tcp", WHERE["web"], 3128)) == ["ETIMEDOUT"]
    assert outcomes(clean, AGENT, ("tcp", WHERE["git"], 53)) == ["ETIMEDOUT"]  # root's server on all addresses
    assert clean.counter("denied__others") > before


def test_a_host_without_names_has_no_listeners_to_guard(clean):
    clean.apply(agent("web", OTHER_AGENT, allow("127.0.0.1/32", 9100)))
    assert outcomes(clean, ORDINARY, ("tcp", "127.99.9.9", 8080)) == ["answered"]
    assert "others" not in clean.nft("list", "table", "inet", "cordon")


# --- A name that leads back to this host ------------------------------------------------------------------


@pytest.fixture
def public(names: Network) -> Iterator[Network]:
    """The host has a public address of its own on its cable, and one that a second cable has not yet."""
    command = ["ip", "-n", names.host, "address"]
    subprocess.run([*command, "add", "198.51.100.7/32", "dev", "cable"], check=True)
    yield names
    subprocess.run([*command, "del", "198.51.100.7/32", "dev", "cable"], check=True)


@pytest.mark.parametrize("address", ["198.51.100.7", "2001:db8:20::1"])
@pytest.mark.parametrize(("name", "user"), [("git", AGENT), ("_proxy", PROXY)])
def test_an_answer_that_leads_to_this_host_opens_nothing(public, name, user, address):
    """The resolver leaves it out (test_resolver.py); an address may also become this host's after it was told."""
    way = ("tcp", address, 22)
    answer(public, name, address, 22)
    with without_rules(public, f"named_{name}", 'oif "lo"'):
        assert outcomes(public, user, way) == ["answered"]
    before = public.counter(f"denied_{name}")
    assert outcomes(public, user, way) == ["ECONNREFUSED"]
    assert public.counter(f"denied_{name}") > before


def test_the_networks_of_an_entry_lead_back_where_they_say_so(public):
    entry = {**named("here.example.org", 22, "tcp"), "networks": ["198.51.100.7/32", "10.20.0.0/24"]}
    assert not public.apply(agent("git", AGENT, entry), WEB).get("failed")
    for address in ("198.51.100.7", "10.20.0.1", "10.20.0.2", "2001:db8:20::1", "203.0.113.9"):
        answer(public, "git", address, 22)
    ways = [("tcp", address, 22) for address in ("198.51.100.7", "10.20.0.1", "10.20.0.2", "203.0.113.9", "2001:db8:20::1")]
    assert outcomes(public, AGENT, *ways) == ["answered"] * 4 + ["ECONNREFUSED"]


# --- The proxy and its helpers ----------------------------------------------------------------------------


PORTS = (1500, 9100, 40000, 61500)


def test_the_proxy_meets_its_own_helpers_on_any_port_and_nobody_else(names):
    ways = [("tcp", "127.0.0.1", port) for port in PORTS]
    servers = [names.start("listen", "127.0.0.1", str(port), user=ORDINARY) for port in PORTS]
    with without_rules(names, "output", "ct direction reply"):
        assert outcomes(names, PROXY, *ways) == ["answered"] * len(ways)
    before = names.counter("denied__proxy")
    assert outcomes(names, PROXY, *ways) == ["ETIMEDOUT"] * len(ways)
    assert names.counter("denied__proxy") >= before + len(ways)
    assert outcomes(names, ORDINARY, *ways) == ["answered"] * len(ways)
    for server in servers:
        server.kill()
        server.wait()

    for port in PORTS:
        names.start("listen", "127.0.0.1", str(port), user=PROXY)
    assert outcomes(names, PROXY, *ways) == ["answered"] * len(ways)
    assert outcomes(names, ORDINARY, *ways) == ["ETIMEDOUT"] * len(ways)  # its helpers answer to it alone


def test_the_proxy_reaches_no_agent_that_serves_on_loopback(names):
    names.start("listen", "127.0.0.1", "9100", user=OTHER_AGENT)
    assert outcomes(names, ORDINARY, ("tcp", "127.0.0.1", 9100)) == ["answered"]
    assert outcomes(names, PROXY, ("tcp", "127.0.0.1", 9100)) == ["ETIMEDOUT"]
