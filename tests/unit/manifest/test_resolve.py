# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What resolve promises beyond single mistakes: plain data, order, independence of its input."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.cordon.agent_host.plugins.filter.agents import FilterModule
from ansible_collections.cordon.agent_host.plugins.filter.agents import agents as resolve
from ansible_collections.cordon.agent_host.plugins.module_utils import _manifest, _nftables_ruleset
from ansible_collections.cordon.agent_host.plugins.module_utils._manifest_values import duration_seconds

SMALLEST: dict[str, Any] = {"name": "autopilot", "command": ["/usr/bin/true"]}


class TaggedText(str):
    """As ansible-core 2.19 and later hand text over: a subclass of str."""


class TaggedNumber(int):
    """The same for numbers."""


class TaggedList(list[Any]):
    """The same for lists."""


class TaggedMapping(dict[Any, Any]):
    """The same for mappings."""


def tag(value: Any) -> Any:
    if isinstance(value, dict):
        return TaggedMapping({tag(key): tag(item) for key, item in value.items()})
    if isinstance(value, list):
        return TaggedList(tag(item) for item in value)
    if isinstance(value, bool) or value is None:
        return value
    return TaggedText(value) if isinstance(value, str) else TaggedNumber(value)


def types(value: Any) -> set[type]:
    found = {type(value)}
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for item in value:
            found |= types(item)
    return found


EVERY_KEY: dict[str, Any] = {
    **SMALLEST,
    "tools": ["python", "git"],
    "programs": ["/opt/autopilot"],
    "environment": {"B": "2", "A": "1"},
    "workspace": {"read_only": ["/srv/data"], "read_write": ["/srv/output"], "execute": False},
    "denied": ["/etc/fstab"],
    "inner_sandbox": "deny",
    "secrets": [{"name": "github_token", "tools": ["git"]}],
    "vault": {"unlock": "operator", "writable": True, "idle": "30m"},
    "egress": [{"cidr": "192.0.2.7", "protocol": "ssh"}],
    "limits": {"cpu": "50%", "memory": "1G", "tasks": 64, "gpu": True, "devices": ["/dev/dri/renderD128"]},
    "monitoring": {"silence": "30m", "unconfined": "alert"},
    "mode": "enforce",
    "burn_in": {"days": 7, "active_days": 2, "replay": [["/usr/bin/git", "--version"], ["true"]]},
}


def test_two_lines_make_an_agent() -> None:
    assert resolve([SMALLEST]) == [
        {
            "name": "autopilot",
            "user": "agent-autopilot",
            "home": "/srv/agents/autopilot",
            "command": ["/usr/bin/true"],
            "tools": [],
            "programs": [],
            "environment": {},
            "workspace": {
                "path": "/srv/agents/autopilot/workspace", "read_only": [], "read_write": [], "execute": True
            },
            "denied": [],
            "inner_sandbox": "deny",
            "secrets": [],
            "vault": {"unlock": "sealed", "writable": False, "idle": None},
            "egress": [],
            "critical_apis": [],
            "limits": {"cpu": "200%", "memory": "4G", "tasks": 512, "gpu": False, "devices": []},
            "monitoring": {"silence": "4h", "unconfined": "stop"},
            "mode": "burn_in",
            "burn_in": {"days": 14, "active_days": 3, "replay": []},
        }
    ]


def test_what_is_given_is_kept_in_one_form() -> None:
    (agent,) = resolve([EVERY_KEY])
    assert agent["tools"] == ["git", "python"]
    assert list(agent["environment"]) == ["A", "B"]
    assert agent["secrets"] == [{"name": "github_token", "tools": ["git"], "broker": None}]
    assert agent["egress"] == [{"cidr": "192.0.2.7/32", "port": 22, "protocol": "tcp", "log": True}]
    for key in ("programs", "denied", "inner_sandbox", "vault", "limits", "monitoring", "mode", "burn_in"):
        assert agent[key] == EVERY_KEY[key]


@pytest.mark.parametrize(("given", "expected"), [
    ({"name": "API.Example.org."}, {"port": 443, "protocol": "https"}),
    ({"name": "api.example.org", "port": 443}, {"port": 443, "protocol": "https"}),
    ({"name": "api.example.org", "port": 8443}, {"port": 8443, "protocol": "tcp"}),
    ({"name": "api.example.org", "port": 8443, "protocol": "https"}, {"port": 8443, "protocol": "https"}),
    ({"name": "api.example.org", "protocol": "tcp"}, {"port": 443, "protocol": "tcp"}),
    ({"name": "api.example.org", "protocol": "ssh"}, {"port": 22, "protocol": "tcp"}),
    ({"name": "api.example.org", "protocol": "ssh", "port": 443}, {"port": 443, "protocol": "tcp"}),
    ({"name": "api.example.org", "inspect": True, "networks": ["10.0.0.7"]},
     {"port": 443, "protocol": "https", "inspect": True, "networks": ["10.0.0.7/32"]}),
    ({"name": "api.example.org", "inspect": True, "requests": ["GET,POST /v1/**", "* /a%2Fb?q=*"]},
     {"port": 443, "protocol": "https", "inspect": True, "requests": ["GET,POST /v1/**", "* /a%2Fb?q=*"]}),
])
def test_a_name_has_one_form_and_one_way(given: dict[str, Any], expected: dict[str, Any]) -> None:
    (agent,) = resolve([{**SMALLEST, "egress": [given]}])
    usual = {"name": "api.example.org", "log": True, "inspect": False, "networks": [], "requests": []}
    assert agent["egress"] == [{**usual, **expected}]
    assert resolve([agent]) == [agent]


def test_ten_thousand_destinations_are_resolved_and_rendered_within_seconds() -> None:
    """A quarter of a second and half of one, on the machine where this was written; the limit is for busy ones."""
    egress = [{"cidr": f"10.{number // 250}.{number % 250}.0/24", "port": 443 + number % 3} for number in range(5000)]
    egress += [{"name": f"host{number}.example.org", "port": (443, 22)[number % 2]} for number in range(5000)]
    started = time.monotonic()
    (agent,) = resolve([{**SMALLEST, "egress": egress}])
    text = _nftables_ruleset.body([agent], {"dns_servers": ["192.0.2.53"]})
    assert time.monotonic() - started < 10
    assert len(agent["egress"]) == 10000
    assert text.count(" . tcp . ") >= 3


def test_limits_given_in_part_keep_the_other_defaults() -> None:
    (agent,) = resolve([{**SMALLEST, "limits": {"tasks": 7}}])
    assert agent["limits"] == {"cpu": "200%", "memory": "4G", "tasks": 7, "gpu": False, "devices": []}


def test_agents_stay_in_the_order_given() -> None:
    names = ["b", "c", "a"]
    assert [agent["name"] for agent in resolve([{**SMALLEST, "name": name} for name in names])] == names


def test_tagged_values_become_plain_ones() -> None:
    resolved = resolve(tag([EVERY_KEY]))
    assert resolved == resolve([EVERY_KEY])
    assert types(resolved) == {list, dict, str, int, bool, type(None)}


def test_the_input_and_the_defaults_stay_as_they_were() -> None:
    given, defaults = [copy.deepcopy(EVERY_KEY)], copy.deepcopy(_manifest.DEFAULTS)
    (agent,) = resolve(given)
    agent["tools"].append("x")
    (smallest,) = resolve([SMALLEST])
    smallest["egress"].append("x")
    assert (given, defaults) == ([EVERY_KEY], _manifest.DEFAULTS)


def test_what_a_critical_api_answers_is_inspected_and_nothing_else() -> None:
    names = ["*.example.org", "api.example.org", "*.api.example.org", "other.example"]
    egress = [{"name": name} for name in names] + [{"name": "api.example.org", "port": 8443, "protocol": "https"}]

    def seen(*critical: str) -> list[tuple[str, int]]:
        (agent,) = resolve([{**SMALLEST, "egress": egress, "critical_apis": list(critical)}])
        return [(entry["name"], entry["port"]) for entry in agent["egress"] if entry["inspect"]]

    assert seen() == []
    assert seen("api.example.org") == [("api.example.org", 443), ("api.example.org", 8443)]
    assert seen("x.example.org") == [("*.example.org", 443)]
    assert seen("x.api.example.org", "other.example") == [("*.api.example.org", 443), ("other.example", 443)]


def test_messages_call_the_list_as_the_caller_does() -> None:
    with pytest.raises(AnsibleFilterError, match=r"\nfirewall_agents\[0\]: unknown key 'x'"):
        resolve([{**SMALLEST, "x": 1}], root="firewall_agents")


def test_no_message_repeats_a_value_that_may_be_a_secret() -> None:
    mistakes = {"environment": {"TOKEN": "hunter2\n"}, "secrets": [{"name": "a", "value": "hunter2"}]}
    with pytest.raises(AnsibleFilterError) as caught:
        resolve([{**SMALLEST, **mistakes}])
    assert "hunter2" not in str(caught.value)
    assert "environment.TOKEN" in str(caught.value)


def test_a_long_value_is_cut_in_its_message() -> None:
    with pytest.raises(AnsibleFilterError) as caught:
        resolve([{**SMALLEST, "mode": "x" * 10000}])
    assert len(str(caught.value)) < 200


def test_a_number_that_python_will_not_print_is_refused_like_any_other() -> None:
    with pytest.raises(AnsibleFilterError, match=r"limits\.tasks: a huge number is not a number of tasks") as caught:
        resolve([{**SMALLEST, 10**5000: 1, "limits": {"tasks": 10**5000}}])
    assert "agents[0]: unknown key a huge number: " in str(caught.value)


@pytest.mark.parametrize(("size", "accepted"), [(4096, True), (4097, False)])
def test_text_has_a_limit(size: int, accepted: bool) -> None:
    agents = [{**SMALLEST, "command": ["/bin/echo", "x" * size]}]
    if accepted:
        assert resolve(agents)[0]["command"][1] == "x" * size
    else:
        with pytest.raises(AnsibleFilterError, match="command\\[1\\]: it is 4097 characters long: use at most 4096"):
            resolve(agents)


def test_a_list_has_a_limit() -> None:
    with pytest.raises(AnsibleFilterError, match="command: it has 1025 items: use at most 1024"):
        resolve([{**SMALLEST, "command": ["/bin/echo"] * 1025}])


@pytest.mark.parametrize(("text", "seconds"), [("5m", 300), ("30m", 1800), ("4h", 14400), ("2d", 172800)])
def test_a_duration_has_seconds(text: str, seconds: int) -> None:
    assert duration_seconds(text) == seconds


def test_ansible_finds_the_filter_by_its_name() -> None:
    assert FilterModule().filters()["agents"] is resolve
