# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rounds on an agent host: something of an agent starts, ends by some cause, and nothing may be left. One JSON line a round.

    python3 vault_rounds.py AGENT < {"cause": rounds, ...}      (rounds.json has how many make 200 of two agents)

The agents are as the roles made them but for one thing: they start without the preflight, which takes most of the time of a
start and is tested elsewhere. The round in which it refuses has it back.

Standard library only. What is searched for (the secrets, the vault's key, its master key) is read from the open vault and by
unsealing, and is nowhere but in this process's memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

AGENT = sys.argv[1]
USER, HOME = f"agent-{AGENT}", f"/srv/agents/{AGENT}"
POINT, SOURCE = f"{HOME}/.vault", f"cordon-vault-{AGENT}"
SERVICE, VAULT, SLICE = f"cordon-agent@{AGENT}.service", f"cordon-vault@{AGENT}.service", f"cordon-{AGENT}.slice"
# In a container on a machine with both hierarchies, systemd has its units in the second.
TREE = next(place for place in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified") if os.path.exists(f"{place}/cgroup.controllers"))
CGROUP = Path(f"{TREE}/cordon.slice/{SLICE}")
CIPHER, KEY = f"/var/lib/cordon/vault/{AGENT}", f"/etc/cordon/vault/{AGENT}.cred"
CHECKS = "/etc/cordon/checks.json"
DROP_INS = [f"/run/systemd/system/{unit}.d/90-rounds.conf" for unit in (SERVICE, f"cordon-session-{AGENT}-.service")]
# Where something of a session could be written on disk; the rest is looked at in a full look.
PLACES = ("/etc", "/var", "/srv", "/home", "/root", "/tmp")
MEMORY_BACKED = ("tmpfs", "ramfs", "devtmpfs", "hugetlbfs")
PATIENCE = 90.0  # seconds for what takes two on an idle machine
FULL_EVERY = 25
CHUNK = 8 << 20
BUSY = "/run/vault-rounds.lock"
ENDED = ("inactive", "failed")
# Whether the agent's unit has mounts of its own over the vault (vault.writable).
WRITABLE = "CORDON_VAULT_WRITABLE=yes" in subprocess.run(
    ["systemctl", "show", "--property=Environment", VAULT], capture_output=True, text=True, check=True).stdout

uid = int(subprocess.run(["id", "-u", USER], capture_output=True, text=True, check=True).stdout)
sessions: list[subprocess.Popen[bytes]] = []


def sh(*argv: str, check: bool = True) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace")
    if check and done.returncode:
        raise AssertionError(f"{argv}: exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def until(probe: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + PATIENCE
    while not (found := probe()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {PATIENCE:.0f} s: {what}")
        time.sleep(0.05)
    return found


# --- What there is -------------------------------------------------------------------------------------


def mounts() -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if SOURCE in line or f" {POINT} " in line]


def processes() -> list[str]:
    """Every process of the agent's user, and whatever keeps its vault open."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            argv = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            ours = uid in map(int, re.search(r"^Uid:(.*)$", (place / "status").read_text(), re.M)[1].split())  # type: ignore[index]
        except (OSError, TypeError):
            continue
        if ours or (SOURCE in argv and "gocryptfs" in argv) or f"vault-session open {AGENT}" in argv:
            found.append(f"{place.name} {argv}")
    return found


def running(pattern: str) -> list[int]:
    """Processes in the agent's units whose name, in a cgroup that matches, is not that of the way in."""
    found = []
    for place in CGROUP.glob(pattern):
        with contextlib.suppress(OSError):
            for pid in (place / "cgroup.procs").read_text().split():
                if Path(f"/proc/{pid}/comm").read_text().strip() in ("sleep", "bash", "python3", "tail"):
                    found.append(int(pid))
    return found


def state(unit: str) -> str:
    return sh("systemctl", "show", "--property=ActiveState", "--value", unit)


def over() -> bool:
    """Whether everything has ended; systemd is asked last, because it takes the longest to answer."""
    return not mounts() and not processes() and state(VAULT) in ENDED and state(SERVICE) in ENDED


def daemon() -> int:
    return int(sh("systemctl", "show", "--property=MainPID", "--value", VAULT) or 0)


def digests() -> dict[str, str]:
    """SHA-256 of each secret, as root reads them in the open vault."""
    return {place.name: hashlib.sha256(place.read_bytes()).hexdigest() for place in secrets()}


def secrets() -> list[Path]:
    return sorted(place for place in Path(POINT).iterdir() if place.is_file())


# --- What may not be left ------------------------------------------------------------------------------


def needles() -> dict[str, bytes]:
    """What may not be found, by name; read while the vault is open."""
    key = subprocess.run(["systemd-creds", "decrypt", f"--name={SOURCE}", KEY, "-"], capture_output=True, check=True).stdout
    xray = ["gocryptfs-xray", "-dumpmasterkey", f"{CIPHER}/gocryptfs.conf"]
    master = subprocess.run(xray, input=key, capture_output=True, check=True)
    raw = bytes.fromhex(master.stdout.decode().strip())
    found = {f"secret {place.name}": place.read_bytes() for place in secrets()}
    return {**found, "vault key": key.strip(), "master key": raw, "master key, hexadecimal": raw.hex().encode()}


def holds(stream: Any, wanted: dict[str, bytes]) -> list[str]:
    """The names of what a file holds."""
    overlap, before, found = max(map(len, wanted.values())), b"", set()
    while block := stream.read(CHUNK):
        text = before + block
        found |= {name for name, needle in wanted.items() if needle in text}
        before = text[-overlap:]
    return sorted(found)


def changed(since: float) -> list[str]:
    """Regular files of PLACES that changed since then; find is ten times as fast as files()."""
    argv = ["find", *PLACES, "-xdev", "-type", "f", "-newerct", f"@{since:.3f}", "-print0"]
    return subprocess.run(argv, capture_output=True, text=True).stdout.split("\0")[:-1]


def files(tops: Iterable[str]) -> Iterator[str]:
    """Regular files of the file system of each top."""
    for top in tops:
        device = os.lstat(top).st_dev
        for place, inside, names in os.walk(top):
            inside[:] = [name for name in inside if _device(f"{place}/{name}") == device]
            for name in names:
                with contextlib.suppress(OSError):
                    seen = os.lstat(f"{place}/{name}")
                    if seen.st_dev == device and (seen.st_mode & 0o170000) == 0o100000:
                        yield f"{place}/{name}"


def _device(path: str) -> int:
    try:
        return os.lstat(path).st_dev
    except OSError:
        return -1


def in_files(paths: Iterable[str], wanted: dict[str, bytes]) -> list[str]:
    found = []
    for path in paths:
        with contextlib.suppress(OSError), open(path, "rb") as stream:
            found += [f"{name} in {path}" for name in holds(stream, wanted)]
    return found


def memory_backed() -> list[str]:
    rows = [line.partition(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted({left.split()[4] for left, _dash, right in rows if right.split()[0] in MEMORY_BACKED})


def in_processes(wanted: dict[str, bytes]) -> list[str]:
    """What lies in the memory of any process of the host but these rounds', who know what they look for."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            if b"vault_rounds.py" in (place / "cmdline").read_bytes():
                continue
            rows = [line.split() for line in (place / "maps").read_text().splitlines()]
            with open(place / "mem", "rb", buffering=0) as memory:
                for area, access in ((row[0], row[1]) for row in rows if "w" in row[1] and "[v" not in row[-1]):
                    start, end = (int(word, 16) for word in area.split("-"))
                    with contextlib.suppress(OSError, OverflowError):
                        memory.seek(start)
                        text = memory.read(min(end - start, 64 << 20))
                        name = (place / "comm").read_text().strip()
                        found += [f"{what} in the memory of {place.name} {name} ({access})"
                                  for what, needle in wanted.items() if needle in text]
    return found


def bare() -> list[str]:
    """What is wrong with the closed mount point."""
    if mounts():
        return []  # that is told already, and the mount point cannot be seen
    handle = os.open(POINT, os.O_RDONLY | os.O_DIRECTORY)
    try:
        raw: int = struct.unpack("i", fcntl.ioctl(handle, 0x80086601, bytes(8))[:4])[0]
    finally:
        os.close(handle)
    clear = [f"{name} lies in the clear" for name in os.listdir(POINT) if not os.path.islink(f"{POINT}/{name}")]
    return clear + ([] if raw & 0x10 else ["the mount point is not immutable"])


def leftovers(wanted: dict[str, bytes], since: float, full: bool) -> list[str]:
    """What a round left."""
    found = [f"mount: {line}" for line in mounts()] + [f"process: {line}" for line in processes()]
    found += ["credentials of its unit"] if os.path.exists(f"/run/credentials/{VAULT}") else []
    found += [f"mount point: {line}" for line in bare()]
    found += [f"text: {line}" for line in in_files(files(memory_backed()), wanted)]
    found += [f"text: {line}" for line in in_files(files(["/"]) if full else changed(since), wanted)]
    return found + ([f"text: {line}" for line in in_processes(wanted)] if full else [])


# --- Beginnings ----------------------------------------------------------------------------------------


def service() -> None:
    sh("systemctl", "start", SERVICE)
    until(lambda: running(SERVICE), f"a process of {SERVICE}")


def launch(*argv: str) -> subprocess.Popen[bytes]:
    quiet = subprocess.DEVNULL
    begun = subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    sessions.append(begun)
    return begun


def run(*command: str) -> subprocess.Popen[bytes]:
    """As cordonctl run does (sessions.py), without a Python for it."""
    unit = f"cordon-session-{AGENT}-{os.urandom(4).hex()}.service"
    return launch("systemd-run", "--quiet", "--collect", "--wait", "--pipe", "--service-type=exec", f"--unit={unit}", "--",
                  "/usr/bin/env", "--", "/usr/lib/cordon/entry", *command)


def session() -> None:
    run("/usr/bin/sleep", "infinity")
    until(lambda: running("cordon-session-*"), "a process of the session")


def by_cordonctl() -> None:
    launch("cordonctl", "run", AGENT, "--", "/usr/bin/sleep", "infinity")
    until(lambda: running("cordon-session-*"), "a process of the session")


def both() -> None:
    service()
    session()


def nothing() -> None:
    pass


# --- Causes --------------------------------------------------------------------------------------------


def session_units() -> list[str]:
    return [place.name for place in CGROUP.glob(f"cordon-session-{AGENT}-*.service")]


def stop() -> None:
    sh("systemctl", "stop", SERVICE)


def stop_session() -> None:
    sh("systemctl", "stop", *session_units())


def kill_agent() -> None:
    """The service comes back by itself (Restart=on-failure), with its secrets; then it is stopped."""
    (first,) = running(SERVICE)
    os.kill(first, signal.SIGKILL)
    until(lambda: [pid for pid in running(SERVICE) if pid != first], "a new process of the service")
    same_secrets()
    stop()


def kill_agent_and_stop() -> None:
    """While systemd waits to start the service again."""
    os.kill(running(SERVICE)[0], signal.SIGKILL)
    until(lambda: state(SERVICE) != "active", "the end of the service")
    stop()


def kill_session() -> None:
    os.kill(running("cordon-session-*")[0], signal.SIGKILL)


def kill_gocryptfs() -> None:
    os.kill(daemon(), signal.SIGKILL)


def term_gocryptfs() -> None:
    os.kill(daemon(), signal.SIGTERM)
    gone_for_the_host()


def gone_for_the_host() -> None:
    """The mount is gone for the host, and with it the session; but a unit that has mounts of its own keeps it until its end."""
    if WRITABLE:
        until(lambda: not mounts(), "the vault gone from the host")
        assert state(SERVICE) == "active" and daemon(), "docs/vault.md says that a writable vault outlives this"
        stop()


def kill_units() -> None:
    sh("systemctl", "kill", "--signal=KILL", SERVICE, *session_units())
    stop()


def kill_cgroup() -> None:
    """By the kernel, all at once."""
    (CGROUP / "cgroup.kill").write_text("1")
    until(lambda: state(SERVICE) != "active", "the end of the service")
    stop()


def kill_everything() -> None:
    sh("systemctl", "kill", "--signal=KILL", SERVICE, VAULT)
    until(lambda: state(SERVICE) != "active", "the end of the service")
    stop()


def memory() -> None:
    """A session takes more memory than its slice has, and the kernel ends it."""
    begun = run("/usr/bin/python3", "-c", "x = bytearray(1 << 20)\nwhile True: x += bytearray(b'x' * (8 << 20))")
    before = oom_kills()
    begun.wait(PATIENCE)
    assert oom_kills() > before, "nothing was killed for its memory"


def oom_kills() -> int:
    return int(re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(), re.M)[1])  # type: ignore[index]


def refused() -> None:
    """The preflight refuses the start: what it judges by is gone."""
    with_preflight()
    os.rename(CHECKS, f"{CHECKS}.away")
    try:
        assert run("/usr/bin/sleep", "infinity").wait(PATIENCE) != 0, "a session started without its checks"
    finally:
        os.rename(f"{CHECKS}.away", CHECKS)
        without_preflight()


def no_command() -> None:
    assert run("/usr/bin/no-such-program").wait(PATIENCE) != 0


def damaged_key() -> None:
    """The vault does not open, so nothing starts."""
    os.rename(KEY, f"{KEY}.away")
    Path(KEY).write_text("bm8ga2V5\n")
    try:
        called = launch("cordonctl", "run", AGENT, "--", "/usr/bin/sleep", "infinity")
        assert called.wait(PATIENCE) != 0, "cordonctl called a session without a vault a success"
    finally:
        os.rename(f"{KEY}.away", KEY)


def interrupt() -> None:
    """Ctrl-C of the person who called cordonctl; both it and systemd-run get the signal."""
    for begun in sessions:
        os.killpg(begun.pid, signal.SIGINT)


def restart() -> None:
    sh("systemctl", "restart", SERVICE)
    until(lambda: running(SERVICE), "a process after the restart")
    same_secrets()
    stop()


def reexec() -> None:
    sh("systemctl", "daemon-reexec")
    until(lambda: state(SERVICE) == "active" and mounts(), "the service, still running")
    same_secrets()
    stop()


def unmount() -> None:
    sh("umount", POINT)
    gone_for_the_host()


def stop_vault() -> None:
    sh("systemctl", "stop", VAULT)


def service_first() -> None:
    stop()
    time.sleep(0.2)
    assert mounts(), "the end of the service took the vault from the session"
    same_secrets()
    stop_session()


def session_first() -> None:
    stop_session()
    time.sleep(0.2)
    assert mounts(), "the end of the session took the vault from the service"
    same_secrets()
    stop()


def at_once() -> None:
    sh("systemctl", "stop", SERVICE, *session_units())


# What begins the round, what ends it, and whether it disturbs rounds of other agents.
CAUSES: dict[str, tuple[Callable[[], None], Callable[[], None], bool]] = {
    "clean stop": (service, stop, False),
    "restart, then stop": (service, restart, False),
    "session stopped by hand": (session, stop_session, False),
    "Ctrl-C in cordonctl run": (by_cordonctl, interrupt, False),
    "kill -9 of the agent, restarted": (service, kill_agent, False),
    "kill -9 of the agent, then stop": (service, kill_agent_and_stop, False),
    "kill -9 of a session": (session, kill_session, False),
    "kill -9 of gocryptfs": (service, kill_gocryptfs, False),
    "kill -9 of gocryptfs, two sessions": (both, kill_gocryptfs, False),
    "SIGTERM to gocryptfs": (service, term_gocryptfs, False),
    "systemctl kill -s KILL of all units": (both, kill_units, False),
    "cgroup.kill of the slice": (both, kill_cgroup, False),
    "kill -9 of agent and gocryptfs": (service, kill_everything, False),
    "out of memory": (nothing, memory, False),
    "start refused by the preflight": (nothing, refused, True),
    "start of a missing command": (nothing, no_command, False),
    "start with a damaged sealed key": (nothing, damaged_key, False),
    "daemon-reexec, then stop": (service, reexec, True),
    "umount by root": (service, unmount, False),
    "vault unit stopped": (both, stop_vault, False),
    "two sessions, service first": (both, service_first, False),
    "two sessions, session first": (both, session_first, False),
    "two sessions, both at once": (both, at_once, False),
}

expected: dict[str, str] = {}


def same_secrets() -> None:
    found = digests()
    assert found == expected, f"secrets that are not as they were: {sorted(set(found.items()) ^ set(expected.items()))}"


@contextlib.contextmanager
def turn(alone: bool) -> Iterator[None]:
    """Rounds of two agents run side by side, but for those that touch the whole host."""
    with open(BUSY, "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


def one(cause: str, number: int, wanted: dict[str, bytes]) -> dict[str, Any]:
    """One round: what was left, what went wrong, how long it took."""
    begin, end, alone = CAUSES[cause]
    wrong: list[str] = []
    full = number % FULL_EVERY == 0
    with turn(alone):
        begun, since = time.monotonic(), time.time() - 1
        try:
            begin()
            if begin is not nothing:
                same_secrets()
            end()
            until(over, "everything ended")
            for each in sessions:
                each.wait(PATIENCE)
        except (AssertionError, OSError, ValueError, subprocess.TimeoutExpired) as error:
            wrong.append(str(error))
        took = time.monotonic() - begun
        left = leftovers(wanted, since, full)
        tidy()
        return {"agent": AGENT, "cause": cause, "seconds": round(took, 2), "looked": round(time.monotonic() - begun - took, 2),
                "full": full, "left": left, "wrong": wrong}


def it_finds(wanted: dict[str, bytes]) -> None:
    """The search is worth nothing if it would not find: what lies in the open vault, in /dev/shm, in another process."""
    seen = in_files(map(str, secrets()), wanted)
    assert len(seen) >= len(expected), f"the search does not find what is in the vault: {seen}"
    planted, token = f"/dev/shm/rounds-{AGENT}", os.urandom(16).hex().encode()
    Path(planted).write_bytes(token)
    other = subprocess.Popen(["sleep", "60"], env={"PLANTED": token.decode()})
    try:
        assert in_files(files(memory_backed()), {"token": token}) == [f"token in {planted}"], "/dev/shm is not searched"
        assert in_processes({"token": token}), "the memory of processes is not searched"
    finally:
        os.unlink(planted)
        other.kill()
        other.wait()


def tidy() -> None:
    """Whatever a failed round left, so that the next one is judged by itself."""
    sh("systemctl", "stop", SERVICE, VAULT, *session_units(), check=False)
    sh("systemctl", "reset-failed", SERVICE, VAULT, check=False)
    for each in sessions:
        each.kill()
        each.wait()
    sessions.clear()


def without_preflight() -> None:
    for path in map(Path, DROP_INS):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[Service]\nExecStartPre=\n")
    sh("systemctl", "daemon-reload")


def with_preflight() -> None:
    for path in DROP_INS:
        os.unlink(path)
    sh("systemctl", "daemon-reload")


def main() -> None:
    rounds = json.load(sys.stdin)
    without_preflight()
    order = [cause for turn_ in range(max(rounds.values())) for cause in rounds if rounds[cause] > turn_]
    tidy()
    service()
    expected.update(digests())
    wanted = needles()
    print(json.dumps({"agent": AGENT, "secrets": expected}), flush=True)
    it_finds(wanted)
    stop()
    until(lambda: state(VAULT) == "inactive", "the vault closed")
    for number, cause in enumerate(order, 1):
        print(json.dumps(one(cause, number, wanted)), flush=True)
    with_preflight()
    service()
    same_secrets()


if __name__ == "__main__":
    main()
