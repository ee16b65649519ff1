# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The runner of `make test`, with small programs as stages."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "setup" / "run_stages.py"


@pytest.fixture(name="runner")
def fixture_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_stages", SOURCE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "run_stages", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "LOGS", tmp_path / "build" / "logs")
    monkeypatch.setattr(module, "GRACE", 2)
    return module


def run(module: ModuleType, *stages: tuple[str, str, int], shares: str = "one") -> int:
    """Run shell scripts as stages that share something, after an empty set-up; (name, script, limit)."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    module.SETUP = module.Stage("setup", ("true",), 10)
    module.STAGES = tuple(module.Stage(name, ("sh", "-c", script), limit, shares) for name, script, limit in stages)
    try:
        return module.main([])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_all_passed(runner: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(runner, ("a", "true", 5), ("b", "true", 5)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "3 passed, 0 failed, 0 skipped"


def test_what_takes_too_long_runs_when_it_is_named_and_its_absence_is_told(
    runner: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    every = {stage.name for stage in runner.STAGES}
    assert every - {stage.name for stage in runner.chosen([])} == {*runner.APART} <= every
    assert [stage.name for stage in runner.chosen(["vault-guest"])] == ["vault-guest"]
    assert run(runner, ("a", "true", 5)) == 0
    assert "not part of make test: make vault-guest" in capsys.readouterr().out


def test_a_failure_does_not_stop_the_others_but_fails_the_whole(
    runner: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(runner, ("a", "echo went wrong; exit 3", 5), ("b", "true", 5)) == 1
    out = capsys.readouterr().out
    assert "exit 3: went wrong" in out
    assert out.splitlines()[-1] == "2 passed, 1 failed, 0 skipped"


def test_what_went_wrong_stands_in_the_summary_though_other_lines_came_after_it(
    runner: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "echo 'E         + 1'; echo 'FAILED tests/test_a.py::test_b - assert 1'; seq 100; echo tidied up; exit 1"
    assert run(runner, ("a", said, 5)) == 1
    table = capsys.readouterr().out.partition("seconds  result")[2]
    assert "exit 1: FAILED tests/test_a.py::test_b - assert 1" in table
    assert "| a: E         + 1\n  | a: FAILED tests/test_a.py::test_b - assert 1\n" in table


def test_of_a_failed_play_the_summary_has_the_message_and_the_task(
    runner: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the Ansible beside these tests writes it."""
    play = tmp_path / "play.yml"
    play.write_text("- hosts: all\n  gather_facts: false\n  tasks:\n    - name: Fail\n      ansible.builtin.ping:\n")
    ansible = f"ANSIBLE_HOME={tmp_path} {Path(sys.executable).parent}/ansible-playbook -i 127.0.0.1, -e ansible_port=1 {play}"
    assert run(runner, ("a", f"{ansible} || {{ echo tidied up; exit 4; }}", 60)) == 1
    table = capsys.readouterr().out.partition("seconds  result")[2]
    assert "exit 4: [ERROR]: Task failed: Failed to connect to the host via ssh" in table
    assert f"| a: Origin: {play}:4:7" in table


def test_a_skipped_stage_says_why_and_does_not_fail(
    runner: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(runner, ("a", "echo no such Python; exit 77", 5)) == 0
    out = capsys.readouterr().out
    assert "skipped: no such Python" in out
    assert out.splitlines()[-1] == "1 passed, 0 failed, 1 skipped"


def test_a_stage_that_takes_too_long_is_ended_with_its_children(
    runner: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(runner, ("a", f"sleep 60 & echo $! > {tmp_path}/child; wait", 1)) == 1
    assert "not finished within 1 s" in capsys.readouterr().out
    assert gone(int((tmp_path / "child").read_text()))


def test_two_stages_run_beside_each_other(runner: ModuleType, tmp_path: Path) -> None:
    def stage(own: str, other: str) -> tuple[str, str, int]:
        return own, f"touch {tmp_path}/{own}; until [ -e {tmp_path}/{other} ]; do sleep 0.05; done", 20

    assert run(runner, stage("a", "b"), stage("b", "a"), shares="") == 0


def test_of_those_that_share_something_one_runs_at_a_time(runner: ModuleType, tmp_path: Path) -> None:
    alone = f"mkdir {tmp_path}/alone && sleep 0.3 && rmdir {tmp_path}/alone"
    assert run(runner, *((name, alone, 20) for name in "abc"), shares="the directory") == 0


def test_an_unknown_stage_is_refused_with_the_list(runner: ModuleType) -> None:
    with pytest.raises(SystemExit, match="unknown stage: nosuch; there are: setup vm"):
        runner.main(["nosuch"])


def test_an_interrupt_ends_what_was_started(tmp_path: Path) -> None:
    """As Ctrl-C does it: to a real process of the runner, while a stage waits for its child."""
    program = f"""
import sys
sys.path.insert(0, {str(SOURCE.parent)!r})
import run_stages
from pathlib import Path
run_stages.ROOT, run_stages.LOGS, run_stages.GRACE = Path({str(tmp_path)!r}), Path({str(tmp_path)!r}), 5
run_stages.SETUP = run_stages.Stage("setup", ("true",), 10)
script = "sleep 60 & echo $! > {tmp_path}/child.new; mv {tmp_path}/child.new {tmp_path}/child; wait"
run_stages.STAGES = (run_stages.Stage("a", ("sh", "-c", script), 60),)
sys.exit(run_stages.main([]))
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    wait_for((tmp_path / "child").exists)
    process.send_signal(signal.SIGINT)
    out, _nothing = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted: ending what was started" in out
    assert gone(int((tmp_path / "child").read_text()))


def gone(pid: int) -> bool:
    """Whether a process has ended; init may take a moment to reap it."""
    wait_for(lambda: not alive(pid))
    return True


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"


def wait_for(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.05)
