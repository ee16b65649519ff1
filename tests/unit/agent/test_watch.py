# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which process is not confined, for how long that may be, and that the right one is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from cordon import _facts_apparmor, _facts_processes, _watch, spool, watch

AGENT = {"name": "a", "user": "agent-a", "mode": "enforce", "monitoring": {"unconfined": "stop"}}
POLICY = _watch.Policy({"agent-a": AGENT}, {}, {}, labelled=True)
SERVICE = "/cordon.slice/cordon-a.slice/cordon-agent@a.service"
SYSTEMD = "/usr/lib/systemd/systemd"


def process(label="cordon.a//&cordon.a.main (enforce)", program="/usr/bin/sleep", cgroup=SERVICE, user="agent-a"):
    name, mode = _facts_processes.split_label(label)
    profiles = tuple(_facts_processes.profiles(name))
    return _watch.Process(10, 77, user, program, name, mode, profiles, cgroup, "1 systemd")


@pytest.mark.parametrize("label", [
    "cordon.a//&cordon.a.main (enforce)",
    "cordon.a//&cordon.a.git (enforce)",
    "cordon.a//&cordon.a.main//null-/usr/bin/x (enforce)",
])
def test_a_process_in_the_cage_and_an_inner_profile_is_right(label):
    assert _watch.judge(process(label), POLICY) is None


@pytest.mark.parametrize("wrong", [
    {"label": None},
    {"label": "unconfined"},
    {"label": "cordon.b//&cordon.b.main (enforce)"},
    {"label": "cordon.a//&cordon.b.main (enforce)"},
    {"label": "cordon.a.main (enforce)"},
    {"label": "cordon.ab//&cordon.ab.main (enforce)"},
    {"label": "cordon.a//&cordon.a.main//&cordon.a.git (enforce)"},
    {"label": "/usr/sbin/cron (enforce)"},
    # systemd's program elsewhere is a user manager.
    {"label": "unconfined", "program": SYSTEMD, "cgroup": "/user.slice/user-990.slice/user@990.service/init.scope"},
    {"label": "unconfined", "program": SYSTEMD, "cgroup": "/cordon.slice/cordon-b.slice/cordon-agent@b.service"},
    # In its unit, but of a program that is not systemd's.
    {"label": "unconfined", "program": "/usr/bin/env"},
    {"label": "cordon.a (complain)"},
    {"label": "cordon.a (enforce)", "cgroup": "/user.slice/session-1.scope"},
    {"user": "agent-gone"},
])
def test_whatever_else_is_wrong_at_once(wrong):
    finding = _watch.judge(process(**wrong), POLICY)
    assert finding and finding.patience == 0


@pytest.mark.parametrize("starting", [
    {"label": "unconfined", "program": SYSTEMD},
    {"label": "unconfined", "program": f"{SYSTEMD} (deleted)"},
    {"label": "unconfined", "program": "/usr/lib/systemd/systemd-executor"},
    {"label": "cordon.a (enforce)", "program": "/usr/bin/env"},
    {"label": "cordon.a (enforce)", "cgroup": "/cordon.slice/cordon-a.slice/cordon-session-a-0f1e.service"},
])
def test_a_start_has_a_moment(starting):
    finding = _watch.judge(process(**starting), POLICY)
    assert finding and finding.patience == _watch.START_SECONDS


def in_mode(mode, recorded=None, drifted=()):
    record = {"cordon.a.main": {"mode": recorded}} if recorded else {}
    return POLICY._replace(agents={"agent-a": {**AGENT, "mode": mode}}, record=record, drifted=dict.fromkeys(drifted, ""))


@pytest.mark.parametrize(("policy", "seen", "patience"), [
    (in_mode("enforce"), "enforce", None),
    (in_mode("burn_in"), "mixed", None),
    (in_mode("burn_in"), "enforce", None),  # stricter than asked for
    (in_mode("enforce"), "mixed", _watch.MODE_SECONDS),  # promoted, and not yet started anew
    (in_mode("enforce", recorded="complain"), "mixed", None),  # the profiles of a promotion are not loaded yet
    (in_mode("enforce", recorded="enforce", drifted=["cordon.a.main"]), "mixed", 0),
    (in_mode("burn_in", drifted=["cordon.a"]), "complain", 0),
    (in_mode("burn_in"), "complain", _watch.MODE_SECONDS),
    (in_mode("enforce"), "kill", _watch.MODE_SECONDS),
])
def test_the_mode_is_the_manifests(policy, seen, patience):
    finding = _watch.judge(process(f"cordon.a//&cordon.a.main ({seen})"), policy)
    assert (finding.patience if finding else None) == patience


def test_without_apparmor_only_strangers_are_wrong():
    policy = POLICY._replace(labelled=False)
    assert _watch.judge(process(None), policy) is None
    assert _watch.judge(process(None, user="agent-gone"), policy)


def test_patience_is_counted_for_each_finding_and_forgotten_when_it_is_gone():
    patience, slow = _watch.Patience(), _watch.Finding("", 30)
    assert patience.spent({"x": slow}, 100.0) == []
    assert patience.spent({"x": slow, "y": slow, "z": _watch.Finding("", 0)}, 129.0) == ["z"]
    assert patience.spent({"x": slow}, 130.0) == ["x"]
    assert patience.spent({}, 131.0) == []
    assert patience.spent({"x": slow}, 160.0) == []


def test_users_are_those_of_the_manifest_and_those_that_left_it():
    passwd = (
        "root:x:0:0::/root:/bin/sh\nagent-a:x:990:990::/srv/agents/a:/usr/sbin/nologin\n"
        "agent-gone:x:991:991::/srv/agents/gone:/usr/sbin/nologin\nagent-smith:x:1000:1000::/home/smith:/bin/bash\n"
    )
    assert _watch.users(passwd, [AGENT]) == {990: "agent-a", 991: "agent-gone"}


def test_drift_is_told_by_agent():
    drifted = [{"profile": name, "problem": "p"} for name in ("cordon.a", "cordon.a.git", "cordon.gone.main")]
    found = _watch.by_agent(drifted, ["a"])
    assert {agent: [one["profile"] for one in its] for agent, its in found.items()} == {
        "a": ["cordon.a", "cordon.a.git"], None: ["cordon.gone.main"],
    }


def test_an_alert_names_a_few_and_counts_the_rest():
    assert _watch.shorten(list("abcdefg"), most=2) == "a; b; and 5 more"
    assert _watch.shorten(["a", "b"]) == "a; b"


# --- The acts -----------------------------------------------------------------------------------------


@pytest.fixture
def alerts(monkeypatch):
    """What would have been left in the spool."""
    found = []
    monkeypatch.setattr(watch.spool, "put", lambda *alert: found.append(alert) or True)
    return found


@pytest.fixture
def child():
    """A process of ours that waits to be killed."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as started:
        yield started
        started.kill()


def seen(child):
    return watch.read_process(child.pid, {os.getuid(): "agent-a"})


@pytest.fixture
def as_somebody(monkeypatch):
    """Tests may run as root, whose processes are nobody's business."""
    monkeypatch.setattr(watch._facts_processes, "owners", lambda text: [os.getuid() or -1, os.getuid()] if text else [])


def test_a_process_of_an_agent_is_read(as_somebody, child):
    found = seen(child)
    assert found.pid == child.pid and found.started > 0
    assert found.program == os.path.realpath(sys.executable)
    assert found.parent.startswith(f"{os.getpid()} ")


def test_a_process_of_somebody_else_and_one_that_ended_are_not(as_somebody, child):
    assert watch.read_process(child.pid, {os.getuid() + 1: "agent-a"}) is None
    child.kill()
    child.wait()
    assert seen(child) is None


def test_roots_daemon_that_acts_for_a_user_is_roots(monkeypatch, child):
    monkeypatch.setattr(watch._facts_processes, "owners", lambda text: [0, 990, 0, 990])
    assert watch.read_process(child.pid, {990: "agent-a"}) is None


def test_the_judged_process_is_killed_and_no_other_of_its_number(as_somebody, child):
    found = seen(child)
    assert not watch.kill(found._replace(started=found.started + 1))
    assert child.poll() is None
    assert watch.kill(found)
    assert child.wait(10) == -9
    assert not watch.kill(found)


@pytest.fixture
def at_work(monkeypatch, alerts):
    """A watch over agent a; kill() is only written down."""
    killed = []
    monkeypatch.setattr(watch, "kill", lambda process: killed.append(process.pid) or True)
    its = watch.Watch()
    its.manifest.agents = {"agent-a": dict(AGENT)}
    its.killed_pids = killed
    return its


def findings(*pids):
    return {(pid, 1): (process("unconfined")._replace(pid=pid, started=1), _watch.Finding("outside", 0)) for pid in pids}


@pytest.mark.parametrize(("then", "certain"), [
    (process("unconfined", program="/usr/bin/env"), True),
    (process(), False),  # the exec was under way
    (process("cordon.a (enforce)"), False),
    (process("unconfined", program="/usr/bin/env")._replace(started=78), False),  # another one of its number
    (None, False),
])
def test_what_is_wrong_is_looked_at_once_more(at_work, monkeypatch, then, certain):
    monkeypatch.setattr(watch._facts_processes, "SETTLE_SECONDS", 0)
    monkeypatch.setattr(watch, "read_process", lambda pid, users: then)
    first = process("unconfined", program="/usr/bin/env")
    found = at_work.confirm({first.key: (first, _watch.judge(first, POLICY))}, POLICY)
    assert list(found) == ([first.key] if certain else [])


def test_all_are_killed_and_one_alert_names_them(at_work, alerts):
    assert at_work.act(findings(5, 6))
    assert at_work.killed_pids == [5, 6]
    ((rule, severity, agent, summary),) = alerts
    assert (rule, severity, agent) == ("unconfined-process", "critical", "a")
    assert "pid 5" in summary and "pid 6" in summary and "(killed)" in summary and SERVICE in summary


def test_a_process_that_does_not_die_is_killed_again_and_told_once(at_work, alerts):
    assert at_work.act(findings(5))
    assert not at_work.act(findings(5))
    assert at_work.killed_pids == [5, 5]
    assert len(alerts) == 1


def test_where_the_manifest_asks_for_an_alert_nothing_is_killed(at_work, alerts):
    at_work.manifest.agents["agent-a"]["monitoring"] = {"unconfined": "alert"}
    assert not at_work.act(findings(5))
    assert not at_work.act(findings(5))
    assert at_work.killed_pids == []
    assert len(alerts) == 1 and "(killed)" not in alerts[0][3]


def test_a_user_without_an_agent_gets_no_grace_by_a_manifest(at_work, alerts):
    at_work.act({(5, 1): (process(user="agent-gone"), _watch.Finding("gone", 0))})
    assert at_work.killed_pids == [10]
    assert alerts[0][2] is None and "agent-gone" in alerts[0][3]


def test_drift_is_told_once_for_each_change(at_work, alerts):
    complain = [{"profile": "cordon.a.main", "problem": "complain"}]
    for found in (complain, complain, [{"profile": "cordon.a.main", "problem": "not there"}], [], complain):
        at_work.tell_drift(found)
    assert [alert[3].split(". ")[0] for alert in alerts] == [
        "cordon.a.main: complain", "cordon.a.main: not there", "cordon.a.main: complain",
    ]


@pytest.fixture
def kernel(monkeypatch, tmp_path):
    """A kernel and a record that the watch compares: set(supported, enforced)."""
    record = tmp_path / "apparmor.json"
    monkeypatch.setattr(_facts_apparmor, "RECORD", str(record))
    monkeypatch.setattr(watch, "busy", lambda: False)
    revision = iter(range(1000))
    stable = {"n": 0}
    monkeypatch.setattr(watch._apparmor_info, "revision", lambda source: stable["n"])

    def set_to(supported, enforced):
        stable["n"] = next(revision)
        record.write_text(json.dumps({"enforced": enforced, "profiles": {"cordon.a": {"mode": "enforce", "hash": "1"}}}))
        profiles = {"cordon.a": {"mode": "enforce", "hash": "1"}} if supported else None
        monkeypatch.setattr(_facts_apparmor, "read", lambda source: {"supported": supported, "profiles": profiles})

    return set_to


def test_a_kernel_without_apparmor_is_told_once_and_its_labels_count(at_work, alerts, kernel):
    kernel(supported=False, enforced=True)
    at_work.look_at_policy()
    at_work.look_at_policy()
    assert [alert[0] for alert in alerts] == ["apparmor-off"]
    assert at_work.labelled


def test_a_host_that_was_accepted_without_is_left_alone(at_work, alerts, kernel):
    kernel(supported=False, enforced=False)
    at_work.look_at_policy()
    assert alerts == [] and not at_work.labelled


def test_nothing_is_compared_while_profiles_are_being_loaded(at_work, alerts, kernel, monkeypatch):
    kernel(supported=True, enforced=True)
    at_work.look_at_policy()
    assert at_work.labelled and alerts == []
    kernel(supported=False, enforced=True)
    monkeypatch.setattr(watch, "busy", lambda: True)
    at_work.look_at_policy()
    assert alerts == []
    monkeypatch.setattr(watch, "busy", lambda: False)
    at_work.look_at_policy()
    assert [alert[0] for alert in alerts] == ["apparmor-off"]


def test_without_a_manifest_nobody_is_judged(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "MANIFEST", str(tmp_path / "none"))
    with pytest.raises(OSError):
        watch.Manifest().refresh()


def test_an_alert_is_left_whole(tmp_path):
    assert spool.put("unconfined-process", "critical", None, "s", str(tmp_path))
    (name,) = os.listdir(tmp_path)
    assert name.endswith("-unconfined-process.json")
    assert json.loads((tmp_path / name).read_text())["summary"] == "s"


def test_a_spool_that_nobody_takes_does_not_fill_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "MOST", 2)
    assert [spool.put("r", "info", None, "s", str(tmp_path)) for _ in range(3)] == [True, True, False]
