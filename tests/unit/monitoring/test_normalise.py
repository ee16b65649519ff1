# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recorded acts become the events that the contract promises."""

from __future__ import annotations

import pytest
from cordon_monitoring import normalise
from cordon_monitoring.act import Act, AuditEvent
from cordon_monitoring.event import Event

AGENTS = {999: "probe"}
STACK = "cordon.probe//&cordon.probe.main"
SECRET = "/srv/agents/probe/.vault/github_token"


def event_of(act: AuditEvent, by_uid: dict[int, str], host: str) -> Event | None:
    """The only event of an act."""
    found = normalise.audit_events(act, by_uid, host)
    assert len(found) <= 1
    return found[0] if found else None


# serial of the recorded act: what the event must say
EXPECTED = {
    215: {
        "kind": "process",
        "outcome": "allowed",
        "program": "/usr/bin/cat",
        "argv": ["cat", "/etc/shadow"],
        "path": "/usr/bin/cat",
        "operation": "exec",
        "reason": None,
    },
    216: {"kind": "file", "outcome": "denied", "operation": "open", "path": "/etc/shadow", "reason": "EACCES"},
    217: {"kind": "file", "outcome": "denied", "operation": "open", "path": "/etc/cron.d/", "reason": "EROFS"},
    218: {"kind": "file", "outcome": "denied", "path": "/etc/systemd/system/", "reason": "EROFS"},
    220: {"kind": "secret", "outcome": "allowed", "path": SECRET, "secret": "github_token", "reason": None},
    223: {"kind": "file", "outcome": "denied", "path": "/srv/agents/other/x", "reason": "EACCES"},
    227: {"kind": "file", "outcome": "denied", "operation": "mkdir", "path": "/etc/", "reason": "EROFS"},
    229: {"kind": "file", "outcome": "denied", "operation": "unlink", "path": "/etc/", "reason": "EROFS"},
    231: {"kind": "file", "outcome": "denied", "operation": "symlink", "path": "/etc/", "reason": "EROFS"},
    236: {
        "kind": "connection",
        "outcome": "allowed",
        "address": "169.254.169.254",
        "port": 80,
        "reason": "EHOSTUNREACH",
    },
    238: {"kind": "file", "outcome": "denied", "operation": "rename", "path": "/etc/", "reason": "EROFS"},
    240: {"kind": "file", "outcome": "denied", "operation": "fchmod", "path": "/etc/hostname", "reason": "EROFS"},
    271: {"kind": "connection", "outcome": "allowed", "address": "10.0.2.2", "port": 1, "reason": "ECONNREFUSED"},
    301: {
        "kind": "file",
        "outcome": "denied",
        "operation": "connect",
        "path": "/run/systemd/private",
        "reason": "EACCES",
    },
    324: {
        "agent": None,
        "kind": "file",
        "outcome": "allowed",
        "reason": "tamper",
        "path": "/etc/apparmor.d/cordon.probe",
        "operation": "open",
        "user": {"uid": 0, "login_uid": 0},
        "profile": "unconfined",
    },
    612: {"kind": "file", "outcome": "allowed", "path": "/dev/tty", "reason": "complain", "profile": STACK},
    614: {
        "kind": "file",
        "outcome": "denied",
        "path": "/proc/1380/attr/current",
        "reason": "apparmor",
        "profile": STACK,
    },
    616: {"kind": "file", "outcome": "allowed", "path": "/etc/machine-id", "reason": "complain"},
    621: {"kind": "secret", "outcome": "allowed", "secret": "github_token", "profile": STACK},
    625: {"kind": "process", "outcome": "denied", "path": "/srv/agents/probe/workspace/true", "reason": "apparmor"},
    629: {"kind": "file", "outcome": "denied", "path": "/var/log/wtmp", "reason": "apparmor"},
    630: {"kind": "process", "outcome": "allowed", "argv": ["ls", "a b"]},
    651: {"kind": "connection", "outcome": "denied", "operation": "create", "protocol": "raw", "reason": "apparmor"},
}
NO_EVENT = {
    211: "a name looked for along PATH",
    221: "a stat of a secret",
    622: "a stat of a secret",
    623: "no such program",
}


@pytest.mark.parametrize("serial", EXPECTED)
def test_an_act_becomes_the_event(acts: dict[int, AuditEvent], serial: int) -> None:
    event = event_of(acts[serial], AGENTS, "host")
    assert event is not None
    expected = {
        "agent": "probe",
        "source": "audit",
        "host": "host",
        "id": f"audit:{acts[serial].stamp}",
        **EXPECTED[serial],
    }
    assert isinstance(event["pid"], int)
    assert {name: event[name] for name in expected} == expected


@pytest.mark.parametrize("serial", NO_EVENT)
def test_what_is_no_act_becomes_nothing(acts: dict[int, AuditEvent], serial: int) -> None:
    assert event_of(acts[serial], AGENTS, "host") is None


def test_every_recorded_act_is_in_a_table(acts: dict[int, AuditEvent]) -> None:
    assert set(acts) == set(EXPECTED) | set(NO_EVENT)


@pytest.mark.parametrize("serial", [serial for serial in EXPECTED if serial != 324 and serial < 600])
def test_users_who_are_no_agents_leave_no_event(acts: dict[int, AuditEvent], serial: int) -> None:
    unconfined = [{**record, "profile": "other"} for record in acts[serial].records]
    assert event_of(acts[serial]._replace(records=unconfined), {1000: "someone"}, "host") is None


def test_an_apparmor_record_alone_is_enough(acts: dict[int, AuditEvent]) -> None:
    avc = [record for record in acts[629].records if record["type"] == "AVC"]
    event = event_of(acts[629]._replace(records=avc), {}, "host")
    assert event is not None
    assert (event["agent"], event["outcome"], event["path"]) == ("probe", "denied", "/var/log/wtmp")


def test_a_denied_signal_names_its_target() -> None:
    records = [
        {
            "type": "SYSCALL",
            "syscall": "kill",
            "exit": "-1",
            "uid": "999",
            "pid": "5",
            "exe": "/usr/bin/bash",
            "key": "cordon-denied",
        },
        {"type": "OBJ_PID", "opid": "1", "ocomm": "systemd"},
    ]
    event = event_of(AuditEvent(1.0, "1.000:1", records), AGENTS, "host")
    assert event is not None
    assert (event["kind"], event["outcome"], event["operation"], event["reason"]) == (
        "process",
        "denied",
        "kill systemd",
        "EPERM",
    )


def test_a_long_argument_is_joined_from_its_pieces_and_cut() -> None:
    records = [
        {"type": "EXECVE", "argc": "2", "a0": "x", "a1_len": "3000", "a1[0]": "a" * 2000},
        {"type": "EXECVE", "a1[1]": "b" * 1000},
    ]
    argv = Act(AuditEvent(1.0, "1.000:1", records)).argv()
    assert argv == ["x", "a" * 1000 + "... (3000 characters)"]


@pytest.mark.parametrize(
    ("call", "directory", "name", "path"),
    [
        ("openat", "AT_FDCWD", "x", "/here/x"),
        ("openat", "AT_FDCWD", "../x", "/x"),
        ("openat", "0x5", "x", "x"),
        ("open", "0x7ffe", "x", "/here/x"),
        ("openat", "0x5", "/etc/x", "/etc/x"),
        ("mkdir", "0x7ffe", "/etc/", "/etc/"),
    ],
)
def test_a_path_is_made_absolute_only_where_the_record_tells_how(
    call: str, directory: str, name: str, path: str
) -> None:
    records = [
        {"type": "SYSCALL", "syscall": call, "a0": directory},
        {"type": "CWD", "cwd": "/here"},
        {"type": "PATH", "name": name, "nametype": "NORMAL"},
    ]
    assert Act(AuditEvent(1.0, "1.000:1", records)).path() == path
