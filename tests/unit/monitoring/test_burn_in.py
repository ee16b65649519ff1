# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What enforce would refuse is collected whole, once, and whatever may be missing is said."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cordon_monitoring import burn_in, kernel_audit, saved, verdict
from cordon_monitoring.act import Act, AuditEvent
from cordon_monitoring.audit_status import AuditStatus
from cordon_monitoring.burn_in import Collector
from cordon_monitoring.config import Agents, LiveAgents
from cordon_monitoring.firewall_line import KernelLine

BURNING = Agents({999: "probe"}, frozenset({"probe", "other"}), frozenset({"probe"}))
PROMOTED = BURNING._replace(burning=frozenset())
FINE = AuditStatus(1, 300, 0, 0)
START = 1_700_000_000.0


@pytest.fixture
def collector(tmp_path: Path) -> Collector:
    made = Collector(tmp_path, "boot-1")
    made.follow(BURNING, START)
    made.take_status(FINE, START)
    return made


def content(collector: Collector, tmp_path: Path) -> dict[str, Any]:
    assert collector.save(0.0, at_once=True)
    return saved.load(tmp_path / "probe.json")


def avc(word: str = "ALLOWED", **fields: str) -> dict[str, str]:
    made = {"type": "AVC", "apparmor": word, "operation": "open", "profile": "cordon.probe.main", "pid": "7", "comm": "cat"}
    return {**made, "name": "/etc/fstab", "requested_mask": "r", "denied_mask": "r", **fields}


def act(*records: dict[str, str], at: float = START + 1) -> AuditEvent:
    return AuditEvent(at, f"{at:.3f}:1", list(records))


def said(*records: dict[str, str]) -> list[dict[str, Any]]:
    return verdict.verdicts(Act(act(*records)))


# serial of the recorded act: what is collected of it
COLLECTED = {
    612: [("allowed", "file", "cordon.probe.main", "inner", "/dev/tty", "rw")],
    614: [("denied", "file", "cordon.probe.main", "both", "/proc/1380/attr/current", "r")],
    616: [("allowed", "file", "cordon.probe.main", "inner", "/etc/machine-id", "r")],
    625: [("denied", "exec", "cordon.probe.main", "cage", "/srv/agents/probe/workspace/true", "x")],
    629: [("denied", "file", "cordon.probe.main", "both", "/var/log/wtmp", "r")],
    651: [("denied", "network", "cordon.probe.main", "both", None, "create")],
}


def test_recorded_acts(acts: dict[int, AuditEvent]) -> None:
    """The accesses that a rule grants and audits (220, 621), and what AppArmor was not asked about, are none."""
    found = {
        serial: [tuple(one[key] for key in ("verdict", "class", "profile", "layer", "path", "access")) for one in judged]
        for serial, event in acts.items()
        if (judged := verdict.verdicts(Act(event)))
    }
    assert found == COLLECTED


def test_recorded_acts_of_a_burn_in(burn_in_acts: dict[int, AuditEvent], tmp_path: Path) -> None:
    """The hex name is plain; attr/exec has four records (mknod and open, two layers) and is one act; a start counts."""
    collector = Collector(tmp_path, "boot-1")
    agents = Agents({997: "scribe"}, frozenset({"scribe"}), frozenset({"scribe"}))
    collector.follow(agents, START)
    for event in burn_in_acts.values():
        collector.take(event, agents)
    assert collector.save(0.0, at_once=True)
    found = saved.load(tmp_path / "scribe.json")
    names = ("verdict", "class", "layer", "access", "path", "count")
    loader = "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
    assert [tuple(one[name] for name in names) for one in found["acts"]] == [
        ("allowed", "file", "inner", "r", '/var/lib/obs/a b"c', 1),
        ("allowed", "file", "inner", "r", "/etc/fstab", 1),
        ("denied", "exec", "cage", "x", "/usr/bin/python3.11", 2),
        ("denied", "exec", "cage", "x", "/usr/bin/su", 1),
        ("denied", "file", "both", "w", "/proc/[0-9]*/attr/exec", 1),
        ("denied", "exec", "cage", "x", loader, 1),
        ("denied", "file", "both", "r", "/srv/agents/", 1),
        ("allowed", "exec", "inner", "x", "/usr/bin/dash", 1),
    ]
    assert {one["profile"] for one in found["acts"][:-1]} == {"cordon.scribe.main"}
    # tar may start nothing; in burn-in its start of a shell was an audited rule into main.
    assert (found["acts"][-1]["profile"], found["acts"][-1]["program"]) == ("cordon.scribe.writers", "tar")
    assert found["execs"] == 2


def test_a_socket_is_named_by_its_kind(acts: dict[int, AuditEvent]) -> None:
    (found,) = verdict.verdicts(Act(acts[651]))
    assert (found["family"], found["sock_type"], found["protocol"]) == ("packet", "raw", "0")


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([avc(profile="cordon.probe.main//null-/usr/bin/x//null-/tmp/a b")], {"profile": "cordon.probe.main"}),
        ([avc("AUDIT", operation="exec", profile="cordon.probe.git", name="/usr/bin/less")],
         {"class": "exec", "verdict": "allowed"}),
        ([avc(denied_mask="wc")], {"access": "w"}),
        ([avc(denied_mask="r::")], {"access": "r"}),
        ([avc("DENIED", profile="cordon.probe", denied_mask="w"), avc(denied_mask="rw")],
         {"verdict": "denied", "layer": "both", "access": "rw", "profile": "cordon.probe.main"}),
        ([avc("DENIED", operation="capable", capname="sys_admin", name="")],
         {"class": "capability", "detail": "sys_admin", "path": None}),
        ([avc("DENIED", operation="signal", signal="term", peer="unconfined", name="")],
         {"class": "signal", "detail": "term unconfined"}),
        ([avc("DENIED", operation="mount", srcname="tmpfs", name="/mnt")], {"class": "mount", "path": "/mnt", "detail": "tmpfs"}),
        ([avc("DENIED", operation="change_profile", target="unconfined")], {"class": "other", "detail": "unconfined"}),
    ],
)  # fmt: skip
def test_one_verdict(records: list[dict[str, str]], expected: dict[str, Any]) -> None:
    (found,) = said(*records)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    "record",
    [
        avc("AUDIT", name="/srv/agents/probe/.vault/key"),
        avc("AUDIT", operation="exec", profile="cordon.probe"),
        avc("STATUS", operation="profile_load", profile="unconfined", name="cordon.probe"),
        avc("DENIED", profile="/usr/sbin/cupsd"),
        avc("DENIED", profile="cordon.probe//evil"),
    ],
)
def test_what_is_no_verdict_about_an_agent(record: dict[str, str]) -> None:
    assert said(record) == []


def test_an_act_with_two_paths_has_two_verdicts_of_one_outcome() -> None:
    target = avc("DENIED", operation="rename_dest", profile="cordon.probe", name="/opt/b", denied_mask="w")
    found = [(one["verdict"], one["path"], one["layer"]) for one in said(avc(name="/opt/a"), target)]
    assert found == [("denied", "/opt/a", "inner"), ("denied", "/opt/b", "cage")]


def test_who_started_a_program_is_not_what_was_started() -> None:
    syscall = {"type": "SYSCALL", "exe": "/usr/bin/less", "syscall": "execve", "exit": "0", "uid": "999"}
    (found,) = said(avc("AUDIT", operation="exec", profile="cordon.probe.git", name="/usr/bin/less", comm="git"), syscall)
    assert found["program"] == "git"


def test_the_file_has_the_shape_that_the_gate_reads(collector: Collector, tmp_path: Path) -> None:
    for at in (START + 1, START + 5, START + 3):
        collector.take(act(avc(), at=at), BURNING)
    found = content(collector, tmp_path)
    assert found == {
        "agent": "probe", "collecting_since": START, "ended": None, "boot": "boot-1", "audit_lost": 0, "lost": [],
        "days": [], "execs": 0, "last_exec": None,
        "acts": [{
            "verdict": "allowed", "class": "file", "profile": "cordon.probe.main", "operation": "open", "path": "/etc/fstab",
            "access": "r", "family": None, "sock_type": None, "protocol": None, "detail": None, "program": "cat",
            "layer": "inner", "count": 3, "first": START + 1, "last": START + 5,
        }],
    }  # fmt: skip
    assert (tmp_path / "probe.json").stat().st_mode & 0o137 == 0


def test_only_agents_in_burn_in_are_collected(collector: Collector, tmp_path: Path) -> None:
    collector.take(act(avc(profile="cordon.other.main")), BURNING)
    assert content(collector, tmp_path)["acts"] == []
    assert [path.name for path in tmp_path.iterdir()] == ["probe.json"]


def test_process_numbers_make_no_new_acts(collector: Collector, tmp_path: Path) -> None:
    for number in range(100, 200):
        collector.take(act(avc(name=f"/proc/{number}/task/{number}/maps")), BURNING)
    collector.take(act(avc(name="/proc/1")), BURNING)
    paths = {one["path"]: one["count"] for one in content(collector, tmp_path)["acts"]}
    assert paths == {"/proc/[0-9]*/task/[0-9]*/maps": 100, "/proc/[0-9]*": 1}


def start(**fields: str) -> dict[str, str]:
    return {"type": "SYSCALL", "syscall": "execve", "exit": "0", "uid": "999", "exe": "/usr/bin/x", **fields}


def test_starts_of_programs_are_the_activity(collector: Collector, tmp_path: Path) -> None:
    for day in (3, 0, 0):
        collector.take(act(start(), at=START + day * 86400), BURNING)
    for other in (start(exit="-2"), start(uid="0"), start(syscall="openat"), start(uid="1000")):
        collector.take(act(other), BURNING)
    found = content(collector, tmp_path)
    assert (found["days"], found["execs"], found["last_exec"]) == (["2023-11-14", "2023-11-17"], 3, START + 3 * 86400)


def test_a_restart_goes_on_with_the_file(collector: Collector, tmp_path: Path) -> None:
    collector.take(act(avc()), BURNING)
    before = content(collector, tmp_path)
    again = Collector(tmp_path, "boot-1")
    again.follow(BURNING, START + 100)
    again.take_status(FINE, START + 100)
    again.take(act(avc(), at=START + 100), BURNING)
    found = content(again, tmp_path)
    assert found["acts"][0]["count"] == 2
    assert {**found, "acts": []} == {**before, "acts": []}


def test_an_act_read_again_after_a_crash_changes_nothing_but_its_count(collector: Collector, tmp_path: Path) -> None:
    events = [act(avc()), act(start()), act(avc(name="/opt/x"))]
    for event in events:
        collector.take(event, BURNING)
    before = content(collector, tmp_path)
    crashed = Collector(tmp_path, "boot-1")
    crashed.follow(BURNING, START + 9)
    for event in events[1:]:
        crashed.take(event, BURNING)
    found = content(crashed, tmp_path)
    assert [one["count"] for one in found["acts"]] == [1, 2]
    forgiving = {"acts": [{**one, "count": 0} for one in found["acts"]], "execs": 0}
    assert {**found, **forgiving} == {**before, "acts": [{**one, "count": 0} for one in before["acts"]], "execs": 0}


def losses(collector: Collector, tmp_path: Path) -> list[str]:
    return [one["what"] for one in content(collector, tmp_path)["lost"]]


@pytest.mark.parametrize(("boot", "count", "expected"), [
    ("boot-1", 0, []),
    ("boot-1", 3, ["the kernel lost audit records (3 since its boot)"]),
    ("boot-2", 0, []),
    ("boot-2", 2, ["the kernel lost audit records (2 since its boot)"]),
])  # fmt: skip
def test_records_lost_while_nobody_looked(
    collector: Collector, tmp_path: Path, boot: str, count: int, expected: list[str]
) -> None:
    assert collector.save(0.0, at_once=True)
    again = Collector(tmp_path, boot)
    again.follow(BURNING, START + 50)
    again.take_status(FINE._replace(lost=count), START + 50)
    assert losses(again, tmp_path) == expected
    again.take_status(FINE._replace(lost=count), START + 55)
    assert losses(again, tmp_path) == expected


def test_what_was_lost_before_the_burn_in_is_no_loss_of_it(tmp_path: Path) -> None:
    collector = Collector(tmp_path, "boot-1")
    collector.follow(BURNING, START)
    collector.take_status(FINE._replace(lost=9), START)
    collector.lose("a line of this boot's log, from before", START - 10)
    assert losses(collector, tmp_path) == []


@pytest.mark.parametrize("status", [None, FINE._replace(enabled=0)])
def test_audit_switched_off_is_a_loss_until_its_end_and_not_saved_all_the_time(
    collector: Collector, tmp_path: Path, status: AuditStatus | None
) -> None:
    assert collector.save(0.0)
    saves = 0
    for second in range(0, 300, 5):
        collector.take_status(status, START + second)
        saves += not collector.save(1.0)
        collector.save(second + 10.0)
    assert saves == 1
    for second in (301, 306):
        collector.take_status(FINE, START + second)
    assert content(collector, tmp_path)["lost"] == [{"at": START + 301, "what": "the kernel's audit was off"}]


def test_audit_that_stays_off_is_said_again_and_again(collector: Collector, tmp_path: Path) -> None:
    for second in range(0, 3600, 5):
        collector.take_status(None, START + second)
    (lost,) = content(collector, tmp_path)["lost"]
    assert lost["at"] > START + 3200


def test_auditd_that_could_not_write_is_a_loss(collector: Collector, tmp_path: Path) -> None:
    collector.take(act({"type": "DAEMON_RESUME", "op": "resume-logging"}), BURNING)
    assert losses(collector, tmp_path) == ["auditd could not write its log for a while"]


def test_a_place_that_was_forgotten_is_a_loss(tmp_path: Path) -> None:
    first = Collector(tmp_path, "boot-1", continued=False)
    first.follow(BURNING, START)
    assert losses(first, tmp_path) == [], "nothing was read before the very first time"
    again = Collector(tmp_path, "boot-1", continued=False)
    again.follow(BURNING, START + 1)
    assert losses(again, tmp_path) == ["the place to read on from was not known any more"]


def test_a_damaged_file_is_a_loss(tmp_path: Path) -> None:
    (tmp_path / "probe.json").write_text('{"agent": "pro')
    collector = Collector(tmp_path, "boot-1")
    collector.follow(BURNING, START)
    assert "damaged" in losses(collector, tmp_path)[0]


def test_too_many_acts_are_a_loss_and_known_ones_still_count(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(burn_in, "ACTS", 3)
    for name in ("/a", "/b", "/c", "/d", "/a"):
        collector.take(act(avc(name=name)), BURNING)
    found = content(collector, tmp_path)
    assert [(one["path"], one["count"]) for one in found["acts"]] == [("/a", 2), ("/b", 1), ("/c", 1)]
    assert [one["what"] for one in found["lost"]] == ["more than 3 different acts"]


def test_the_last_losses_are_kept(collector: Collector, tmp_path: Path) -> None:
    names = [chr(ord("A") + number) for number in range(30)]
    for number, name in enumerate(names):
        collector.lose(f"loss {name}", START + number)
    assert losses(collector, tmp_path) == [f"loss {name}" for name in names[10:]]


def test_losses_that_go_on_side_by_side_are_one_entry_each_and_later_ones_new(collector: Collector, tmp_path: Path) -> None:
    for second in range(0, 60, 5):
        collector.lose(f"the kernel lost audit records ({second} since its boot)", START + second)
        collector.lose("the kernel's log says of audit records: rate limit exceeded", START + second + 1)
    collector.lose("the kernel lost audit records (99 since its boot)", START + 5000)
    assert [one["at"] - START for one in content(collector, tmp_path)["lost"]] == [55, 56, 5000]


def test_a_promoted_agent_is_left_and_a_demoted_one_begins_anew(collector: Collector, tmp_path: Path) -> None:
    collector.take(act(avc()), BURNING)
    collector.follow(PROMOTED, START + 10)
    collector.take(act(avc()), PROMOTED)
    found = content(collector, tmp_path)
    assert (found["ended"], found["acts"][0]["count"]) == (START + 10, 1)
    collector.follow(BURNING, START + 20)
    found = content(collector, tmp_path)
    assert (found["collecting_since"], found["ended"], found["acts"]) == (START + 20, None, [])


def test_saving_waits_a_little_and_a_full_disk_holds_the_place_back(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert collector.save(100.0)
    assert collector.save(100.5), "nothing to save"
    collector.take(act(avc()), BURNING)
    assert not collector.save(101.0)
    real = os.rename
    monkeypatch.setattr(os, "rename", lambda *_paths: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert not collector.save(110.0)
    monkeypatch.setattr(os, "rename", real)
    assert collector.save(116.0)
    assert len(saved.load(tmp_path / "probe.json")["acts"]) == 1


PRINTED = (
    'audit: type=1400 audit(1700000001.308:220): apparmor="ALLOWED" operation="open" profile="cordon.probe.main"'
    ' name=2F746D702F6120620A63 pid=1378 comm="cat" requested_mask="r" denied_mask="r" fsuid=999 ouid=0'
)


def test_what_no_daemon_took_is_read_from_the_kernels_log(collector: Collector, tmp_path: Path) -> None:
    event = kernel_audit.avc(KernelLine(START, "b:1", PRINTED))
    assert event is not None and event.stamp == "1700000001.308:220"
    assert event.records[0]["pid"] == "1378"
    collector.take(event, BURNING)
    assert content(collector, tmp_path)["acts"][0]["path"] == "/tmp/a b\nc"


@pytest.mark.parametrize(("text", "is_loss"), [
    ("audit: audit_lost=41 audit_rate_limit=10 audit_backlog_limit=8192", False),  # its reason is the next line
    ("audit: backlog limit exceeded", True),
    ("audit: rate limit exceeded", True),
    ("audit: kauditd hold queue overflow", True),
    ("kauditd_printk_skb: 12 callbacks suppressed", True),
    ("audit: type=1400 audit(1.0:1): apparmor=\"STATUS\"", False),
    ("audit: backlog=8193", False),
    ("net_ratelimit: 12 callbacks suppressed", False),
    ("cordon:probe:denied audit: rate limit exceeded", False),
])  # fmt: skip
def test_what_the_kernel_says_of_losses(text: str, is_loss: bool) -> None:
    assert (kernel_audit.loss(KernelLine(START, "b:1", text)) is not None) == is_loss


def test_the_mode_that_holds_is_read_from_the_hosts_manifest(tmp_path: Path) -> None:
    listed = [{"name": "a", "user": "root", "mode": "burn_in"}, {"name": "b", "user": "root", "mode": "enforce"}]
    (tmp_path / "manifest.json").write_text(json.dumps({"agents": listed}))
    assert LiveAgents(tmp_path / "manifest.json").current().burning == {"a"}
