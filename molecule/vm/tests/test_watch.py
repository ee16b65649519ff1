# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""cordon-watch: it is there, it shoots no agent that starts, and whom it does shoot."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Generator
from typing import Any

import pytest

pytestmark = pytest.mark.kernel
UNIT = "cordon-watch.service"
STARTS = 20
# Seconds of every start are the preflight's, which runs as root: without it twenty starts take as long as two.
QUICK = "/run/systemd/system/cordon-session-{}-.service.d"

# The watch's own eyes without its five seconds of rest, while agents start: what would it have found wrong for good,
# and did it see starts at all?
STARE = f'''
import json, os, subprocess, sys, time
sys.path.insert(0, "/usr/lib/cordon")
from cordon import _watch, watch
its = watch.Watch()
its.manifest.refresh()
its.look_at_policy()
policy = _watch.Policy(its.manifest.agents, its.record, its.drifted, its.labelled)
starts = """
start() {{
  unit=cordon-session-$1-$(printf %08x $2)
  systemd-run --quiet --collect --wait --service-type=exec --unit=$unit -- /usr/bin/env -- /usr/lib/cordon/entry true
}}
for n in $(seq {STARTS // 2}); do start scout $n & start scribe $n && wait $! || exit 1; done
"""
child = subprocess.Popen(["bash", "-c", starts], stdin=subprocess.DEVNULL)
looks, moments, wrong = 0, 0, []
while child.poll() is None:
    looks += 1
    judged = [(process, _watch.judge(process, policy)) for process in watch.processes(its.manifest.users)]
    found = {{process.key: (process, finding) for process, finding in judged if finding}}
    moments += len(found)
    at_once = {{key: one for key, one in found.items() if one[1].patience < _watch.START_SECONDS}}
    wrong += [_watch.describe(*one) for one in its.confirm(at_once, policy).values()]
print(json.dumps({{"looks": looks, "moments": moments, "wrong": wrong, "code": child.returncode}}))
'''
ATTACH = """
import ctypes, errno, sys
libc = ctypes.CDLL(None, use_errno=True)
sys.exit(0 if libc.ptrace(16, int(sys.argv[1]), None, None) == 0 else ctypes.get_errno())
"""


@pytest.fixture
def told_only(host: Any) -> Generator[None]:
    """The manifest says for scout: alert, do not stop."""
    change = ("import json; path = '/etc/cordon/manifest.json'; found = json.load(open(path));"
              " [a for a in found['agents'] if a['name'] == 'scout'][0]['monitoring']['unconfined'] = 'alert';"
              " json.dump(found, open(path, 'w'))")
    host.check_output("cp -p /etc/cordon/manifest.json /root/manifest.json")
    try:
        host.check_output(f"python3 -c {shlex.quote(change)}")
        yield
    finally:
        host.check_output("cp -p /root/manifest.json /etc/cordon/manifest.json; rm /root/manifest.json")


@pytest.fixture
def said(host: Any) -> Callable[[str], str]:
    """said(TEXT): the lines with it that cordon-watch wrote since the test began."""
    since = host.check_output("date +%s")
    return lambda text: host.run(
        f"journalctl --no-pager --output=cat --unit={UNIT} --since=@{since} | grep -F {shlex.quote(text)}").stdout


def start_outside(host: Any, user: str) -> str:
    """The pid of a process of this user outside any unit of ours."""
    become = f"setpriv --reuid {user} --regid {user} --clear-groups"
    return host.check_output(f"{become} sleep 300 > /dev/null 2>&1 < /dev/null & echo $!")


def test_it_runs_and_starts_at_boot(host: Any) -> None:
    assert host.service("cordon-watch").is_running
    assert host.service("cordon-watch").is_enabled


def test_it_is_confined_itself(host: Any) -> None:
    """systemd's own judgement: exposure of at most 2.0 of 10."""
    judged = host.run(f"systemd-analyze security --no-pager --threshold=20 {UNIT}")
    assert judged.rc == 0, judged.stdout.splitlines()[-1]


@pytest.fixture
def quick(host: Any) -> Generator[None]:
    """Sessions start without the preflight."""
    places = [QUICK.format(name) for name in ("scout", "scribe")]
    host.check_output(" && ".join(
        f"mkdir -p {place} && printf '[Service]\nExecStartPre=\n' > {place}/99-quick.conf" for place in places))
    host.check_output("systemctl daemon-reload")
    yield
    host.check_output(f"rm {' '.join(f'{place}/99-quick.conf' for place in places)} && systemctl daemon-reload")


def test_no_start_of_an_agent_is_ever_taken_for_an_escape(host: Any, quick: None) -> None:
    seen = json.loads(host.check_output(f"python3 -B -c {shlex.quote(STARE)}").splitlines()[-1])
    assert seen["code"] == 0
    assert seen["wrong"] == []
    assert seen["moments"] > 0, f"in {seen['looks']} looks no start was seen: this test shows nothing"


def test_where_only_an_alert_is_asked_for_nothing_is_ended_and_the_agent_cannot_use_it(
    host: Any, told_only: None, as_agent: Callable[..., Any], said: Callable[[str], str], eventually: Callable[..., Any]
) -> None:
    """An unconfined process of the same user would be a way out, could the agent attach to it."""
    pid = start_outside(host, "agent-scout")
    line = eventually(lambda: said(f"pid {pid} "))
    assert "label unconfined" in line and "(killed)" not in line
    assert host.file(f"/proc/{pid}").exists
    attached = as_agent("scout", "python3", "-c", ATTACH, pid).rc
    assert attached in (1, 13), "EPERM or EACCES was to be expected"
    assert host.run(f"setpriv --reuid alice --regid alice --clear-groups sh -c {shlex.quote(_own_child())}").rc == 0


def _own_child() -> str:
    return f"sleep 60 & python3 -c {shlex.quote(ATTACH)} $!; code=$?; kill -9 $!; exit $code"


def test_and_when_it_is_asked_for_again_it_ends_what_is_left(host: Any, eventually: Callable[..., Any]) -> None:
    eventually(lambda: host.run("pgrep --uid agent-scout --exact --full 'sleep 300'").rc != 0)


def test_a_user_whose_agent_left_is_watched_and_another_ones_is_not(
    host: Any, said: Callable[[str], str], eventually: Callable[..., Any]
) -> None:
    host.check_output("useradd --system --home-dir /srv/agents/ghost agent-ghost; useradd --home-dir /home/smith agent-smith")
    try:
        ghost, smith = start_outside(host, "agent-ghost"), start_outside(host, "agent-smith")
        assert "(killed)" in eventually(lambda: said(f"pid {ghost} "))
        eventually(lambda: not host.file(f"/proc/{ghost}").exists)
        assert host.file(f"/proc/{smith}").exists
    finally:
        host.run("pkill -KILL -u agent-smith; sleep 1; userdel agent-ghost; userdel agent-smith")


def test_without_it_no_agent_starts_and_it_comes_back_by_itself(
    host: Any, as_agent: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    host.check_output(f"systemctl stop {UNIT} && touch --date='1 minute ago' /run/cordon/watch.json")
    try:
        refused = as_agent("scout", "true")
        assert refused.rc != 0
        assert "Every process of an agent is looked at every few seconds" in refused.stderr
    finally:
        host.check_output(f"systemctl start {UNIT}")
    host.check_output(f"systemctl kill --signal=KILL {UNIT}")
    eventually(lambda: host.service("cordon-watch").is_running)
    assert as_agent("scout", "true").rc == 0
