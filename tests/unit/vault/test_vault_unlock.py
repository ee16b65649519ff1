# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vault_unlock: what it hands to cordonctl, and what it makes of the answer.

What cordonctl does: tests/unit/agent/test_unlock.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.cordon.agent_host.plugins.modules import vault_unlock

PASSWORD = "canary horse"
OPENED = {"open": True, "changed": True, "message": "opened"}
ALREADY = {"open": True, "changed": False, "message": "already open"}
WRONG = {"open": False, "changed": False, "message": "the vault of agent notary is not open: wrong password, 4 more"}
# Writes down how it was started, and says what ANSWER has.
CORDONCTL = """#!/bin/bash
cd "${0%/*}"
{ printf '%s\\n' "$*"; tr '\\0' '\\n' < /proc/$$/environ; } >> argv
cat >> stdin
cat answer
echo why >&2
exit "$(cat code)"
"""


@pytest.fixture(autouse=True)
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cordonctl").write_text(CORDONCTL)
    (tmp_path / "cordonctl").chmod(0o755)
    monkeypatch.setattr(vault_unlock, "CORDONCTL", str(tmp_path / "cordonctl"))
    monkeypatch.setattr(vault_unlock._vault_open, "no_core_dump", lambda: None)  # the test's own process goes on
    return tmp_path


def run(capsys: Any, host: Path, answer: Any, code: int = 0, check: bool = False, **passwords: Any) -> dict[str, Any]:
    (host / "answer").write_text(answer if isinstance(answer, str) else json.dumps(answer))
    (host / "code").write_text(str(code))
    with patch_module_args({"passwords": passwords, "_ansible_check_mode": check}), pytest.raises(SystemExit):
        vault_unlock.main()
    said = capsys.readouterr().out
    assert PASSWORD not in said
    result: dict[str, Any] = json.loads(said)
    return result


def test_passwords_go_by_standard_input_and_the_outcome_comes_back(host: Path, capsys: Any) -> None:
    outcomes = {"notary": OPENED, "scribe": ALREADY}
    result = run(capsys, host, outcomes, notary=PASSWORD, scribe=f"{PASSWORD} 2")
    assert (result["changed"], result["agents"], result["diff"]["after"]) == (True, outcomes, "notary: opened\n")
    assert json.loads((host / "stdin").read_text()) == {"notary": PASSWORD, "scribe": f"{PASSWORD} 2"}
    started = (host / "argv").read_text()
    assert started.startswith("unlock --json\n") and PASSWORD not in started, "the arguments, or the environment"


def test_one_that_stays_closed_fails_and_the_others_are_told_all_the_same(host: Path, capsys: Any) -> None:
    result = run(capsys, host, {"notary": WRONG, "scribe": OPENED}, code=1, notary=f"{PASSWORD} 2", scribe=PASSWORD)
    assert result["failed"] and result["changed"]
    assert result["msg"] == f"vault_unlock: {WRONG['message']}"
    assert result["agents"]["scribe"] == OPENED


def test_in_check_mode_nothing_is_sent(host: Path, capsys: Any) -> None:
    states = {"notary": "locked", "scribe": "open"}
    result = run(capsys, host, states, check=True, notary=PASSWORD, scribe=PASSWORD)
    assert result["agents"] == {"notary": {"open": False, "changed": True, "message": "would be opened"}, "scribe": ALREADY}
    assert result["changed"] and not result.get("failed")
    assert not (host / "stdin").read_text() and (host / "argv").read_text().startswith("unlock --list\n")
    assert "of an agent ghost" in run(capsys, host, states, check=True, ghost=PASSWORD)["msg"]


@pytest.mark.parametrize("answer", ["", "no json", "[]"])
def test_no_answer_is_told_with_the_reason(host: Path, capsys: Any, answer: str) -> None:
    result = run(capsys, host, answer, code=1, notary=PASSWORD)
    assert result["failed"] and "gave no answer (exit code 1): why" in result["msg"]


@pytest.mark.parametrize(("password", "says"), [("", "it is empty"), ("a\nb", "a line break"), (5, "put it in quotes")])
def test_what_is_no_password_is_refused_before_anything_is_sent(host: Path, capsys: Any, password: Any, says: str) -> None:
    result = run(capsys, host, {}, notary=password, scribe=PASSWORD)
    assert result["failed"] and "passwords.notary: " in result["msg"] and says in result["msg"]
    assert not (host / "argv").exists()


def test_a_host_without_cordonctl_and_no_passwords(host: Path, capsys: Any) -> None:
    (host / "cordonctl").unlink()
    assert "run the role cordon.agent_host.agent" in run(capsys, host, {}, notary=PASSWORD)["msg"]
    assert run(capsys, host, {})["changed"] is False
