# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which units to start and stop."""

from __future__ import annotations

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils import _services

ACTIVE = {"ActiveState": "active", "UnitFileState": "enabled", "NeedDaemonReload": "no"}
STOPPED = {"ActiveState": "inactive", "UnitFileState": "disabled", "NeedDaemonReload": "no"}
AFRESH = [["reset-failed", "cordon-agent@a.service"], ["start", "cordon-agent@a.service"]]
SHOWN = "Id=cordon-agent@a.service\nActiveState=active\n\nId=cordon-session-b-0f.service\nActiveState=inactive\n"


@pytest.mark.parametrize(
    ("unit", "agent"),
    [
        ("cordon-agent@scout.service", "scout"),
        ("cordon-session-my_agent-0a1b.service", "my_agent"),
        ("cordon-agent@.service", ""),
        ("cordon-events.service", ""),
        ("ssh.service", ""),
    ],
)
def test_owner(unit, agent):
    assert _services.owner(unit) == agent


def test_properties_are_parsed_by_unit():
    assert _services.properties(SHOWN)["cordon-session-b-0f.service"]["ActiveState"] == "inactive"


def test_names_leave_out_the_template_and_foreign_units():
    assert _services.names("cordon-agent@.service disabled enabled\ncordon-agent@a.service enabled enabled\n\n") == [
        "cordon-agent@a.service"
    ]


@pytest.mark.parametrize(
    ("state", "restart", "steps"),
    [
        (ACTIVE, [], []),
        (ACTIVE, ["a"], [["stop", "cordon-agent@a.service"], *AFRESH]),
        (STOPPED, ["a"], [["enable", "--quiet", "cordon-agent@a.service"], *AFRESH]),
        *(({**ACTIVE, "ActiveState": other}, [], AFRESH) for other in ("failed", "activating", "inactive")),
        ({**ACTIVE, "NeedDaemonReload": "yes"}, [], [["daemon-reload"]]),
    ],
)
def test_start(state, restart, steps):
    assert _services.start({"cordon-agent@a.service": state}, ["a"], restart) == steps


def test_a_start_that_waits_for_an_operator_is_ordered_once_and_not_waited_for():
    unit, other = "cordon-agent@a.service", "cordon-agent@b.service"
    enabled = {**STOPPED, "UnitFileState": "enabled", "Job": "0"}
    seen = {unit: enabled, other: enabled}
    again = ["reset-failed", other]
    assert _services.not_awaited(seen, ["a", "b"], [], ["a"])[1::2] == [["start", "--no-block", unit], ["start", other]]
    seen[unit] = seen[other] = {**enabled, "Job": "71"}
    assert _services.not_awaited(seen, ["a", "b"], [], ["a"]) == [again, ["start", other]]
    seen[unit] = ACTIVE
    assert _services.not_awaited(seen, ["a"], ["a"], ["a"])[1:] == [["restart", "--no-block", unit]], "an open vault stays so"
    assert _services.not_awaited(seen, ["a"], ["a"], []) == [["stop", unit], ["reset-failed", unit], ["start", unit]]


def test_a_service_that_systemd_does_not_know_is_started():
    assert ["start", "cordon-agent@a.service"] in _services.start({}, ["a"], [])


def test_agents_that_are_gone_are_stopped_with_their_sessions_and_others_left_alone():
    seen = {
        "cordon-agent@a.service": ACTIVE,
        "cordon-agent@old.service": ACTIVE,
        "cordon-session-old-1.service": {"ActiveState": "active"},
    }
    assert _services.prune(seen, ["a"]) == [
        ["stop", "cordon-agent@old.service"],
        ["disable", "cordon-agent@old.service"],
        ["stop", "cordon-session-old-1.service"],
        ["stop", "cordon-old.slice"],
    ]
