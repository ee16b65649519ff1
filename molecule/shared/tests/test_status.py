# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What cordonctl and the evidence say, beside what the scenario knows to be so."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

EVIDENCE = Path(os.environ.get("MOLECULE_EPHEMERAL_DIRECTORY", ".")) / "evidence"


def evidence() -> dict[str, Any]:
    files = sorted(EVIDENCE.glob("*.json"))
    assert len(files) == 1, f"one host, so one file: {files}"
    return json.loads(files[0].read_text())


def test_no_check_fails(host: Any, status: dict[str, Any]) -> None:
    """A container on a machine with control groups of version 1 has no limits of its own, and must say so."""
    bad = {entry["id"] for entry in status["attention"] if entry["status"] in ("fail", "error")}
    bounded = host.file("/sys/fs/cgroup/cgroup.controllers").exists
    assert bad == (set() if bounded else {"limits-in-force"})


def test_the_table_for_people_names_every_agent(host: Any, agent: dict[str, Any]) -> None:
    shown = host.run("cordonctl status").stdout
    assert any(line.split()[:2] == [agent["name"], agent["mode"]] for line in shown.splitlines())


def test_what_is_not_enforced_is_said_and_nothing_else(status: dict[str, Any]) -> None:
    unenforced = {entry["control"] for entry in status["attention"] if entry["status"] == "not_enforced"}
    if os.environ.get("MOLECULE_SCENARIO_NAME") == "default":
        assert "apparmor" in unenforced
    else:
        assert unenforced == set()


def test_the_evidence_agrees_with_the_host(status: dict[str, Any]) -> None:
    """Written by the controller in the converge, from the same checks."""
    counted = evidence()["summary"]
    assert counted["not_enforced"] == status["summary"]["not_enforced"]
    assert counted["pass"] > 0


def test_the_evidence_page_needs_nothing_else() -> None:
    pages = sorted(EVIDENCE.glob("*.html"))
    assert len(pages) == 1
    text = pages[0].read_text()
    assert "scout" in text
    for outside in ("src=\"http", "href=\"http", "@import", "<script src"):
        assert outside not in text


def test_no_secret_is_in_the_evidence(secrets: dict[str, dict[str, str]]) -> None:
    text = "".join(path.read_text() for path in EVIDENCE.iterdir())
    for values in secrets.values():
        for value in values.values():
            assert value not in text


@pytest.mark.kernel
def test_the_kernel_says_which_profiles_are_in_which_mode(host: Any, agent: dict[str, Any]) -> None:
    loaded = dict(
        line.rsplit(" ", 1) for line in host.check_output("cat /sys/kernel/security/apparmor/profiles").splitlines()
    )
    name = agent["name"]
    assert loaded[f"cordon.{name}"] == "(enforce)"
    assert loaded[f"cordon.{name}.main"] == ("(enforce)" if agent["mode"] == "enforce" else "(complain)")


@pytest.mark.kernel
def test_the_kernel_audits_the_agents(host: Any, agent: dict[str, Any]) -> None:
    uid = host.user(f"agent-{agent['name']}").uid
    # Users with neighbouring numbers share a rule.
    named = re.findall(r"-F uid(>?=)(\d+)(?: -F uid<=(\d+))? .*key=cordon-exec", host.check_output("auditctl -l"))
    assert [first for sign, first, last in named if int(first) <= uid <= int(last or first)]
    assert "enabled 1" in host.check_output("auditctl -s") or "enabled 2" in host.check_output("auditctl -s")
