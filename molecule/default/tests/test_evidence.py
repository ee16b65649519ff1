# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Evidence in a container: what its kernel cannot give is "not enforced", never a pass."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

EVIDENCE = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "evidence"
NEEDS_APPARMOR = {
    "apparmor-enabled",
    "apparmor-stacks",
    "apparmor-loads-at-boot",
    "cage-enforcing",
    "cage-as-recorded",
    "inner-profile-mode",
    "inner-profile-as-recorded",
    "no-unrecorded-profile",
    "unit-enters-cage",
    "processes-confined",
    "burn-in-ends",
    "enforce-was-earned",
}
NEEDS_AUDIT = {
    "audit-on",
    "audit-daemon-running",
    "audit-lost-nothing",
    "audit-records-programs",
    "audit-records-denied-files",
}


@pytest.fixture(scope="module", name="evidence")
def fixture_evidence() -> dict[str, Any]:
    """What the last run of the site wrote on the controller."""
    return json.loads((EVIDENCE / "agenthost-container.json").read_text(encoding="utf-8"))


def test_the_kernel_is_known_to_lack_them(evidence: dict[str, Any]) -> None:
    support = evidence["facts"]["support"]
    assert (support["apparmor"], support["audit"]) == (False, False)
    assert evidence["facts"]["allow_unenforced"] == ["apparmor", "audit"]


NEEDS_RECEIVER = {"heartbeat-beating", "alerts-have-receiver"}  # declined: the container has no network


def test_what_needs_them_is_not_enforced_and_nothing_else_is(evidence: dict[str, Any]) -> None:
    found = {result["id"] for result in evidence["results"] if result["status"] == "not_enforced"}
    assert found == NEEDS_APPARMOR | NEEDS_AUDIT | NEEDS_RECEIVER


def test_every_other_control_holds(host: Any, evidence: dict[str, Any]) -> None:
    """Limits need the machine's cgroups in version 2: on an older layout they are not in force, and that must show."""
    bounded = host.file("/sys/fs/cgroup/cgroup.controllers").exists
    failing = {r["id"] for r in evidence["results"] if r["status"] in ("fail", "error")}
    assert failing == (set() if bounded else {"limits-in-force"})


def test_status_on_the_host_says_not_enforced_too(host: Any) -> None:
    status = json.loads(host.run("cordonctl status --json").stdout)
    assert status["host"]["apparmor"] == "not_enforced"
    assert {agent["controls"]["apparmor"] for agent in status["agents"]} == {"not_enforced"}


def test_the_page_says_it_first(evidence: dict[str, Any]) -> None:
    page = (EVIDENCE / "agenthost-container.html").read_text(encoding="utf-8")
    assert page.index("not enforced</span>") < page.index("Every check, by control")
    assert evidence["results"][0]["status"] != "pass"
