# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Unlocking: both sides talk over a real socket, with a stand-in for gocryptfs that knows one password."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import socket
import stat
import sys
import threading
from contextlib import suppress

import pytest

from cordon import control, host, locked, sessions, status, unlock

SEALED = {"name": "scout", "home": "/srv/agents/scout", "vault": {"unlock": "sealed"}}
NOTARY = {"name": "notary", "home": "/srv/agents/notary", "vault": {"unlock": "operator"}}
OLD = {"name": "elder", "home": "/srv/agents/elder"}
PASSWORD = "correct horse"
# gocryptfs reads a line of standard input and exits with 12 for a wrong password.
GOCRYPTFS = ["bash", "-c", f'IFS= read -r typed; echo run >>"$0"; [[ $typed == "{PASSWORD}" ]] || exit 12']


@pytest.fixture(name="manifest", autouse=True)
def fixture_manifest(tmp_path, monkeypatch):
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"agents": [SEALED, NOTARY, OLD]}))
    monkeypatch.setattr(host, "MANIFEST", str(path))
    monkeypatch.setattr(locked, "DIRECTORY", str(tmp_path / "unlock"))
    monkeypatch.setattr(locked, "LOCK", str(tmp_path / "%s.lock"))
    monkeypatch.setattr(locked, "KEY", str(tmp_path / "%s.cred"))
    monkeypatch.setattr(locked, "LOOKS", 0.1)
    monkeypatch.setattr(unlock, "lock_memory", lambda: None)  # the test's own process goes on, and must be seen in a debugger
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return path


class Unit(threading.Thread):
    """The vault's unit, while it waits."""

    def __init__(self, tmp_path, command=None):
        super().__init__(daemon=True)
        self.runs, self.code = tmp_path / "runs", None
        self.command = command or [*GOCRYPTFS, str(self.runs)]
        self.start()
        while not os.path.exists(locked.path("notary", locked.DIRECTORY)):
            assert self.is_alive()

    def run(self):
        self.code = locked.wait("notary", self.command, locked.DIRECTORY)

    def ended(self):
        self.join(20)
        return self.code

    def tries(self):
        return len(self.runs.read_text().splitlines()) if self.runs.exists() else 0


def given(monkeypatch, text):
    """Standard input, which is no terminal."""
    reading, writing = os.pipe()
    os.write(writing, text.encode())
    os.close(writing)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.FileIO(reading)))


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_right_password_opens_the_vault(monkeypatch, tmp_path, capsys, end):
    unit = Unit(tmp_path)
    given(monkeypatch, PASSWORD + end)
    assert control.main(["unlock", "notary"]) == 0
    assert unit.ended() == 0
    assert "notary is open" in capsys.readouterr().out
    assert os.listdir(locked.DIRECTORY) == []


def test_a_vault_that_is_handed_to_the_host_waits_for_nobody_any_more(tmp_path):
    """A run of the role has put a sealed key there; the start that waits would wait for good."""
    unit = Unit(tmp_path)
    (tmp_path / "notary.cred").touch()
    assert unit.ended() == locked.SEALED and unit.tries() == 0
    assert os.listdir(locked.DIRECTORY) == []


def test_a_wrong_password_is_told_to_the_caller_and_the_unit_asks_again(monkeypatch, tmp_path, capsys):
    unit = Unit(tmp_path)
    given(monkeypatch, "wrong\n")
    assert control.main(["unlock", "notary"]) == 1
    error = capsys.readouterr().err
    assert "wrong password, 4 more" in error and "wrong\n" not in error.replace("wrong password", "")
    given(monkeypatch, PASSWORD)
    assert control.main(["unlock", "notary"]) == 0
    assert (unit.ended(), unit.tries()) == (0, 2)


def test_after_the_last_wrong_password_the_start_fails_and_the_caller_knows(monkeypatch, tmp_path, capsys):
    unit = Unit(tmp_path)
    for _number in range(locked.ATTEMPTS):
        given(monkeypatch, "wrong")
        assert control.main(["unlock", "notary"]) == 1
    assert "the start has failed" in capsys.readouterr().err
    assert (unit.ended(), unit.tries()) == (1, locked.ATTEMPTS)


def test_a_fault_that_no_password_mends_ends_the_wait(monkeypatch, tmp_path, capsys):
    unit = Unit(tmp_path, ["bash", "-c", "exit 10"])
    given(monkeypatch, PASSWORD)
    assert control.main(["unlock", "notary"]) == 1
    assert "exit code 10" in capsys.readouterr().err
    assert unit.ended() == 1


def test_who_connects_and_says_nothing_or_too_much_costs_no_attempt(tmp_path):
    unit = Unit(tmp_path)
    for message in (b"", b"x" * (locked.LONGEST + 1)):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
            channel.connect(locked.path("notary", locked.DIRECTORY))
            if message:
                channel.sendall(message)
                assert channel.recv(100) == b""
    unlock._must_open(NOTARY, bytearray(PASSWORD.encode()))
    assert (unit.ended(), unit.tries()) == (0, 1)


def test_somebody_who_is_not_root_is_not_heard(monkeypatch, tmp_path):
    """Were the directory open to all: the unit runs as root, and the caller here does not."""
    unit = Unit(tmp_path)
    ours = os.getuid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: ours + 1)
        with pytest.raises(unlock.Refused, match="answer"):
            unlock._must_open(NOTARY, bytearray(PASSWORD.encode()))
    assert unit.tries() == 0
    unlock._must_open(NOTARY, bytearray(PASSWORD.encode()))
    assert unit.ended() == 0


def test_only_root_reaches_the_socket(tmp_path):
    unit = Unit(tmp_path)
    place = locked.path("notary", locked.DIRECTORY)
    assert stat.S_IMODE(os.stat(place).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(locked.DIRECTORY).st_mode) == 0o700
    unlock._must_open(NOTARY, bytearray(PASSWORD.encode()))
    unit.ended()


def test_buffers_are_empty_afterwards(tmp_path):
    unit = Unit(tmp_path)
    password = bytearray(PASSWORD.encode())
    unlock._must_open(NOTARY, password)
    assert unit.ended() == 0
    assert password == bytes(len(PASSWORD))


LOCKED = "STATUS=locked: cordonctl unlock notary"


@pytest.mark.parametrize(
    ("passwords", "told"),
    [
        ([PASSWORD], [LOCKED, "STATUS="]),
        (["wrong", PASSWORD], [LOCKED, "STATUS=", LOCKED, "STATUS="]),
        ([], [LOCKED, "STATUS="]),
    ],
)
def test_systemd_is_told_what_is_waited_for_and_that_it_is_over(monkeypatch, tmp_path, passwords, told):
    """systemd shows the last word of a unit for as long as the unit runs: an open vault would be called locked."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        unit = Unit(tmp_path)
        for password in passwords:
            with suppress(unlock.Refused):
                unlock._must_open(NOTARY, bytearray(password.encode()))
        if not passwords:
            (tmp_path / "notary.cred").touch()
        assert unit.ended() == (0 if passwords else locked.SEALED)
        manager.settimeout(0.1)
        found = []
        with suppress(TimeoutError):
            while True:
                found.append(manager.recv(500).decode())
    assert found == told


def test_a_vault_that_the_host_opens_itself_is_refused_and_an_unknown_agent_too(monkeypatch, capsys):
    for agent in ("scout", "elder"):
        assert control.main(["unlock", agent]) == 1
        assert "vault.unlock: sealed" in capsys.readouterr().err
    assert control.main(["unlock", "ghost"]) == 2
    assert "it has: elder, notary, scout" in capsys.readouterr().err
    assert control.main(["unlock"]) == 2


def test_an_open_vault_is_left_alone_and_no_password_is_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(unlock, "is_open", lambda entry: True)
    monkeypatch.setattr(unlock, "_asked", pytest.fail)
    assert control.main(["unlock", "notary"]) == 0
    assert "already open" in capsys.readouterr().out


@pytest.mark.parametrize("password", ["", "\n", "x" * (locked.LONGEST + 1)])
def test_no_password_and_a_monstrous_one_are_not_sent(monkeypatch, tmp_path, capsys, password):
    unit = Unit(tmp_path)
    given(monkeypatch, password)
    assert control.main(["unlock", "notary"]) == 1
    assert "no character, or more than" in capsys.readouterr().err
    unlock._must_open(NOTARY, bytearray(PASSWORD.encode()))
    assert (unit.ended(), unit.tries()) == (0, 1)


def test_the_agent_is_started_where_nothing_waits_yet(monkeypatch, tmp_path):
    units, calls = [], []

    def run(argv, data=None):
        calls.append(argv)
        if "start" in argv:
            units.append(Unit(tmp_path))
        return 0, "", ""

    monkeypatch.setattr(host, "run", run)
    given(monkeypatch, PASSWORD)
    assert control.main(["unlock", "notary"]) == 0
    assert ["systemctl", "start", "--no-block", "cordon-agent@notary.service"] in calls
    assert units[0].ended() == 0


def test_nothing_is_started_where_the_vault_is_about_to_ask(monkeypatch, tmp_path):
    units = []

    def run(argv, data=None):
        assert argv[1] == "show", "somebody else needs the vault, the agent is not to be started"
        units.append(Unit(tmp_path))
        return 0, "ActiveState=activating\nJob=123\n", ""

    monkeypatch.setattr(host, "run", run)
    given(monkeypatch, PASSWORD)
    assert control.main(["unlock", "notary"]) == 0
    assert units[0].ended() == 0


def test_a_unit_that_is_still_failing_is_waited_for_and_then_started_anew(monkeypatch, tmp_path):
    units, states = [], ["deactivating", "deactivating", "failed"]

    def run(argv, data=None):
        if argv[1] == "start":
            assert not states
            units.append(Unit(tmp_path))
        return 0, f"ActiveState={states.pop(0)}\nJob=0\n" if argv[1] == "show" else "", ""

    monkeypatch.setattr(host, "run", run)
    given(monkeypatch, PASSWORD)
    assert control.main(["unlock", "notary"]) == 0
    assert units[0].ended() == 0


def test_while_a_run_changes_the_vault_no_password_is_tried_or_counted(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(locked, "LOCKED_FOR", 0.2)
    unit = Unit(tmp_path)
    with open(locked.LOCK % "notary", "ab") as changing:
        fcntl.flock(changing, fcntl.LOCK_EX)
        given(monkeypatch, PASSWORD)
        assert control.main(["unlock", "notary"]) == 1
        assert "a run of the role changes it" in capsys.readouterr().err
        assert unit.tries() == 0
    unlock._must_open(NOTARY, bytearray(PASSWORD.encode()))
    assert unit.ended() == 0


def test_a_start_that_is_refused_or_asks_nothing_is_told(monkeypatch, capsys):
    monkeypatch.setattr(unlock, "STARTED_WITHIN", 0.3)
    monkeypatch.setattr(host, "run", lambda argv, data=None: (0, "", ""))
    given(monkeypatch, PASSWORD)
    assert control.main(["unlock", "notary"]) == 1
    assert "nothing asked for the password" in capsys.readouterr().err
    monkeypatch.setattr(host, "run", lambda argv, data=None: (1, "", "Unit is masked."))
    assert control.main(["unlock", "notary"]) == 1
    assert "Unit is masked." in capsys.readouterr().err


def test_several_at_once_each_with_its_own_outcome(monkeypatch, tmp_path, capsys):
    unit = Unit(tmp_path)
    given(monkeypatch, json.dumps({"notary": PASSWORD, "scout": "x", "ghost": "y"}))
    assert control.main(["unlock", "--json"]) == 1
    outcomes = json.loads(capsys.readouterr().out)
    assert outcomes["notary"] == {"open": True, "changed": True, "message": "opened"}
    assert [outcomes[name]["open"] for name in ("scout", "ghost")] == [False, False]
    assert "no agent 'ghost'" in outcomes["ghost"]["message"]
    assert unit.ended() == 0


@pytest.mark.parametrize("text", ["", "[]", '{"notary": 1}', '{"notary": ""}', "no json"])
def test_passwords_that_are_none_are_refused(monkeypatch, capsys, text):
    given(monkeypatch, text)
    assert control.main(["unlock", "--json"]) == 1
    assert '{"AGENT": "PASSWORD"}' in capsys.readouterr().err


def test_the_vaults_of_operators_are_listed(monkeypatch, capsys):
    assert control.main(["unlock", "--list"]) == 0
    assert json.loads(capsys.readouterr().out) == {"notary": "locked"}
    monkeypatch.setattr(unlock, "is_open", lambda entry: True)
    assert control.main(["unlock", "--list"]) == 0
    assert json.loads(capsys.readouterr().out) == {"notary": "open"}


def test_a_terminal_does_not_show_what_is_typed(monkeypatch):
    child, terminal = pty.fork()
    if child == 0:
        os._exit(0 if unlock._asked("Password: ") == bytearray(PASSWORD.encode()) else 1)
    shown = b""
    while not shown.endswith(b"Password: "):
        shown += os.read(terminal, 100)
    os.write(terminal, PASSWORD.encode() + b"\n")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert PASSWORD.encode() not in shown + os.read(terminal, 100)


def test_a_session_says_that_it_waits_for_the_vault(monkeypatch, capsys):
    codes = {"is-failed": 1}  # systemctl: no, the vault's unit did not fail
    monkeypatch.setattr(host, "run", lambda argv: (0, "", ""))
    monkeypatch.setattr(sessions.subprocess, "run",
                        lambda argv, **_options: type("Done", (), {"returncode": codes.get(argv[2], 0)}))
    assert sessions.run("scout", ["true"], terminal=False) == 0
    assert capsys.readouterr().err == ""
    sessions.run("notary", ["true"], terminal=False)
    assert "cordonctl unlock notary" in capsys.readouterr().err


def test_status_says_how_to_unlock():
    agents = {"notary": {"vault": {"locked": True}}, "scout": {"vault": {"locked": False}}}
    facts = {"collected_at": "now", "apparmor": {}, "agents": agents}
    shown = status.text(status.report([{**NOTARY, "mode": "enforce"}, {**SEALED, "mode": "enforce"}], facts, []))
    assert "notary is locked: cordonctl unlock notary" in shown and "unlock scout" not in shown


def test_a_sealed_vault_without_its_key_waits_for_nobody(capsys):
    assert locked.main(["wait", "scout", "gocryptfs"]) == 1
    assert "sealed key /etc/cordon/vault/scout.cred is missing" in capsys.readouterr().err


def test_something_left_in_memory_is_told_and_stays(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(locked.spool, "put", lambda *alert: (tmp_path / "alert").write_text(json.dumps(alert)))
    assert locked.main(["left", "scout", "/dev/shm/vault-key"]) == 1
    assert "/dev/shm/vault-key" in capsys.readouterr().err
    assert json.loads((tmp_path / "alert").read_text())[:3] == ["vault-residue", "critical", "scout"]
