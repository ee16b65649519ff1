# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What cordonctl run says where its session never began."""

from __future__ import annotations

import subprocess

import pytest

from cordon import sessions


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
    monkeypatch.setattr(sessions.unlock, "states", dict)
    assert sessions.run("scout", ["true"], terminal=False) == code
    assert says in capsys.readouterr().err
