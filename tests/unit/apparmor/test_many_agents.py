# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sample of a host with many agents: enough profiles, rendered in time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from ansible_collections.cordon.agent_host.plugins.filter.apparmor_profiles import apparmor_profiles
from ansible_collections.cordon.agent_host.plugins.module_utils._manifest import resolve
from ansible_collections.cordon.agent_host.plugins.plugin_utils._catalogue import known_tools, load_catalogue

SAMPLE = Path(__file__).resolve().parents[3] / "examples" / "hosts" / "many_agents.yml"


@pytest.fixture
def sample():
    """The resolved sample."""
    return resolve(yaml.safe_load(SAMPLE.read_text("utf-8"))["agent_host_agents"], known_tools(), "agent_host_agents")


def test_it_gives_74_profiles_in_enforce(sample):
    rendered = apparmor_profiles(sample)
    assert len({profile["name"] for profile in rendered}) >= 74
    assert {profile["mode"] for profile in rendered} == {"enforce"}


def test_the_parser_takes_them(sample, compile_all):
    assert compile_all([profile["text"] for profile in apparmor_profiles(sample)]) == ""


def test_rendering_and_linting_takes_less_than_half_a_second(sample):
    load_catalogue()
    spent = []
    for _ in range(3):
        begun = time.process_time()
        apparmor_profiles(sample)
        spent.append(time.process_time() - begun)
    assert min(spent) < 0.5, f"{min(spent):.2f} s: something became slow; 0.11 s on an idle machine in 2026"


def test_each_tool_has_an_agent_with_it_and_one_without(sample):
    catalogue = load_catalogue()
    granted = {tool for agent in sample for tool in agent["tools"]}
    assert granted == {name for name, tool in catalogue.items() if not tool.get("implicit")}
    assert not [tool for tool in granted if all(tool in agent["tools"] for agent in sample)]
