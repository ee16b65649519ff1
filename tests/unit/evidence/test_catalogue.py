# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks and the controls that the role ships, over facts recorded from a booted Debian 12.

samples: running.json, both agents at work; idle.json, demo stopped by hand; ghost.json, the same host asked
about an agent that it never had; container.json, a container without AppArmor and audit.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
import yaml

from ansible_collections.cordon.agent_host.plugins.module_utils import _checks

HERE = Path(__file__).parent
ROLE = HERE.parents[2] / "roles" / "compliance_evidence" / "files"
CHECKS = yaml.safe_load((ROLE / "checks.yml").read_text())
CATALOGUE = yaml.safe_load((ROLE / "controls.yml").read_text())
IDS = [check["id"] for check in CHECKS]
# The five controls of ours that must hold before an agent starts (DESIGN.md, "The chain that fails closed").
GATE = {
    "vault-follows-session",
    "vault-mounted-rightly",
    "secrets-readable-by-agent-only",
    "memory-kept-from-swap",
    "apparmor-enabled",
    "apparmor-stacks",
    "cage-enforcing",
    "cage-as-recorded",
    "inner-profile-mode",
    "inner-profile-as-recorded",
    "firewall-loaded",
    "firewall-as-recorded",
    "firewall-binds-agent",
    "proxy-serves-agent",
    "resolver-serves-agent",
    "audit-on",
    "events-written",
    "watch-running",
}


def sample(name):
    return json.loads((HERE / "samples" / f"{name}.json").read_text())


def open_results(facts, **options):
    return {
        (r["id"], r["agent"]): r["status"] for r in _checks.evaluate(CHECKS, facts, **options) if r["status"] != "pass"
    }


def test_the_checks_are_well_formed():
    assert _checks.validate(CHECKS) == []
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in IDS)


def test_every_control_that_a_check_names_is_in_the_catalogue_and_the_other_way_round():
    named = {
        (framework, number)
        for check in CHECKS
        for framework, numbers in check["controls"].items()
        for number in numbers
    }
    listed = {(framework, number) for framework, entry in CATALOGUE.items() for number in entry["controls"]}
    assert named == listed


def test_the_catalogue_covers_what_was_asked_for():
    asked = {
        "soc2": {"CC6.1", "CC6.6", "CC7.2"},
        "iso27001_2013": {"A.9.4.1", "A.13.1.3"},
        "nist80053r5": {"AC-6"},
        "cis": {"1.3.1.4"},
        "hipaa": {"164.312(b)"},
        "iso27001_2022": {"8.3", "8.22"},
    }
    for framework, numbers in asked.items():
        assert numbers <= set(CATALOGUE[framework]["controls"])


def test_the_gate_before_a_start_is_exactly_this():
    assert {check["id"] for check in CHECKS if check.get("preflight")} == GATE


@pytest.mark.parametrize("check", CHECKS, ids=IDS)
def test_a_check_tells_what_to_do_and_names_the_agent_only_where_there_is_one(check):
    assert len(check["remedy"]) > 10
    assert check["scope"] == "agent" or "{agent}" not in check["remedy"]
    assert check["scope"] == "agent" or "agent." not in check["expression"].replace("agent_host.", "")


# No receiver was given to the host from which the samples come.
DECLINED = {("heartbeat-beating", None): "not_enforced", ("alerts-have-receiver", None): "not_enforced"}


def test_a_provisioned_host_passes_everything():
    assert open_results(sample("running")) == DECLINED


def test_an_idle_agent_fails_only_for_not_running():
    assert open_results(sample("idle")) == {**DECLINED, ("agent-running", "demo"): "fail"}


@pytest.mark.parametrize(("result", "rests"), [("success", True), ("exit-code", False), ("oom-kill", False)])
def test_an_agent_whose_vault_idles_may_rest_but_not_fail(result, rests):
    facts = sample("idle")
    facts["agents"]["demo"]["expected"]["idle"] = "30m"
    facts["agents"]["demo"]["unit"]["Result"] = result
    assert open_results(facts).get(("agent-running", "demo")) == (None if rests else "fail")


def test_an_agent_that_was_never_provisioned_passes_next_to_nothing():
    passing = {r["id"] for r in _checks.evaluate(CHECKS, sample("ghost")) if r["status"] == "pass" and r["agent"]}
    # systemd has nothing to reload, no cage has a stranger beside it, and the vault's unit is one for all agents.
    # The manifest orders enforce for it, which needs no burn-in.
    assert passing == {"unit-as-on-disk", "no-unrecorded-profile", "vault-key-stays-in-memory",
                       "enforce-was-earned", "burn-in-ends"}


def test_agents_that_the_manifest_no_longer_names_are_strays():
    assert ("no-user-without-manifest", None) in open_results(sample("ghost"))


def nulled(value, key):
    """The same data with every value of this key unread."""
    if isinstance(value, dict):
        return {name: None if name == key else nulled(item, key) for name, item in value.items()}
    return [nulled(item, key) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("check", CHECKS, ids=IDS)
def test_no_check_passes_once_a_fact_that_it_uses_cannot_be_read(check):
    facts = sample("running")
    paths = re.sub(r"'[^']*'|`[^`]*`|[A-Za-z_]+: ", "", check["expression"])
    fields = set(re.findall(r"[A-Za-z_][A-Za-z0-9_]*|\"[^\"]+\"", paths))
    fields -= {"host", "agent", "contains"}
    assert fields
    for field in sorted(field.strip('"') for field in fields):
        blind = nulled(copy.deepcopy(facts), field)
        for result in _checks.evaluate([check], blind):
            # A list without elements has no fields to lose: what it says stays true.
            if result["observed"] != [] or field not in json.dumps(facts):
                assert result["status"] != "pass", (field, result["observed"])


DRIFTS = [
    ("cage-enforcing", "agents.demo.apparmor.cage.mode", "complain"),
    ("cage-as-recorded", "agents.demo.apparmor.cage.hash", "0" * 40),
    ("inner-profile-mode", "agents.demo.apparmor.main.mode", "unconfined"),
    ("processes-confined", "agents.demo.misplaced", ["pid 1 (/bin/sh): unconfined (None)"]),
    ("unit-enters-cage", "agents.demo.unit.AppArmorProfile", "-cordon.demo"),
    ("apparmor-enabled", "support.apparmor", False),
    ("firewall-loaded", "firewall.present", False),
    ("firewall-as-recorded", "firewall.sha256", "0" * 64),
    ("firewall-binds-agent", "agents.demo.firewall.bound", False),
    ("vault-follows-session", "agents.demo.vault.mounted", False),
    ("secrets-readable-by-agent-only", "agents.demo.vault.faults", ["token: mode 0444, not 0400"]),
    ("vault-files-belong-to-root", "agents.demo.vault.loose", ["/etc/cordon/vault/demo.cred: missing"]),
    ("memory-kept-from-swap", "agents.demo.vault.swappable", ["the vault: no memory.swap.max of 0"]),
    ("swap-encrypted", "memory.swap_faults", ["/dev/vda2"]),
    ("core-handler-bounded", "memory.core_faults", ["a socket"]),
    ("hibernation-off", "memory.hibernation_faults", ["/dev/vda2"]),
    ("crash-dump-without-programs", "memory.kdump_faults", ["a crash kernel"]),
    ("vault-key-stays-in-memory", "agents.demo.vault_unit.CoredumpFilter", "0x33"),
    ("unit-sandboxed", "agents.demo.unit.LimitCORE", "0"),
    ("vault-leaves-no-key", "agents.demo.vault.residue", ["/dev/shm/cordon-key"]),
    ("user-in-no-privileged-group", "agents.demo.user.privileged_groups", ["docker"]),
    ("user-has-no-sudo", "agents.demo.user.sudo", ["(ALL) ALL"]),
    ("user-cannot-log-in", "agents.demo.user.password", "set"),
    ("user-cannot-log-in", "agents.demo.user.expired", False),
    ("user-leaves-no-jobs", "agents.demo.user.jobs", ["/var/spool/cron/crontabs/agent-demo"]),
    ("user-does-not-linger", "agents.demo.user.linger", True),
    ("limits-in-force", "agents.demo.limits.swap_bytes", None),
    ("devices-closed", "agents.demo.unit.DevicePolicy", "auto"),
    ("unit-sandboxed", "agents.demo.unit.NoNewPrivileges", "no"),
    ("namespaces-as-granted", "agents.demo.unit.RestrictNamespaces", "no"),
    ("processes-sandboxed", "agents.demo.weakened", ["pid 1"]),
    ("no-user-without-manifest", "strays", [{"user": "agent-old", "processes": 1}]),
    ("audit-on", "audit.enabled", 0),
    ("audit-lost-nothing", "audit.lost", 3),
    ("audit-records-programs", "agents.demo.audit.calls", ["openat"]),
    ("events-written", "monitoring.writer.fresh", False),
    ("watch-running", "monitoring.watch.fresh", False),
    ("events-kept-90-days", "monitoring.retention_days", 89),
    ("events-protected", "monitoring.log.mode", "0644"),
]


@pytest.mark.parametrize(("check", "path", "value"), DRIFTS, ids=[f"{drift[0]}" for drift in DRIFTS])
def test_a_drift_is_found_by_its_check(check, path, value):
    facts = sample("running")
    *parents, last = path.split(".")
    place = facts
    for name in parents:
        place = place[name]
    assert place[last] != value
    place[last] = value
    assert check in {name for name, _agent in open_results(facts)}


def test_in_a_container_what_cannot_be_had_is_not_enforced_and_never_passes():
    results = _checks.evaluate(CHECKS, sample("container"))
    needing = {check["id"] for check in CHECKS if check.get("needs")}
    assert {r["id"] for r in results if r["status"] == "not_enforced"} == needing
    assert not [r["id"] for r in results if r["id"] in needing and r["status"] == "pass"]
    # The machine that ran the container has cgroups of version 1: systemd could bound nothing, and that shows.
    assert {r["id"] for r in results if r["status"] in ("fail", "error")} == {"limits-in-force"}


def test_without_the_waiver_the_same_container_fails():
    facts = dict(sample("container"), allow_unenforced=[])
    of_kernel = {check["id"] for check in CHECKS if check.get("needs") in ("apparmor", "audit")}
    assert {r["status"] for r in _checks.evaluate(CHECKS, facts) if r["id"] in of_kernel} == {"fail"}
