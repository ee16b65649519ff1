# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""On a kernel that was booted with apparmor=0, systemd takes AppArmorProfile= for nothing. No agent starts, somebody is told."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.kernel


def test_the_kernel_runs_without_it(host: Any) -> None:
    assert host.check_output("cat /sys/module/apparmor/parameters/enabled") == "N"
    assert not host.file("/sys/kernel/security/apparmor").exists


def test_no_agent_starts_and_the_journal_says_why(host: Any, agent: dict[str, Any], eventually: Callable[..., Any]) -> None:
    unit = f"cordon-agent@{agent['name']}.service"
    refused = eventually(lambda: host.run(
        f"journalctl --boot --no-pager --output=cat --unit={unit} | grep 'is not started'").stdout, 180)
    assert "conditions do not hold" in refused
    assert "AppArmor is on in this kernel" in host.check_output(f"journalctl --boot --no-pager --output=cat --unit={unit}")
    assert host.run(f"pgrep --uid agent-{agent['name']}").stdout == ""


def test_no_session_starts_either(host: Any, as_agent: Callable[..., Any], agent: dict[str, Any]) -> None:
    refused = as_agent(agent["name"], "true")
    assert refused.rc != 0
    assert "boot with apparmor=1" in refused.stderr


def test_somebody_is_told(eventually: Callable[..., Any]) -> None:
    received = Path(os.environ["CORDON_TESTBED"]) / "webhook.jsonl"
    alerts = eventually(lambda: [
        body for line in received.read_text().splitlines() if (body := json.loads(line)["body"])["alert"] == "apparmor-off"], 180)
    assert alerts[0]["severity"] == "critical"


def test_what_root_starts_as_the_agent_is_ended_here_too(host: Any, eventually: Callable[..., Any]) -> None:
    host.check_output("systemd-run --quiet --collect --uid=agent-scout sleep 600")
    eventually(lambda: host.run("pgrep --uid agent-scout").stdout == "")
