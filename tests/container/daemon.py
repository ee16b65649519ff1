# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Docker daemon: the one that answers, else one of our own for as long as it is needed."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed import run
from testbed.show import Failure, say

DATA = Path(__file__).resolve().parents[2] / "build" / "docker"
PATIENCE = 60
# The containers have no network of their own, so the machine's bridges and packet filter stay as they are.
ALONE = ("--bridge=none", "--iptables=false", "--ip6tables=false")
# Twice the default: a busy machine may take longer than the 15 s that dockerd gives its containerd.
# Then, what overlayfs refuses (a container's own root, some file systems) plain copies still do.
DRIVERS: tuple[tuple[str, ...], ...] = ((), (), ("--storage-driver=vfs",))


def answers(host: str) -> bool:
    environment = {**os.environ, "DOCKER_HOST": host} if host else dict(os.environ)
    try:
        asked = subprocess.run(["docker", "version"], capture_output=True, env=environment, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return False
    return asked.returncode == 0


def _wait(process: subprocess.Popen[bytes], host: str) -> bool:
    """Whether the daemon came up; False as soon as it has ended."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        if answers(host):
            return True
        time.sleep(0.5)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _start(run_directory: Path, host: str, driver: tuple[str, ...]) -> subprocess.Popen[bytes] | None:
    """Start our own daemon. None if it does not come up with this storage driver."""
    argv = [
        "dockerd", f"--host={host}", f"--data-root={DATA}", f"--exec-root={run_directory}/exec",
        f"--pidfile={run_directory}/pid", *ALONE, *driver,
    ]
    environment = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
    with (run_directory / "log").open("ab") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
    try:
        if _wait(process, host):
            return process
    except BaseException:
        _stop(process)
        raise
    _stop(process)
    return None


def _own(run_directory: Path) -> tuple[subprocess.Popen[bytes], str]:
    host = f"unix://{run_directory}/docker.sock"
    for driver in DRIVERS:
        process = _start(run_directory, host, driver)
        if process:
            return process, host
    log = (run_directory / "log").read_text(errors="replace")
    raise Failure(run.explain("starting a docker daemon", log))


@contextmanager
def _alone() -> Iterator[None]:
    """One daemon at a time on our data: a second would wait for the first one's databases, and then give up."""
    DATA.mkdir(parents=True, exist_ok=True)
    with (DATA / ".cordon-lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure(f"another container scenario is at work in {DATA}; wait for it to end") from None
        yield


@contextmanager
def daemon() -> Iterator[str]:
    """DOCKER_HOST of a daemon that answers. Ours is stopped at the end, with its containers."""
    run.need_programs({"docker": "docker.io"})
    standing = os.environ.get("DOCKER_HOST", "")
    if answers(standing):
        yield standing or "unix:///var/run/docker.sock"
        return
    if os.geteuid() != 0:
        raise Failure("no docker daemon answers and only root can start one: start docker, or run this as root")
    run.need_programs({"dockerd": "docker.io"})
    with _alone(), _ours() as host:
        yield host


@contextmanager
def _ours() -> Iterator[str]:
    # A short path: a unix socket's name has 107 characters at most, unix(7).
    run_directory = Path(tempfile.mkdtemp(prefix="cordon-docker."))
    try:
        process, host = _own(run_directory)
        say(f"docker: started a daemon of our own ({host})")
        try:
            yield host
        finally:
            _stop(process)
    finally:
        shutil.rmtree(run_directory, ignore_errors=True)
