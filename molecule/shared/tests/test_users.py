# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent's user: nobody logs in as it, and it has no way to more rights."""

from __future__ import annotations

from typing import Any

import pytest


def test_the_user_is_locked(host: Any, agent: dict[str, Any]) -> None:
    user = host.user(f"agent-{agent['name']}")
    assert user.exists
    assert user.shell.endswith("/nologin")
    assert user.password.startswith(("!", "*"))
    assert user.home == f"/srv/agents/{agent['name']}"


def test_the_account_has_expired(host: Any, agent: dict[str, Any]) -> None:
    """PAM then admits nobody as this user; root's own su shows it."""
    refused = host.run(f"su --shell /bin/true agent-{agent['name']}")
    assert refused.rc != 0
    assert "expired" in refused.stdout + refused.stderr


def test_the_user_is_in_no_group_but_its_own(host: Any, agent: dict[str, Any]) -> None:
    assert host.user(f"agent-{agent['name']}").groups == [f"agent-{agent['name']}"]


def test_sudo_refuses(host: Any, agent: dict[str, Any]) -> None:
    granted = host.run(f"sudo -l -U agent-{agent['name']}")
    assert "not allowed to run sudo" in granted.stdout + granted.stderr


@pytest.mark.parametrize("table", ["/etc/subuid", "/etc/subgid"])
def test_the_user_has_no_subordinate_ids(host: Any, agent: dict[str, Any], table: str) -> None:
    ids = host.file(table)
    assert not ids.exists or f"agent-{agent['name']}:" not in ids.content_string


def test_cron_and_at_refuse(host: Any, unwatched: None, agent: dict[str, Any]) -> None:
    name = f"agent-{agent['name']}"
    assert host.run(f"runuser -u {name} -- crontab -l").rc != 0
    assert "not allowed" in host.run(f"runuser -u {name} -- crontab -l").stderr
    assert host.run(f"runuser -u {name} -- at -l").rc != 0


def test_nothing_lingers(host: Any, agent: dict[str, Any]) -> None:
    assert not host.file(f"/var/lib/systemd/linger/agent-{agent['name']}").exists


def test_the_home_belongs_to_root_and_the_workspace_to_the_agent(host: Any, agent: dict[str, Any]) -> None:
    name = agent["name"]
    home, workspace = host.file(f"/srv/agents/{name}"), host.file(f"/srv/agents/{name}/workspace")
    assert (home.user, home.group, home.mode) == ("root", f"agent-{name}", 0o750)
    assert (workspace.user, workspace.mode) == (f"agent-{name}", 0o700)


def test_the_agent_cannot_plant_files_in_its_home(host: Any, unwatched: None, agent: dict[str, Any]) -> None:
    name = agent["name"]
    for path in (f"/srv/agents/{name}/.bashrc", f"/srv/agents/{name}/.ssh/authorized_keys"):
        assert host.run(f"runuser -u agent-{name} -- touch {path}").rc != 0
        assert not host.file(path).exists
