# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every reading of a secret: by whom, in which session, and whether the manifest lists the program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cordon_monitoring import alert_rules, config, secret_reads
from cordon_monitoring import event as events
from cordon_monitoring.act import AuditEvent
from cordon_monitoring.audit_sessions import KEPT, AuditSessions
from cordon_monitoring.config import Agents, Settings
from cordon_monitoring.limit import CEILING, SAME, Limiter
from cordon_monitoring.pipeline import Pipeline

PATH, URL = "/srv/agents/probe/.vault/github_token", "/srv/agents/probe/.vault/url"
SECRETS = {"probe": {"github_token": ["git"], "url": []}}
AGENTS = Agents({999: "probe", 998: "other"}, frozenset({"probe", "other"}), secrets=SECRETS)
UNIT = "cordon-session-probe-0123abcd.service"
UNSET = "4294967295"


def login(number: int, unit: str = UNIT, **changes: str) -> list[AuditEvent]:
    """The kernel's records of entry's write to /proc/self/loginuid, as libauparse parts them (samples/sessions.*)."""
    title = f"/usr/bin/env -- /usr/lib/cordon/entry --unit={unit} id"
    said = {"uid": "999", "res": "yes", "old-ses": UNSET, "title": title, **changes}
    first = {"type": "LOGIN", "uid": said["uid"], "old-ses": said["old-ses"], "ses": str(number), "res": said["res"]}
    call = {"type": "SYSCALL", "syscall": "write", "exit": "3", "uid": said["uid"], "pid": "5", "ses": str(number)}
    parts = [[first], [call, {"type": "PROCTITLE", "proctitle": said["title"]}]]
    return [AuditEvent(1.0, f"1.000:{number}", records) for records in parts]


# By which system call a program does what AppArmor has these words for.
CALLS = {"open": "openat", "file_inherit": "execve", "file_receive": "recvmsg", "getattr": "newfstatat", "unlink": "unlinkat",
         "mknod": "openat", "exec": "execve", "file_mmap": "execve"}  # fmt: skip
STARTED = [{"type": "EXECVE", "argc": "1", "a0": "git"}, {"type": "PATH", "name": "/usr/bin/git", "nametype": "NORMAL"}]


def reading(number: int, verdict: str = "AUDIT", profile: str = "git", operation: str = "open", **changes: str) -> AuditEvent:
    """What the kernel records of an open of a secret."""
    avc = {"type": "AVC", "apparmor": verdict, "operation": operation, "profile": f"cordon.probe.{profile}", "name": PATH,
           "pid": "7", "comm": "x", "requested_mask": "r", "denied_mask": "r", **changes}  # fmt: skip
    if verdict == "AUDIT":
        del avc["denied_mask"]
    label, call = f"cordon.probe//&cordon.probe.{profile}", CALLS[operation]
    failed = verdict == "DENIED" and call not in ("execve", "recvmsg")  # a start goes on, a message comes without the file
    said = {"type": "SYSCALL", "syscall": call, "exit": "-13" if failed else "3", "uid": "999", "pid": "7",
            "exe": "/usr/bin/git", "subj": label, "ses": str(number)}  # fmt: skip
    return AuditEvent(2.0, f"2.000:{number}", [avc, said, *(STARTED if call == "execve" else [])])


def together(first: AuditEvent, *others: AuditEvent) -> AuditEvent:
    """One act, of which AppArmor said what it said of these."""
    said = [record for other in others for record in other.records if record["type"] == "AVC"]
    return first._replace(records=[*first.records[:1], *said, *first.records[1:]])


def begin(sessions: AuditSessions, *logins: list[AuditEvent]) -> None:
    for part in (part for parts in logins for part in parts):
        sessions.take(part, AGENTS.by_uid)


@pytest.fixture
def sessions(tmp_path: Path) -> AuditSessions:
    return AuditSessions(tmp_path / "sessions.json", "boot")


def take(*found: AuditEvent, sessions: AuditSessions) -> tuple[list[events.Event], list[alert_rules.Alert]]:
    """The events and alerts of these acts, in their order."""
    raised: list[alert_rules.Alert] = []
    pipeline = Pipeline(Settings("host", None, None, 900, True, []), raised.append)
    for one in found:
        sessions.take(one, AGENTS.by_uid)
        pipeline.take_audit(one, AGENTS, 0.0, sessions.unit(one))
    return pipeline.finished(10.0), raised


def test_a_read_has_agent_secret_program_and_session(sessions: AuditSessions) -> None:
    other = "cordon-agent@probe.service"
    written, raised = take(*login(7), *login(8, other), reading(7), reading(8), sessions=sessions)
    assert raised == []
    wanted = {"agent": "probe", "kind": "secret", "secret": "github_token", "program": "/usr/bin/git", "operation": "open",
              "outcome": "allowed", "listed": True}  # fmt: skip
    assert [{name: event[name] for name in wanted} for event in written] == [wanted, wanted]
    assert [event["session"] for event in written] == [UNIT, other]


@pytest.mark.parametrize(
    ("act", "listed"),
    [
        (reading(7), True),
        (reading(7, profile="git", operation="file_inherit"), True),
        # Burn-in: the inner layer lacks the rule and lets it pass.
        (reading(7, "ALLOWED", "main"), False),
        (reading(7, "ALLOWED", "main", "file_inherit"), False),
        (reading(7, "ALLOWED", "main", "file_receive"), False),
        (reading(7, "ALLOWED", "git//null-/usr/bin/nc"), False),
        (reading(7, "DENIED", "main"), False),
        # A profile that grants more than the manifest: a second opinion.
        (reading(7, "AUDIT", "main"), False),
        (reading(7, "AUDIT", "readers"), False),
        (reading(7, "AUDIT", name="/srv/agents/probe/.vault/nobody_declared_it"), False),
        (reading(7, "AUDIT", "main", name="/srv/agents/probe/.vault/url"), True),
        (reading(7, "AUDIT", "readers", name="/srv/agents/probe/.vault/url"), True),
        (reading(7, "ALLOWED", "writers", name="/srv/agents/probe/.vault/url"), False),
        # No reading.
        (reading(7, "ALLOWED", "main", "getattr"), None),
        (reading(7, "DENIED", "main", "unlink", requested_mask="d", denied_mask="d"), None),
        (reading(7, "DENIED", "git", requested_mask="wc", denied_mask="wc"), None),
    ],
)  # fmt: skip
def test_who_reads_what_the_manifest_does_not_list_for_it(sessions: AuditSessions, act: AuditEvent, listed: bool | None) -> None:
    written, raised = take(*login(7), act, sessions=sessions)
    assert [event["listed"] for event in written if event["kind"] == "secret"] == [listed]
    assert [found["alert"] for found in raised] == ([alert_rules.SECRET] if listed is False else [])
    assert {event["session"] for event in written} == {UNIT}


@pytest.mark.parametrize("name", ["own", "own/token"])
def test_what_an_agent_stores_itself_is_no_secret_of_the_manifest(sessions: AuditSessions, name: str) -> None:
    act = reading(7, "ALLOWED", "main", name=f"/srv/agents/probe/.vault/{name}")
    written, raised = take(*login(7), act, sessions=sessions)
    assert [(event["kind"], "secret" in event) for event in written] == [("file", False)]
    assert alert_rules.SECRET not in [found["alert"] for found in raised]


def test_the_alert_says_who_read_or_was_refused_what(sessions: AuditSessions) -> None:
    _written, raised = take(reading(7, "ALLOWED", "main"), sessions=sessions)
    assert raised[0]["summary"] == (
        "/usr/bin/git of probe read secret github_token, for which the manifest does not list it"
    )
    _written, raised = take(reading(7, "DENIED", "main"), sessions=sessions)
    assert " was refused secret github_token" in raised[0]["summary"]
    assert raised[0]["severity"] == "critical"


def test_misuse_of_one_secret_does_not_hide_that_of_another(sessions: AuditSessions) -> None:
    another = reading(7, "ALLOWED", "main", name=URL)
    _written, raised = take(*[reading(7, "ALLOWED", "main")] * 5, *[another] * 5, sessions=sessions)
    assert [found["event"]["secret"] for found in raised] == ["github_token", "url"]


def test_a_refusal_does_not_hide_a_read(sessions: AuditSessions) -> None:
    refused, read = reading(7, "DENIED", "main"), reading(7, "ALLOWED", "main")
    _written, raised = take(*[refused] * 5, *[read] * 5, sessions=sessions)
    assert [found["event"]["outcome"] for found in raised] == ["denied", "allowed"]


def test_names_that_an_agent_chooses_do_not_make_more_alerts(sessions: AuditSessions) -> None:
    made_up = [reading(7, "ALLOWED", "main", name=f"/srv/agents/probe/.vault/x{number}") for number in range(200)]
    _written, raised = take(*made_up, reading(7, "ALLOWED", "main"), sessions=sessions)
    assert [found["event"]["secret"] for found in raised] == ["x0", "github_token"]


def test_names_in_the_vault_of_another_do_not_make_more_alerts(sessions: AuditSessions) -> None:
    call = {"type": "SYSCALL", "syscall": "openat", "exit": "-13", "uid": "999", "pid": "7", "exe": "/usr/bin/python3"}
    acts = [
        AuditEvent(2.0, f"2.000:{number}", [call, {"type": "PATH", "name": f"/srv/agents/other/.vault/x{number}"}])
        for number in range(200)
    ]
    _written, raised = take(*acts, sessions=sessions)
    assert [found["alert"] for found in raised] == [alert_rules.SENSITIVE]


@pytest.mark.parametrize(("verdict", "outcome"), [("ALLOWED", "allowed"), ("DENIED", "denied")])
def test_a_start_that_inherits_a_secret_is_a_start_and_a_read(
    sessions: AuditSessions, verdict: str, outcome: str
) -> None:
    act = reading(7, verdict, "main", "file_inherit")
    (start, read), raised = take(*login(7), act, sessions=sessions)
    wanted = {"kind": "process", "operation": "exec", "path": "/usr/bin/git", "argv": ["git"], "outcome": "allowed",
              "reason": None}  # fmt: skip
    assert {name: start[name] for name in wanted} == wanted
    wanted = {"kind": "secret", "operation": "file_inherit", "path": PATH, "outcome": outcome, "listed": False}
    assert {name: read[name] for name in wanted} == wanted
    assert start["session"] == read["session"] == UNIT and start["id"] != read["id"]
    assert [(found["alert"], found["event"]["id"]) for found in raised] == [(alert_rules.SECRET, read["id"])]


def test_a_start_of_which_more_was_said_keeps_its_own_path(sessions: AuditSessions) -> None:
    start = reading(7, "ALLOWED", "main", "exec", name="/opt/git", requested_mask="x", denied_mask="x")
    others = [reading(7, "DENIED", "main", operation, name="/opt/x") for operation in ("file_inherit", "file_mmap")]
    written, raised = take(together(start, *others), sessions=sessions)
    assert [(event["kind"], event["operation"], event["path"], event["outcome"]) for event in written] == [
        ("process", "exec", "/opt/git", "allowed"),
        ("file", "file_inherit", "/opt/x", "denied"),
        ("file", "file_mmap", "/opt/x", "denied"),
    ]
    assert raised == []


SENT = reading(7, "ALLOWED", "main", "file_receive")


@pytest.mark.parametrize(
    ("decoy", "kind", "listed"),
    [
        (reading(7, "AUDIT", "main", "file_receive", name=URL), "secret", True),
        (reading(7, "ALLOWED", "main", "file_receive", name="/opt/x"), "file", None),
        (reading(7, "DENIED", "main", "file_receive", name="/opt/x"), "file", None),
    ],
)
@pytest.mark.parametrize("decoy_first", [True, False])
def test_each_file_of_those_sent_in_one_message_is_told(
    sessions: AuditSessions, decoy: AuditEvent, kind: str, listed: bool | None, decoy_first: bool
) -> None:
    act = together(decoy, SENT) if decoy_first else together(SENT, decoy)
    written, raised = take(*login(7), act, sessions=sessions)
    assert sorted((event["kind"], event["path"], event.get("listed")) for event in written) == sorted(
        [(kind, decoy.records[0]["name"], listed), ("secret", PATH, False)]
    )
    assert len({event["id"] for event in written}) == 2 and {event["session"] for event in written} == {UNIT}
    assert [found["event"]["secret"] for found in raised] == ["github_token"]


def test_a_decoy_of_another_kind_hides_no_read_either(sessions: AuditSessions) -> None:
    asked = {"type": "AVC", "apparmor": "ALLOWED", "operation": "recvmsg", "profile": "cordon.probe.main", "family": "unix",
             "sock_type": "stream", "requested_mask": "receive", "denied_mask": "receive"}  # fmt: skip
    written, raised = take(SENT._replace(records=[asked, *SENT.records]), sessions=sessions)
    assert [event["kind"] for event in written] == ["connection", "secret"]
    assert [found["alert"] for found in raised] == [alert_rules.SECRET]
    by_one_call = [{**record, "syscall": "socketcall"} if record["type"] == "SYSCALL" else record for record in SENT.records]
    written, raised = take(SENT._replace(records=by_one_call), sessions=sessions)
    assert [event["kind"] for event in written] == ["secret"]
    assert [found["alert"] for found in raised] == [alert_rules.SECRET]


def test_a_read_that_may_create_the_file_is_a_read(sessions: AuditSessions) -> None:
    """On a file system of FUSE the kernel asks for the creation before it knows that the file is there."""
    asked = {"requested_mask": "c", "denied_mask": "c"}
    create = reading(7, "ALLOWED", "main", "mknod", **asked)
    _written, raised = take(together(create, reading(7, "ALLOWED", "main")), sessions=sessions)
    assert [found["alert"] for found in raised] == [alert_rules.SECRET]
    create = reading(7, "ALLOWED", "main", "mknod", name="/opt/x", **asked)
    written, _raised = take(together(create, reading(7, "ALLOWED", "main", name="/opt/x")), sessions=sessions)
    assert [(event["kind"], event["path"]) for event in written] == [("file", "/opt/x")], "of another file one event is enough"


def test_an_agent_is_known_by_its_profile_alone_at_a_start_too(sessions: AuditSessions) -> None:
    act = reading(7, "ALLOWED", "main", "file_inherit")
    act.records[1]["uid"] = "1234"  # of a manifest that was changed since
    written, _raised = take(act, sessions=sessions)
    assert [(event["kind"], event["agent"]) for event in written] == [("process", "probe"), ("secret", "probe")]


def test_what_both_layers_say_of_one_file_is_one_read(sessions: AuditSessions) -> None:
    cage = reading(7, "DENIED", "main", "file_receive")
    cage.records[0]["profile"] = "cordon.probe"
    written, raised = take(together(SENT, cage), sessions=sessions)
    assert [(event["outcome"], event["apparmor"]["layer"]) for event in written] == [("denied", "both")]
    assert len(raised) == 1


def test_a_stat_of_a_secret_by_a_listed_program_is_no_event(sessions: AuditSessions) -> None:
    assert take(reading(7, operation="getattr"), sessions=sessions) == ([], [])


@pytest.mark.parametrize(
    "forged",
    [
        login(7, uid="998"),  # another agent, or a service, begins a session under a false name
        login(7, "cordon-session-other-0123abcd.service"),
        login(7, uid="1000"),
        login(7, res="no"),
        login(7, **{"old-ses": "6"}),
        login(7, title=f"sh -c x /usr/lib/cordon/entry --unit={UNIT} id"),
        login(7, title=f"/usr/bin/env -- /usr/lib/cordon/entry true --unit={UNIT}"),
        login(7)[:1],  # a login without the rest of its act
        login(7)[1:],  # an act with the agent's own words for a command line, and no login
        [login(7)[0], login(7)[1]._replace(stamp="1.000:8")],  # the rest of another act
        login(7, "cordon-session-probe-x;y.service"),
        login(7, "ssh.service"),
    ],
)
def test_what_entry_did_not_begin_names_no_session(sessions: AuditSessions, forged: list[AuditEvent]) -> None:
    written, _raised = take(*forged, reading(7), sessions=sessions)
    assert [event["session"] for event in written] == [None]


def test_two_sessions_that_ran_at_once_are_told_apart(session_acts: list[AuditEvent], sessions: AuditSessions) -> None:
    """Recorded: each reads its secret, and one of them tries to take on another number."""
    raised: list[alert_rules.Alert] = []
    agents = Agents({999: "scout"}, frozenset({"scout"}), secrets={"scout": {"github_token": []}})
    pipeline = Pipeline(Settings("host", None, None, 900, True, []), raised.append)
    for act in session_acts:
        sessions.take(act, agents.by_uid)
        pipeline.take_audit(act, agents, 0.0, sessions.unit(act))
    told = [(event["secret"], event["program"], event["session"], event["listed"]) for event in pipeline.finished(10.0)]
    assert told == [
        ("github_token", "/usr/bin/cat", "cordon-session-scout-89abcdef.service", True),
        ("github_token", "/usr/bin/cat", "cordon-session-scout-0123abcd.service", True),
    ]
    assert raised == []


def test_a_record_without_a_session_names_none(sessions: AuditSessions) -> None:
    printed = reading(7)._replace(records=reading(7).records[:1])  # by the kernel's log, while no auditd runs
    written, _raised = take(*login(7), *login(8), reading(9), reading(int(UNSET)), printed, sessions=sessions)
    assert [event["session"] for event in written] == [None, None, None]


def test_sessions_outlive_the_writer_but_not_the_boot(tmp_path: Path) -> None:
    path = tmp_path / "sessions.json"
    first = AuditSessions(path, "boot")
    begin(first, login(7))
    assert first.unit(reading(7)) == UNIT
    assert AuditSessions(path, "boot").unit(reading(7)) is None, "nothing was saved yet"
    assert first.save()
    assert AuditSessions(path, "boot").unit(reading(7)) == UNIT
    assert AuditSessions(path, "next boot").unit(reading(7)) is None


def test_a_full_disk_is_no_reason_to_forget(tmp_path: Path) -> None:
    found = AuditSessions(tmp_path / "missing" / "sessions.json", "boot")
    begin(found, login(7))
    assert not found.save()
    (tmp_path / "missing").mkdir()
    assert found.save() and AuditSessions(tmp_path / "missing" / "sessions.json", "boot").unit(reading(7)) == UNIT


def test_many_short_sessions_do_not_push_out_the_service(sessions: AuditSessions) -> None:
    begin(sessions, login(1, "cordon-agent@probe.service"))
    for number in range(2, KEPT + 100):
        begin(sessions, login(number))
    assert sessions.unit(reading(1)) == "cordon-agent@probe.service"
    assert sessions.unit(reading(2)) is None and sessions.unit(reading(KEPT + 99)) == UNIT


def event(**changes: Any) -> events.Event:
    made = events.new("1", 0.0, "host", "probe", "audit")
    made.update(kind="secret", outcome="allowed", operation="open", program="/usr/bin/git", session=UNIT, listed=True,
                declared=True)  # fmt: skip
    return events.set_path({**made, **changes}, changes.get("path", PATH))


def test_a_flood_of_reads_is_counted_for_each_secret_and_session() -> None:
    limiter = Limiter("host")
    flood = [event(), event(session="cordon-agent@probe.service"), event(path="/srv/agents/probe/.vault/url")] * 50
    written = [one for one in flood if limiter.allow(one)]
    counts = limiter.due(100.0, 100.0)
    assert len(written) == 3 * SAME
    assert len(written) + sum(count["suppressed"] for count in counts) == len(flood)
    assert {(count["secret"], count["session"]) for count in counts} == {
        ("github_token", UNIT), ("github_token", "cordon-agent@probe.service"), ("url", UNIT)
    }  # fmt: skip


def test_a_flood_of_other_acts_does_not_hide_a_read() -> None:
    limiter = Limiter("host")
    other = events.new("1", 0.0, "host", "probe", "audit")
    for number in range(CEILING + 100):
        limiter.allow({**other, "kind": "file", "outcome": "denied", "operation": "open", "path": f"/x{number}"})
    assert limiter.allow(event())


def test_a_flood_of_reads_by_ever_new_programs_is_counted_too() -> None:
    limiter = Limiter("host")
    flood = [event(program=f"/tmp/{number}") for number in range(CEILING + 100)]
    written = [one for one in flood if limiter.allow(one)]
    (count,) = limiter.due(100.0, 100.0)
    assert (len(written), count["suppressed"], count["kind"]) == (CEILING, 100, "secret")


def test_a_flood_of_one_read_does_not_hide_another() -> None:
    limiter = Limiter("host")
    flood = [event() for _ in range(2 * CEILING)]
    assert len([one for one in flood if limiter.allow(one)]) == SAME
    assert limiter.allow(event(path=URL))
    (count,) = limiter.due(100.0, 100.0)
    assert (count["secret"], count["suppressed"]) == ("github_token", 2 * CEILING - SAME)


def test_beyond_the_ceiling_each_secret_is_still_counted_with_its_session() -> None:
    limiter = Limiter("host")
    for number in range(CEILING + 5):
        limiter.allow(event(program=f"/tmp/{number}"))
    service = "cordon-agent@probe.service"
    for one in [event(path=URL), event(path=URL, session=service), event(path=URL, session=service, listed=False)]:
        assert not limiter.allow(one)
    counts = limiter.due(100.0, 100.0)
    assert [(count["secret"], count["path"], count["session"], count["listed"], count["suppressed"]) for count in counts] == [
        ("github_token", PATH, UNIT, True, 5), ("url", URL, UNIT, True, 1), ("url", URL, service, True, 1),
        ("url", URL, service, False, 1),
    ]  # fmt: skip
    assert not any("program" in count for count in counts)


def test_names_that_an_agent_chooses_do_not_make_more_counts() -> None:
    limiter = Limiter("host")
    flood = [event(path=f"/srv/agents/probe/.vault/x{number}", declared=False, listed=False) for number in range(CEILING + 50)]
    written = [one for one in flood if limiter.allow(one)]
    (count,) = limiter.due(100.0, 100.0)
    assert (len(written), count["suppressed"], count["session"], count.get("secret")) == (CEILING, 50, UNIT, None)


def test_whether_a_secret_is_one_of_the_manifest_is_told(sessions: AuditSessions) -> None:
    made_up = reading(7, "ALLOWED", "main", name="/srv/agents/probe/.vault/x")
    of_another = reading(7, "ALLOWED", "main", name="/srv/agents/other/.vault/github_token")
    written, _raised = take(reading(7), made_up, of_another, sessions=sessions)
    assert [event["declared"] for event in written] == [True, False, False]


def test_the_secrets_are_those_of_the_manifest(tmp_path: Path) -> None:
    listed = [{"name": "github_token", "tools": ["git"], "broker": None}, {"name": "url", "tools": [], "broker": None}]
    agent = {"name": "probe", "user": "nobody", "mode": "enforce", "egress": [], "secrets": listed}
    (tmp_path / "manifest.json").write_text(json.dumps({"agents": [agent]}))
    assert config.agents(tmp_path / "manifest.json").secrets == {"probe": {"github_token": ["git"], "url": []}}


def test_a_secret_of_another_agent_is_never_listed() -> None:
    mine = {"github_token": []}
    found = event(path="/srv/agents/other/.vault/github_token", reason=None, profile="cordon.probe//&cordon.probe.main")
    assert secret_reads.listed(found, mine) is False
