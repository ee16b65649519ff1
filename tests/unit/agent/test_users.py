# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What makes a user fit for an agent."""

from __future__ import annotations

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils import _users

HOME = "/srv/agents/a"
RIGHT = _users.Host(
    passwd=f"root:x:0:0::/root:/bin/bash\nagent-a:x:990:990:AI agent:{HOME}:/usr/sbin/nologin\n",
    group="sudo:x:27:\nagent-a:x:990:\n",
    shadow="agent-a:!:20000:::::1:\n",
    subuid="alice:100000:65536\n",
    subgid="",
    lingering=(),
    lists={"cron.allow": None, "cron.deny": None, "at.allow": None, "at.deny": "daemon\n"},
)


def test_a_right_user_needs_nothing():
    assert _users.steps(RIGHT, "agent-a", HOME) == []


def test_a_missing_user_is_created_without_login():
    create, expire = _users.steps(RIGHT, "agent-b", "/srv/agents/b")
    assert create.argv[0] == "useradd" and create.argv[-1] == "agent-b" and _users.NOLOGIN in create.argv
    assert expire.argv == ["usermod", "--expiredate", "1", "agent-b"]


def test_a_user_is_called_what_it_is():
    """The proxy and the resolver have such users too, and are no agents."""
    create, _expire = _users.steps(RIGHT, "agent-b", "/nonexistent", "Egress proxy")
    assert create.argv[create.argv.index("--comment") + 1] == "Egress proxy"
    (step,) = _users.steps(RIGHT, "agent-a", HOME, "Egress proxy")
    assert step.argv == ["usermod", "--comment", "Egress proxy", "agent-a"]


@pytest.mark.parametrize(
    ("wrong", "argv"),
    [
        ({"group": "sudo:x:27:alice,agent-a\n"}, ["usermod", "--groups", "", "agent-a"]),
        ({"shadow": "agent-a:$y$hash:1:::::1:\n"}, ["usermod", "--lock", "agent-a"]),
        ({"shadow": "agent-a::1:::::1:\n"}, ["usermod", "--lock", "agent-a"]),
        ({"shadow": "agent-a:!:1::::::\n"}, ["usermod", "--expiredate", "1", "agent-a"]),
        ({"subuid": "agent-a:100000:65536\n"}, ["usermod", "--del-subuids", "100000-165535", "agent-a"]),
        ({"lingering": ("agent-a",)}, ["rm", "--", "/var/lib/systemd/linger/agent-a"]),
        (
            {"passwd": f"agent-a:x:990:990:AI agent:{HOME}:/bin/bash\n"},
            ["usermod", "--home", HOME, "--shell", _users.NOLOGIN, "agent-a"],
        ),
    ],
)
def test_each_way_in_is_closed(wrong, argv):
    assert [step.argv for step in _users.steps(RIGHT._replace(**wrong), "agent-a", HOME)] == [argv]


@pytest.mark.parametrize(
    ("lists", "service", "expected"),
    [
        (RIGHT.lists, "cron", ("cron.deny", "agent-a\n")),
        (RIGHT.lists, "at", ("at.deny", "daemon\nagent-a\n")),
        ({**RIGHT.lists, "at.deny": "agent-a\n"}, "at", ("at.deny", "agent-a\n")),
        ({**RIGHT.lists, "cron.allow": "root\nagent-a\n"}, "cron", ("cron.allow", "root\n")),
    ],
)
def test_schedulers_refuse_the_agent_and_keep_the_lines_of_others(lists, service, expected):
    assert _users.denied(lists, service, ["agent-a"]) == expected
