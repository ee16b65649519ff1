# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""After a reboot: everything is back by itself, and the agent was confined before its first instruction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_the_machine_did_reboot(host: Any) -> None:
    assert float(host.check_output("cat /proc/uptime").split()[0]) < 900


def test_no_unit_failed(host: Any, eventually: Callable[..., Any]) -> None:
    eventually(lambda: host.run("systemctl is-system-running").stdout.strip() in ("running", "degraded"), 180)
    assert host.check_output("systemctl list-units --failed --plain --no-legend 'cordon-*'") == ""


def test_every_agent_started_by_itself_and_is_confined(
    host: Any, agent: dict[str, Any], eventually: Callable[..., Any]
) -> None:
    name = agent["name"]
    eventually(lambda: host.service(f"cordon-agent@{name}").is_running, 120)
    mode = "enforce" if agent["mode"] == "enforce" else "mixed"
    for pid in host.check_output(f"pgrep --uid agent-{name}").split():
        assert host.check_output(f"cat /proc/{pid}/attr/current") == f"cordon.{name}//&cordon.{name}.main ({mode})"


def test_it_started_after_its_controls(host: Any, agent: dict[str, Any]) -> None:
    """By systemd's own clock: the agent became active later than the firewall and its vault."""

    def since_boot(unit: str) -> int:
        shown = host.check_output(f"systemctl show --property=ActiveEnterTimestampMonotonic --value {unit}")
        assert int(shown) > 0, f"{unit} never became active"
        return int(shown)

    name = agent["name"]
    begun = since_boot(f"cordon-agent@{name}.service")
    for control in ("cordon-firewall.service", f"cordon-vault@{name}.service", "cordon-events.service", "cordon-watch.service"):
        assert since_boot(control) < begun, control


def test_the_watch_took_no_start_for_an_escape(host: Any) -> None:
    assert "(killed)" not in host.check_output("journalctl --boot --no-pager --output=cat --unit=cordon-watch")


def test_no_check_fails(status: dict[str, Any]) -> None:
    assert [entry for entry in status["attention"] if entry["status"] in ("fail", "error")] == []
