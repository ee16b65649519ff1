# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Helper programs: found before they are needed, ended when we are interrupted, quoted when they fail."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from testbed.show import Failure

_FULL = ("No space left on device", "Disk quota exceeded")


def need_programs(packages: Mapping[str, str]) -> None:
    """Refuse with one list of what is missing. `packages` maps a program to the Debian package that has it."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = sorted({package for program, package in packages.items() if not shutil.which(program, path=path)})
    if missing:
        raise Failure(f"these Debian packages are missing: install them with `apt-get install {' '.join(missing)}`")


def explain(purpose: str, log: str, lines: int = 15) -> str:
    """One message for a failed helper from its log."""
    if any(sign in log for sign in _FULL):
        return f"{purpose} failed: the disk is full. Free some space, or point XDG_CACHE_HOME at a larger disk."
    unreachable = [line.strip() for line in log.splitlines() if "E: Failed to fetch" in line]
    if unreachable:
        return f"{purpose} failed: the package archive does not serve it ({unreachable[0]}). See TESTBED_MIRROR."
    tail = "\n  ".join(log.strip().splitlines()[-lines:])
    return f"{purpose} failed; the end of its output:\n  {tail}"


def _stop(child: subprocess.Popen[bytes]) -> None:
    """End a helper and all that it started, giving it time to clean up after itself."""
    for number, patience in ((signal.SIGINT, 20), (signal.SIGKILL, 10)):
        try:
            os.killpg(child.pid, number)
            child.wait(patience)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def logged(
    argv: Sequence[str], where: Path, log: str, purpose: str, environment: Mapping[str, str] | None = None
) -> None:
    """Run a helper with its output in the file `log`. Raises Failure that quotes the end of it."""
    env = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin", "LC_ALL": "C", **(environment or {})}
    with (where / log).open("wb") as output:
        child = subprocess.Popen(
            argv, cwd=where, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            code = child.wait()
        except BaseException:
            _stop(child)
            raise
    if code:
        raise Failure(explain(purpose, (where / log).read_text(errors="replace")))


def quiet(argv: Sequence[str], purpose: str, where: Path | None = None) -> str:
    """Run a short helper and return its output. Raises Failure with its error output."""
    done = subprocess.run(argv, cwd=where, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(explain(purpose, done.stdout + done.stderr))
    return done.stdout
