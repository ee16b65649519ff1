# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of an agent does nothing, and since when."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time

import pytest

from cordon import host, idle
from cordon.idle import BUSY, Patience, Seen

SERVICE, SESSION = "cordon-agent@scout.service", "cordon-session-scout-0a1b.service"
LITTLE = BUSY - 1


@pytest.mark.parametrize(
    ("looks", "ended"),
    [
        # (seconds, microseconds used so far, terminal last read)
        ([(0, 0, 0), (60, 0, 0)], []),
        ([(0, 0, 0), (60, 0, 0), (120, 0, 0)], [SERVICE]),
        ([(0, 0, 0), (60, LITTLE, 0), (120, 2 * LITTLE, 0)], [SERVICE]),
        ([(0, 0, 0), (60, 0, 0), (120, BUSY, 0)], []),
        ([(0, 0, 0), (60, BUSY, 0), (120, BUSY, 0), (180, BUSY, 0)], [SERVICE]),
        ([(0, BUSY, 0), (60, BUSY, 0), (120, 1, 0)], []),  # started again
        ([(0, 0, 7), (60, 0, 8), (120, 0, 9)], []),
        ([(0, 0, 7), (60, 0, 8), (120, 0, 8), (180, 0, 8)], [SERVICE]),
    ],
)
def test_a_unit_is_ended_after_two_minutes_of_nothing(looks, ended):
    patience = Patience()
    for seconds, used, typed in looks:
        found = patience.spent({SERVICE: Seen(used, typed)}, float(seconds), 120)
    assert found == ended


def test_each_unit_has_its_own_patience_and_a_new_one_begins_anew():
    patience = Patience()
    patience.spent({SERVICE: Seen(0, 0)}, 0.0, 60)
    assert patience.spent({SERVICE: Seen(BUSY, 0), SESSION: Seen(0, 0)}, 60.0, 60) == []
    assert patience.spent({SERVICE: Seen(2 * BUSY, 0), SESSION: Seen(0, 0)}, 120.0, 60) == [SESSION]
    assert patience.spent({SERVICE: Seen(3 * BUSY, 0)}, 180.0, 60) == []
    assert patience.spent({SERVICE: Seen(4 * BUSY, 0), SESSION: Seen(0, 0)}, 240.0, 60) == []


def cgroup(top, unit, used, pids=()):
    place = top / "cordon-scout.slice" / unit
    place.mkdir(parents=True)
    (place / "cpu.stat").write_text(f"usage_usec {used}\nuser_usec 1\nsystem_usec 2\n")
    (place / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))


def test_units_are_the_agents_service_and_sessions_and_nothing_else(tmp_path):
    for unit in (SERVICE, SESSION, "cordon-agent@scribe.service", "cordon-session-scout_b-0a1b.service", "other.service"):
        cgroup(tmp_path, unit, 12345)
    assert idle.units("scout", str(tmp_path)) == {SERVICE: Seen(12345, 0), SESSION: Seen(12345, 0)}


def test_a_unit_that_ended_meanwhile_is_passed_over(tmp_path):
    (tmp_path / "cordon-scout.slice" / SERVICE).mkdir(parents=True)
    assert idle.units("scout", str(tmp_path)) == {}


def test_what_is_typed_at_a_terminal_is_seen_and_what_is_shown_is_not(tmp_path):
    """On a terminal of this machine's kernel, which dates it to eight seconds."""
    master, slave = pty.openpty()
    echo = "import sys\nwhile True: print('read', sys.stdin.readline(), flush=True)"
    process = subprocess.Popen([sys.executable, "-c", echo], stdin=slave, stdout=slave)
    try:
        cgroup(tmp_path, SESSION, 0, [process.pid])
        os.utime(slave, (1, 1))
        assert idle.units("scout", str(tmp_path))[SESSION].typed == 10**9
        os.write(slave, b"shown\n")
        assert idle.units("scout", str(tmp_path))[SESSION].typed == 10**9
        os.write(master, b"typed\n")
        end = time.monotonic() + 30
        while idle.units("scout", str(tmp_path))[SESSION].typed == 10**9 and time.monotonic() < end:
            time.sleep(0.1)
        assert idle.units("scout", str(tmp_path))[SESSION].typed > 10**9
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(slave)


def test_the_end_is_asked_of_systemd_and_told(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(host, "run", lambda argv: asked.append(argv) or (0, "", ""))
    idle.end(SESSION, "30m")
    assert asked == [["systemctl", "stop", "--no-block", SESSION]]
    assert capsys.readouterr().out == f"{SESSION} did nothing for 30m, as vault.idle says: ended\n"


def test_units_are_looked_for_where_cgroup_v2_is(monkeypatch, tmp_path):
    """Beside the old control groups it is one directory further down."""
    monkeypatch.setattr(idle, "TREES", (str(tmp_path / "none"), str(tmp_path)))
    (tmp_path / "cgroup.controllers").touch()
    cgroup(tmp_path / "cordon.slice", SERVICE, 7)
    assert idle.units("scout") == {SERVICE: Seen(7, 0)}


def test_a_host_without_cgroup_v2_says_that_nothing_will_be_ended(monkeypatch, tmp_path, capsys):
    """No units are found there, which is not the same as nothing that runs."""
    monkeypatch.setattr(idle, "TREES", (str(tmp_path),))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert idle.main(["scout"]) == 2
    assert "cgroup v2" in capsys.readouterr().err


def test_what_runs_of_an_agent_that_is_not_in_the_manifest_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(idle, "units", lambda agent: {SERVICE: Seen(0, 0)})
    monkeypatch.setattr(host, "agents", list)
    assert idle.main(["scout"]) == 2
    assert "there is no agent 'scout' on this host" in capsys.readouterr().err


def test_it_ends_where_nothing_runs_whether_or_not_the_agent_is_still_there(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(idle, "units", lambda agent: {})
    monkeypatch.setattr(host, "agents", list)
    assert idle.main(["scout"]) == 0


def test_it_looks_until_nothing_is_left(monkeypatch):
    slept, ended = [], []
    looks = iter([{SERVICE: Seen(0, 0)}, {SERVICE: Seen(0, 0)}, {}])
    clock = iter([60.0, 120.0])
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(idle, "units", lambda agent: next(looks))
    monkeypatch.setattr(idle, "end", lambda unit, after: ended.append((unit, after)))
    limits = iter(["30d", "1m"])
    monkeypatch.setattr(host, "require", lambda name: {"name": name, "vault": {"idle": next(limits)}})
    assert idle.main(["scout"]) == 0
    assert slept == [idle.PERIOD] * 3 and ended == [(SERVICE, "1m")], "the manifest that counts is the one of the look"


def test_it_ends_where_the_manifest_has_no_time_any_more(monkeypatch):
    """Also where it had none when this began: a failure would be tried again for ever."""
    limits = iter(["1m", None])
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(idle, "units", lambda agent: {SERVICE: Seen(0, 0)})
    monkeypatch.setattr(host, "require", lambda name: {"name": name, "vault": {"idle": next(limits)}})
    assert idle.main(["scout"]) == 0
