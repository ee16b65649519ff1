# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""cordon-watch.service: every process of an agent is confined, and the kernel's profiles are ours, or somebody hears of it.

    python3 -m cordon.watch

Looks at /proc every few seconds, and at once when a policy is loaded. A process that is not confined is stopped,
unless its agent's manifest says `monitoring: {unconfined: alert}`. What is wrong and for how long it may be is
decided in _watch.py.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any, Dict, List, Optional, Set, Tuple

from . import _apparmor_info, _facts_apparmor, _facts_processes, _watch, spool
from ._facts_source import Source
from ._watch import Finding, Process

MANIFEST = "/etc/cordon/manifest.json"
STATE = "/run/cordon/watch.json"
REVISION = _facts_apparmor.SECURITYFS + "/policy/revision"
POLICIES = "/etc/apparmor.d"
PERIOD = 5.0  # seconds between looks
AGAIN = 0.2  # seconds to the next look while something had to be killed: it may have had children
EMERGENCY, NOTICE = 2, 5  # sd-daemon(3)

Found = Dict[Tuple[int, int], Tuple[Process, Finding]]


def no_commands(argv: List[str], data: Optional[str] = None) -> Tuple[int, str, str]:
    """The facts that are read here need no program."""
    raise AssertionError(argv)


SOURCE = Source(no_commands)


def say(text: str, level: int = NOTICE) -> None:
    """Write a line to the journal."""
    print(f"<{level}>{text}", flush=True)


def notify(message: str) -> None:
    """Tell systemd (sd_notify(3)); nothing happens outside of it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.sendto(message.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)


def alert(rule: str, agent: Optional[str], summary: str) -> None:
    """Journal and alert; an alert that cannot be left must not keep us from watching."""
    say(summary, EMERGENCY)
    try:
        if not spool.put(rule, "critical", agent, summary):
            say(f"alert {rule} was not left: {spool.DIRECTORY} holds {spool.MOST} alerts that nobody takes")
    except OSError as error:
        say(f"alert {rule} was not left: {error}", EMERGENCY)


# --- What there is to know ----------------------------------------------------------------------------


class Manifest:
    """The agents of this host and the numbers of their users, read anew when a file was replaced."""

    def __init__(self) -> None:
        self._stamp: object = None
        self.agents: Dict[str, Dict[str, Any]] = {}
        self.users: Dict[int, str] = {}

    def refresh(self) -> None:
        """Raises OSError or ValueError: without a manifest every agent would be a stranger, so nothing is judged."""
        stamp = [(found.st_mtime_ns, found.st_ino) for found in map(os.stat, (MANIFEST, "/etc/passwd"))]
        if stamp == self._stamp:
            return
        with open(MANIFEST, encoding="utf-8") as file:
            agents = json.load(file)["agents"]
        self.agents = {agent["user"]: agent for agent in agents}
        with open("/etc/passwd", encoding="utf-8", errors="replace") as file:
            self.users = _watch.users(file.read(), agents)
        self._stamp = stamp


def read_process(pid: int, users: Dict[int, str]) -> Optional[Process]:
    """One process; None when it is of no agent or has ended."""
    place = f"/proc/{pid}"
    status = SOURCE.text(f"{place}/status", noted=False) or ""
    owners = _facts_processes.owners(status)
    user = next((users[uid] for uid in owners if uid in users), None)
    # A daemon of root that acts for the user for a moment (file servers, sshd) is root's, and can be root again.
    if user is None or owners[0] == 0:
        return None
    if _facts_processes.ended(status):
        return None
    rows = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    stat = SOURCE.text(f"{place}/stat", noted=False)
    program = SOURCE.link(f"{place}/exe") or rows["Name"].strip()
    cgroup = (SOURCE.text(f"{place}/cgroup", noted=False) or "").strip().rpartition("::")[2]
    label, mode = _facts_processes.split_label(_facts_processes.label_of(SOURCE, pid))
    if not stat or not os.path.exists(f"{place}/status"):
        return None
    # proc(5): the second field may hold anything but is the last with a parenthesis; the 22nd is the start.
    return Process(
        pid=pid,
        started=int(stat.rpartition(")")[2].split()[19]),
        user=user,
        program=program,
        label=label,
        mode=mode,
        profiles=tuple(_facts_processes.profiles(label)),
        cgroup=cgroup,
        parent=name_of(rows["PPid"].strip()),
    )


def name_of(pid: str) -> str:
    """A process for people: its number and program."""
    program = SOURCE.link(f"/proc/{pid}/exe") or (SOURCE.text(f"/proc/{pid}/comm", noted=False) or "?").strip()
    return f"{pid} {program}"


def processes(users: Dict[int, str]) -> List[Process]:
    """Every process of these users."""
    found = (read_process(pid, users) for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if effective(pid) in users)
    return [process for process in found if process is not None]


def effective(pid: int) -> int:
    """The effective uid of a process, which owns its directory in /proc: a tenth of the price of reading its status."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return -1


def busy() -> bool:
    """Whether the module apparmor_profiles is at work: it holds the directory until its record is written."""
    try:
        handle = os.open(POLICIES, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


# --- The watch ----------------------------------------------------------------------------------------


class Watch:
    """What it knows from one look to the next."""

    def __init__(self) -> None:
        self.manifest = Manifest()
        self.patience = _watch.Patience()
        self.told: Set[Tuple[int, int]] = set()  # processes that an alert named
        self.drifted: Dict[str, str] = {}
        self.record: Dict[str, Any] = {}
        self.labelled = False
        self.off = False
        self.killed = 0
        self._judged: object = None  # the policy that was last compared

    def look(self) -> bool:
        """One look at everything; True if something had to be killed."""
        SOURCE.unreadable.clear()
        self.manifest.refresh()
        self.look_at_policy()
        policy = _watch.Policy(self.manifest.agents, self.record, self.drifted, self.labelled)
        seen = processes(self.manifest.users)
        judged = {process.key: (process, _watch.judge(process, policy)) for process in seen}
        found: Found = {key: (process, wrong) for key, (process, wrong) in judged.items() if wrong}
        spent = self.patience.spent({key: wrong for key, (_process, wrong) in found.items()}, time.monotonic())
        certain = self.confirm({key: found[key] for key in found if key in spent}, policy)
        stopped = self.act(certain)
        self.told &= set(found)
        state = {"time": time.time(), "processes": len(seen), "unconfined": len(certain), "killed": self.killed,
                 "drift": sorted(self.drifted), "labelled": self.labelled}  # fmt: skip
        spool.replace(STATE, state)
        return stopped

    def confirm(self, found: Found, policy: _watch.Policy) -> Found:
        """What is still so after a moment: an exec gives the process its program before its label (begin_new_exec())."""
        if found:
            time.sleep(_facts_processes.SETTLE_SECONDS)
        certain: Found = {}
        for key, (process, finding) in found.items():
            now = read_process(process.pid, self.manifest.users)
            if now and now.key == key and _watch.judge(now, policy) == finding:
                certain[key] = (now, finding)
        return certain

    def act(self, found: Found) -> bool:
        """Kill, or only tell; one alert for each agent. True if something was killed."""
        lines: Dict[str, List[str]] = {}
        stopped = False
        for key, (process, finding) in found.items():
            agent = self.manifest.agents.get(process.user)
            line = _watch.describe(process, finding)
            if agent is None or agent.get("monitoring", {}).get("unconfined", "stop") == "stop":
                if not kill(process):
                    continue
                line = f"{line} (killed)"
                stopped = stopped or key not in self.told
                self.killed += key not in self.told
            if key not in self.told:
                self.told.add(key)
                lines.setdefault(process.user, []).append(line)
        for user, its in lines.items():
            for line in its[1:]:
                say(line, EMERGENCY)
            name = self.manifest.agents.get(user, {}).get("name")
            alert("unconfined-process", name, f"{user} ran what is not confined: {_watch.shorten(its)}")
        return stopped

    def look_at_policy(self) -> None:
        """Compare the kernel's profiles with the record of what was loaded, when either has changed."""
        there = os.path.exists(_facts_apparmor.RECORD)
        stamp = (_apparmor_info.revision(SOURCE), os.stat(_facts_apparmor.RECORD).st_mtime_ns if there else None)
        if stamp == self._judged or busy():
            return
        kernel = _facts_apparmor.read(SOURCE)
        if _apparmor_info.revision(SOURCE) != stamp[0]:
            return  # it changed while it was read; the next look is due at once
        record = (SOURCE.record(_facts_apparmor.RECORD) if there else None) or {}
        self.record = record.get("profiles") or {}
        self.labelled = bool(kernel["supported"] or record.get("enforced"))
        self.tell_off(bool(record.get("enforced")) and not kernel["supported"])
        self.tell_drift(_facts_apparmor.drift(self.record, kernel["profiles"] or {}) if kernel["supported"] else [])
        self._judged = stamp

    def tell_off(self, off: bool) -> None:
        """The kernel runs without AppArmor, and was not accepted without."""
        if off and not self.off:
            alert("apparmor-off", None, "this kernel runs without AppArmor: no agent can be confined, none is started."
                  " Boot it with apparmor=1 security=apparmor")  # fmt: skip
        self.off = off

    def tell_drift(self, found: List[Dict[str, str]]) -> None:
        """Profiles that are not as they were loaded: each change is told once, and its end."""
        names = [agent["name"] for agent in self.manifest.agents.values()]
        fresh = [one for one in found if self.drifted.get(one["profile"]) != one["problem"]]
        for agent, its in _watch.by_agent(fresh, names).items():
            differs = _watch.shorten([f"{one['profile']}: {one['problem']}" for one in its])
            alert("confinement-drift", agent, f"{differs}. Nothing starts in it until site.yml has loaded it again")
        for name in sorted(set(self.drifted) - {one["profile"] for one in found}):
            say(f"profile {name} is as it was recorded again")
        self.drifted = {one["profile"]: one["problem"] for one in found}


def kill(process: Process) -> bool:
    """End exactly this process: the handle keeps its number from naming another one. False if it had ended."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        stat = SOURCE.text(f"/proc/{process.pid}/stat", noted=False) or ""
        if not stat or int(stat.rpartition(")")[2].split()[19]) != process.started:
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


class Pause:
    """Waits, and no longer than until a policy is loaded: the kernel's file of revisions can be polled."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._handle: Optional[int] = None
        if os.path.exists(REVISION):
            self._handle = os.open(REVISION, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._poll.register(self._handle, select.POLLIN)
            self._take()

    def wait(self, seconds: float) -> None:
        """Return after so many seconds, or earlier."""
        if self._poll.poll(seconds * 1000):
            self._take()

    def _take(self) -> None:
        """Read the newest revision, so that the next poll waits for the one after it."""
        try:
            os.read(self._handle or 0, 64)
        except BlockingIOError:
            pass


def main() -> int:
    """Watch until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_signal: sys.exit(0))
    watch, pause = Watch(), Pause()
    try:
        watch.look()
        notify("READY=1")
        while True:
            pause.wait(AGAIN if watch.look() else PERIOD)
            notify("WATCHDOG=1")
    except (OSError, ValueError, KeyError) as error:
        say(f"cannot watch: {error!r}. Run the playbook cordon.agent_host.site", EMERGENCY)
        return 1


if __name__ == "__main__":
    sys.exit(main())
