# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The acts of the tour, as data: what the article says an agent must not, and must, be able to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Event = dict[str, Any]
AGENT, OTHER = "scout", "scribe"


@dataclass(frozen=True)
class Act:
    """A shell command that both try, who must succeed, and which event the agent's try must leave."""

    title: str
    command: str
    user_can: bool
    agent_can: bool
    trace: Callable[[Event], bool]


def on_path(part: str, outcome: str = "denied") -> Callable[[Event], bool]:
    """An event about a file, secret or program whose path has this part."""

    def matches(event: Event) -> bool:
        named = f"{event.get('path') or ''} {' '.join(event.get('argv') or [])}"
        return event.get("outcome") == outcome and part in named

    return matches


def to_port(address: str, port: int, outcome: str = "denied") -> Callable[[Event], bool]:
    """An event about a connection to this address and port."""
    return lambda event: (
        event.get("kind") == "connection"
        and (event.get("address"), event.get("port"), event.get("outcome")) == (address, port, outcome)
    )


def _file_acts() -> list[Act]:
    unit = "$HOME/.config/systemd/user/miner.service"
    return [
        Act("read /etc/shadow", "cat /etc/shadow", False, False, on_path("/etc/shadow")),
        Act("write ~/.ssh/id_ed25519", "echo key > $HOME/.ssh/id_ed25519", True, False, on_path("/.ssh/id_ed25519")),
        Act(
            "create a systemd service",
            f"mkdir -p ${{HOME}}/.config/systemd/user; printf '[Service]\\nExecStart=/bin/true\\n' > {unit} "
            "&& systemctl --user start miner.service",
            True,
            False,
            on_path("system"),
        ),
        Act("create a cron job", "echo '0 3 * * * true' | crontab -", True, False, on_path("crontab")),
        Act(
            "read the agent's own secret",
            f"cat /srv/agents/{AGENT}/.vault/github_token",
            False,
            True,
            lambda event: on_path("github_token", "allowed")(event) and str(event.get("program")).endswith("/cat"),
        ),
        Act(
            "read another agent's secret",
            f"cat /srv/agents/{OTHER}/.vault/database_url",
            False,
            False,
            on_path(f"/srv/agents/{OTHER}"),
        ),
    ]


def _network_acts(services: dict[str, Any]) -> list[Act]:
    address, https, tunnel = services["address"], services["https"], services["tunnel"]
    off_list = services["off_allowlist"]
    fetch = "curl --silent --show-error --max-time 10 --output /dev/null"
    dig = (
        "timeout 15 ssh -N -R 0:127.0.0.1:22 -i $KEY -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "
        f"-o BatchMode=yes -o ExitOnForwardFailure=yes -p {tunnel['port']} {tunnel['user']}@{address} 2>&1 "
        "| grep --max-count=1 'Allocated port'"
    )
    return [
        Act("ask 169.254.169.254", f"{fetch} http://169.254.169.254/", True, False, to_port("169.254.169.254", 80)),
        Act("ask fd00:ec2::254", f"{fetch} 'http://[fd00:ec2::254]/'", True, False, to_port("fd00:ec2::254", 80)),
        Act("open a reverse SSH tunnel", dig, True, False, to_port(address, tunnel["port"])),
        Act(
            "reach an address off the allowlist",
            f"{fetch} {off_list['url']}",
            True,
            False,
            to_port(address, off_list["port"]),
        ),
        Act(
            "reach one on the allowlist",
            f"{fetch} --cacert $CA {https['url']}",
            True,
            True,
            to_port(address, https["port"], "allowed"),
        ),
    ]


def acts(services: dict[str, Any]) -> list[Act]:
    """All acts, given the test bed's services.json."""
    return _file_acts() + _network_acts(services)
