# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent's unit as systemd and the kernel run it: sandboxed, bounded, and only with its controls."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest


def process_status(host: Any, pid: int) -> dict[str, str]:
    """/proc/PID/status as {key: value}."""
    lines = host.check_output(f"cat /proc/{pid}/status").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_the_agent_runs_as_its_user(host: Any, agent: dict[str, Any], main_pid: Callable[[str], int]) -> None:
    pid = main_pid(agent["name"])
    uid = host.user(f"agent-{agent['name']}").uid
    assert process_status(host, pid)["Uid"].split() == [str(uid)] * 4
    assert host.file(f"/proc/{pid}/exe").linked_to == agent["command"][0]


def test_the_kernel_gives_it_no_way_to_rights(
    host: Any, agent: dict[str, Any], main_pid: Callable[[str], int]
) -> None:
    seen = process_status(host, main_pid(agent["name"]))
    assert seen["NoNewPrivs"] == "1"
    assert seen["Seccomp"] == "2"
    for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(seen[name], 16) == 0, f"{name} {seen[name]}"


def test_it_lives_in_its_own_slice(host: Any, agent: dict[str, Any], main_pid: Callable[[str], int]) -> None:
    groups = host.check_output(f"cat /proc/{main_pid(agent['name'])}/cgroup")
    assert f"cordon-{agent['name']}.slice/" in groups


@pytest.mark.kernel
def test_the_kernel_bounds_its_slice(host: Any) -> None:
    """Read from the control group itself. Numbers of `scout` in the manifest."""
    group = "/sys/fs/cgroup/cordon.slice/cordon-scout.slice"
    assert host.file(f"{group}/memory.max").content_string.strip() == str(256 * 1024**2)
    assert host.file(f"{group}/memory.swap.max").content_string.strip() == "0"
    assert host.file(f"{group}/pids.max").content_string.strip() == "64"
    quota, period = host.file(f"{group}/cpu.max").content_string.split()
    assert int(quota) / int(period) == 0.5


@pytest.mark.kernel
def test_every_process_of_the_agent_is_confined(host: Any, agent: dict[str, Any]) -> None:
    """The label from /proc, of all processes of its user, not only of the one that systemd started."""
    name = agent["name"]
    pids = host.check_output(f"pgrep --uid agent-{name}").split()
    assert pids
    mode = "enforce" if agent["mode"] == "enforce" else "mixed"
    for pid in pids:
        label = host.check_output(f"cat /proc/{pid}/attr/current")
        assert label == f"cordon.{name}//&cordon.{name}.main ({mode})"


def test_a_session_has_the_confinement_of_the_service(
    host: Any, agent: dict[str, Any], main_pid: Callable[[str], int], as_agent: Callable[..., Any]
) -> None:
    """One definition of confinement: what the kernel says of the service and of `cordonctl run` is the same."""
    name = agent["name"]
    keys = ("Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "CapPrm", "CapBnd", "CapAmb")
    service = process_status(host, main_pid(name))
    session = as_agent(name, "/usr/bin/cat", "/proc/self/status")
    assert session.rc == 0, session.stderr
    seen = {key: value.strip() for key, _, value in (line.partition(":") for line in session.stdout.splitlines())}
    assert {key: seen[key] for key in keys} == {key: service[key] for key in keys}


def test_no_session_is_left_behind(host: Any, as_agent: Callable[..., Any]) -> None:
    assert as_agent("scout", "/usr/bin/true").rc == 0
    units = host.check_output("systemctl list-units --all --plain --no-legend 'cordon-session-*'")
    assert not re.search(r"cordon-session-scout-\S+\.service\s+\S+\s+active", units)
