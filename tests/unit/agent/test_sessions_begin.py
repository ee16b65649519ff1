# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the session of cordonctl run begins, and what is said where it never began."""

from __future__ import annotations

import subprocess

import pytest

from cordon import host, sessions

CLOSING = (1, "", "Failed to start transient service unit: Transaction for cordon-vault-wait-scout-1.service/start is"
                  " destructive (cordon-vault@scout.service has 'stop' job queued, but 'start' is included in transaction).")


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """asked: what cordonctl has run beside the session; answers come from asked.answers, then all is well."""

    class Asked(list):
        answers = []

    asked = Asked()

    def run(argv, data=None):
        asked.append(argv)
        return asked.answers.pop(0) if asked.answers else (0, "", "")

    monkeypatch.setattr(host, "run", run)
    monkeypatch.setattr(sessions.unlock, "states", dict)
    monkeypatch.setattr(sessions.time, "sleep", lambda seconds: None)
    return asked


@pytest.mark.parametrize(
    ("failed", "active", "code", "says"),
    [(1, 0, 0, ""), (0, 0, 1, "vault of agent scout could not be opened"), (1, 3, 1, "the packet filter did not")],
)
def test_a_session_that_never_began_is_no_success(monkeypatch, capsys, failed, active, code, says):
    """systemd-run --wait ends with 0 when a unit that the session requires does not start."""
    answers = {"systemd-run": 0, "is-failed": failed, "is-active": active}

    def run(argv, check):
        name = argv[0] if argv[0] == "systemd-run" else argv[2]
        return subprocess.CompletedProcess(argv, answers[name])

    monkeypatch.setattr(sessions.subprocess, "run", run)
    assert sessions.run("scout", ["true"], terminal=False) == code
    assert says in capsys.readouterr().err


def test_the_command_runs_once_although_the_vault_just_closes(monkeypatch, asked):
    commands = []

    def run(argv, check):
        commands.append(argv)
        return subprocess.CompletedProcess(argv, int("is-failed" in argv))

    monkeypatch.setattr(sessions.subprocess, "run", run)
    asked.answers = [CLOSING, CLOSING]
    assert sessions.run("scout", ["true"], terminal=False) == 0
    keepers = [next(word for word in argv if word.startswith("--unit=")) for argv in asked[:3]]
    assert len(set(keepers)) == 1 and keepers[0].startswith("--unit=cordon-vault-wait-scout-")
    assert "--property=BindsTo=cordon-vault@scout.service" in asked[0]
    assert asked[3:] == [["systemctl", "stop", "--no-block", keepers[0].split("=")[1]]]
    assert len([argv for argv in commands if argv[0] == "systemd-run"]) == 1


def test_what_is_refused_for_another_reason_is_not_tried_again(monkeypatch, asked):
    monkeypatch.setattr(sessions.subprocess, "run", lambda argv, check: subprocess.CompletedProcess(argv, 1))
    asked.answers = [(1, "", "Failed to connect to bus")]
    assert sessions.run("scout", ["true"], terminal=False) == 1
    assert [argv[0] for argv in asked] == ["systemd-run", "systemctl"]
