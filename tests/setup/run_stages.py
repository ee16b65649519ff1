# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run stages of `make test`: all but those of APART, or those named. Prints what ran, what was skipped and why.

A stage is a program (tests/setup/stages/*). It exits 0 (passed), 77 (skipped; its last line says why)
or anything else (failed). A failed stage does not stop the others, but the whole fails.
Two stages run beside each other, the machine has two cores; whichever ends first makes room for the next that
does not share something with the other. Interrupted, everything that was started is ended.

Usage: run_stages.py [STAGE...]      Standard library only, Python 3.9+.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
LOGS = ROOT / "build" / "logs"
SKIPPED = 77
TAIL = 60
# What pytest (its error, and what differs), Ansible (its message, then the task's place), the linters and a guest's kernel write
# where something went wrong; other lines come after them.
PLACE = "Origin: "
TELLING = re.compile(
    r"(?:FAILED|ERROR) \S+::|E {3,}(?:[\w.]+: |assert |[-+] )"
    rf"|\[ERROR\]: |{PLACE}|.*: error: |failed: | *- ['\"]\[ *\d+\.\d+\] "
)
MOST_TELLING = 15
BESIDE = 2  # stages at once: one for each core
GRACE = 60  # seconds that an ended stage has for its own tidying (containers, guests)


@dataclass(frozen=True)
class Stage:
    """One program to run. `limit` is in seconds; of the stages that share something, one runs at a time."""

    name: str
    argv: tuple[str, ...]
    limit: int
    shares: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a stage; `word` is passed, failed or skipped, `reason` says why not passed."""

    name: str
    word: str
    seconds: float
    reason: str = ""


def _script(name: str, *arguments: str) -> tuple[str, ...]:
    return (f"tests/setup/stages/{name}", *arguments)


SETUP = Stage("setup", (sys.executable, "-B", "tests/setup/prepare.py"), 1200)
# These mount, count processes and start daemons on the machine itself, and those of one ansible-core share a directory.
HERE = "this machine"
# The order in which they begin. vm is by far the longest; beside it first what is quick and most telling, then what takes
# long: what is short fills the end.
STAGES = (
    Stage("vm", _script("molecule", "2.19", "vm"), 5000),
    Stage("unit-2.19", _script("unit", "2.19"), 600, HERE),
    Stage("lint", _script("lint"), 600),
    Stage("build", _script("build"), 300),
    Stage("workloads", _script("workloads"), 2700),
    Stage("neighbours", _script("molecule", "2.19", "neighbours"), 3600),
    Stage("vault", _script("unit", "2.19", "tests/integration/vault"), 2700, HERE),
    Stage("firewall", _script("unit", "2.19", "tests/integration/firewall"), 1200, HERE),
    Stage("container-2.19", _script("molecule", "2.19", "default"), 900, HERE),
    Stage("container-2.21", _script("molecule", "2.21", "default"), 900, HERE),
    Stage("unit-2.21", _script("unit", "2.21"), 600),
    Stage("sanity-2.19", _script("sanity", "2.19"), 900),
    Stage("sanity-2.21", _script("sanity", "2.21"), 900),
    Stage("vault-guest", _script("molecule", "2.19", "vault"), 5400),
)
# Run when they are named only: with them everything would take longer than the 90 minutes that there are before a change lands.
APART = ("neighbours", "vault-guest")


class Queue:
    """The stages that wait, and what the running ones have to themselves."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._waiting = list(stages)
        self._taken: set[str] = set()
        self._changed = threading.Condition()

    def take(self) -> Stage | None:
        """The next that may run now, once there is one; None when no stage waits any more."""
        with self._changed:
            while self._waiting:
                for stage in self._waiting:
                    if stage.shares not in self._taken:
                        self._waiting.remove(stage)
                        self._taken |= {stage.shares} - {""}
                        return stage
                self._changed.wait()
        return None

    def give_back(self, stage: Stage) -> None:
        with self._changed:
            self._taken.discard(stage.shares)
            self._changed.notify_all()


class Runner:
    """Starts stages, each in a process group of its own, so that all of it can be ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.stopped = threading.Event()
        self.outcomes: dict[str, Outcome] = {}

    def run(self, stage: Stage) -> Outcome:
        """Run one stage to its end or its limit. Its output goes to build/logs/STAGE.log."""
        log = LOGS / f"{stage.name}.log"
        begun = time.monotonic()
        with log.open("wb") as stream:
            process = self._start(stage, stream)
            if process is None:
                return Outcome(stage.name, "skipped", 0, "interrupted before it began")
            late = self._wait(process, stage.limit)
        with self._lock:
            self._running.pop(stage.name)
        word, reason = self._judge(process.returncode, late, stage, log)
        return Outcome(stage.name, word, time.monotonic() - begun, reason)

    def _start(self, stage: Stage, stream: IO[bytes]) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self.stopped.is_set():
                return None
            self._running[stage.name] = process = subprocess.Popen(
                stage.argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return process

    def _wait(self, process: subprocess.Popen[bytes], limit: int) -> bool:
        """Wait for the end. True if the limit passed and the stage was ended."""
        try:
            process.wait(limit)
            return False
        except subprocess.TimeoutExpired:
            end(process)
            return True

    def _judge(self, code: int, late: bool, stage: Stage, log: Path) -> tuple[str, str]:
        if self.stopped.is_set() and code != 0:
            return "failed", "interrupted"
        if late:
            return "failed", f"not finished within {stage.limit} s"
        if code == 0:
            return "passed", ""
        if code == SKIPPED:
            return "skipped", last_line(log)
        reasons = [line for line in telling(log) if not line.startswith(PLACE)]
        return "failed", f"exit {code}: {(reasons or [last_line(log)])[-1]}"

    def work(self, queue: Queue) -> None:
        while stage := queue.take():
            try:
                self.report(self.run(stage))
            finally:  # or the other worker would wait for ever
                queue.give_back(stage)

    def report(self, outcome: Outcome) -> None:
        with self._lock:
            self.outcomes[outcome.name] = outcome
            print(f"{outcome.word:8} {outcome.name} ({outcome.seconds:.0f} s) {outcome.reason[:200]}", flush=True)
            if outcome.word == "failed" and not self.stopped.is_set():
                show_tail(LOGS / f"{outcome.name}.log")

    def stop(self) -> None:
        """End every running stage and start none any more."""
        self.stopped.set()
        with self._lock:
            running = list(self._running.values())
        for process in running:
            signal_group(process, signal.SIGTERM)
        for process in running:
            end(process)


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass  # its leader has been waited for and nobody else is left


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask the group to end, give it time to tidy up, then insist."""
    signal_group(process, signal.SIGTERM)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        pass
    signal_group(process, signal.SIGKILL)
    process.wait()


def last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def telling(log: Path) -> list[str]:
    """The lines of a failed stage's log that say what went wrong, each once, the last MOST_TELLING of them."""
    lines = log.read_text(errors="replace").splitlines()
    return list(dict.fromkeys(line.strip() for line in lines if TELLING.match(line)))[-MOST_TELLING:]


def show_tail(log: Path) -> None:
    """The end of a failed stage's log, indented so that no line of it passes for our own summary."""
    print(f"  --- the end of {log.relative_to(ROOT)}")
    for line in log.read_text(errors="replace").splitlines()[-TAIL:]:
        print(f"  | {line}")
    print("  ---", flush=True)


def summary(outcomes: Sequence[Outcome], wall: float) -> str:
    width = max(len(outcome.name) for outcome in outcomes)
    rows = [f"  {'stage':{width}}  {'seconds':>7}  result"]
    rows += [
        f"  {each.name:{width}}  {each.seconds:7.0f}  {each.word}{': ' + each.reason[:160] if each.reason else ''}"
        for each in outcomes
    ]
    rows += [
        f"  | {each.name}: {line[:200]}"
        for each in outcomes if each.word == "failed"
        for line in telling(LOGS / f"{each.name}.log")
    ]
    count = {word: sum(each.word == word for each in outcomes) for word in ("passed", "failed", "skipped")}
    minutes, seconds = divmod(round(wall), 60)
    closing = f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped"
    apart = [f"  not part of make test: make {name}" for name in APART if all(each.name != name for each in outcomes)]
    return "\n".join(["", *rows, "", *apart, f"  in {minutes} min {seconds} s; logs in build/logs", "", closing])


def chosen(names: Sequence[str]) -> list[Stage]:
    """The stages to run after set-up, in the order of STAGES. Raises SystemExit for an unknown name."""
    known = {stage.name: stage for stage in STAGES}
    unknown = [name for name in names if name not in known and name != SETUP.name]
    if unknown:
        raise SystemExit(f"unknown stage: {', '.join(unknown)}; there are: setup {' '.join(known)}")
    return [stage for stage in STAGES if stage.name in (names or known.keys() - {*APART})]


def run_all(runner: Runner, stages: Sequence[Stage]) -> None:
    queue = Queue(stages)
    threads = [threading.Thread(target=runner.work, args=(queue,)) for _one in range(BESIDE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        # In slices: a signal is handled between two of them.
        while thread.is_alive():
            thread.join(0.5)


def interrupted(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def main(names: Sequence[str]) -> int:
    """Exit status: 0 nothing failed, 1 something failed, 130 interrupted."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    stages = chosen(names)
    LOGS.mkdir(parents=True, exist_ok=True)
    runner = Runner()
    begun = time.monotonic()
    try:
        runner.report(runner.run(SETUP))
        run_all(runner, stages)
    except KeyboardInterrupt:
        print("interrupted: ending what was started", flush=True)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        runner.stop()
        return 130
    order = [SETUP, *stages]
    outcomes = [runner.outcomes[stage.name] for stage in order]
    print(summary(outcomes, time.monotonic() - begun), flush=True)
    return 1 if any(outcome.word == "failed" for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
