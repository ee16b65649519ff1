# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter egress_resolver, and that the resolver reads what it renders."""

from __future__ import annotations

import json
from typing import Any, Dict, List

import pytest
from ansible.errors import AnsibleFilterError
from cordon_firewall import settings

from ansible_collections.cordon.agent_host.plugins.filter.egress_resolver import FilterModule
from ansible_collections.cordon.agent_host.plugins.module_utils import _egress, _manifest

render = FilterModule().filters()["egress_resolver"]
SERVERS = ["192.0.2.53", "2001:db8::53"]


def agents(**egress: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    manifest = [{"name": name, "command": ["/usr/bin/sleep", "1"], "egress": entries} for name, entries in egress.items()]
    return _manifest.resolve(manifest, ["git"], "agents")


def clients(resolved: List[Dict[str, Any]], **options: Any) -> Dict[str, settings.Client]:
    parsed = settings.parse(json.loads(render(resolved, SERVERS, **options)))
    assert parsed.servers == tuple(SERVERS)
    return {client.name: client for client in parsed.clients}


def test_an_agent_asks_for_its_direct_names_and_the_proxy_for_the_https_names() -> None:
    resolved = agents(
        autopilot=[{"name": "git.example.org", "port": 22, "protocol": "ssh"}, {"name": "api.example.com"}],
        scribe=[{"name": "*.example.com"}, {"cidr": "203.0.113.0/24", "port": 443}],
        hermit=[],
    )
    found = clients(resolved)
    assert set(found) == {"autopilot", "_proxy"}
    assert found["autopilot"].address == _egress.addresses(resolved)["autopilot"]
    assert found["autopilot"].grants == (settings.Grant("git.example.org", (("tcp", 22),), ()),)
    assert found["_proxy"].address == _egress.PROXY_LISTENS_TO
    assert [(grant.name, grant.ports) for grant in found["_proxy"].grants] == [
        ("*.example.com", (("tcp", 443),)), ("api.example.com", (("tcp", 443),)),
    ]  # fmt: skip
    for client in found.values():
        assert _egress.sets(client.name) == (f"named4_{client.set}", f"named6_{client.set}")


def test_where_another_proxy_resolves_ours_asks_nothing() -> None:
    resolved = agents(autopilot=[{"name": "api.example.com"}])
    assert clients(resolved, proxy_resolves=False) == {}


def test_ports_with_the_same_networks_share_an_item() -> None:
    resolved = agents(autopilot=[
        {"name": "db.example.org", "port": 5432, "protocol": "tcp", "networks": ["10.20.0.0/24"]},
        {"name": "db.example.org", "port": 22, "protocol": "ssh"},
        {"name": "db.example.org", "port": 53, "protocol": "udp"},
    ])  # fmt: skip
    assert set(clients(resolved)["autopilot"].grants) == {
        settings.Grant("db.example.org", (("tcp", 22), ("udp", 53)), ()),
        settings.Grant("db.example.org", (("tcp", 5432),), ("10.20.0.0/24",)),
    }


def test_the_text_is_the_same_for_the_same_manifest() -> None:
    resolved = agents(a=[{"name": "x.example.org", "port": 22, "protocol": "ssh"}], b=[{"name": "y.example.org"}])
    assert render(resolved, SERVERS) == render(resolved[::-1], SERVERS)
    assert render(agents(hermit=[]), []) == '{\n  "clients": [],\n  "servers": []\n}\n'


@pytest.mark.parametrize(
    ("servers", "said"),
    [([], "set firewall_dns_servers"), (["dns.example.org"], "no IP address"), (["127.99.255.1"], "the resolver itself")],
)
def test_servers_that_cannot_be_asked_are_refused(servers: List[str], said: str) -> None:
    with pytest.raises(AnsibleFilterError, match=said):
        render(agents(autopilot=[{"name": "api.example.com"}]), servers)


def test_an_unresolved_manifest_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match=r"cordon\.agent_host\.agents"):
        render([{"name": "autopilot"}], SERVERS)
