# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make setup`: Debian packages and one virtual environment per ansible-core release.

Runs with any Python 3.9+ and the standard library. A second run only compares stamps.
Exit status: 0 all there; 1 something is missing and said so.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable, Optional

sys.path.insert(0, str(Path(__file__).resolve().parent))

import interpreters

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build"
LOG = BUILD / "logs" / "setup.log"
VENVS = {"2.19": BUILD / "venv", "2.21": BUILD / "venv-2.21"}
REQUIREMENTS = {
    "2.19": ("requirements.txt", "requirements-lint.txt"),
    "2.21": ("requirements.txt",),
}


class Missing(Exception):
    """Something that setup could not get; the message says what and what to do."""


class NoPython(Missing):
    """This machine has no interpreter that the release runs on."""


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


def logged(argv: list[str], what: str) -> None:
    """Run `argv` with its output in the log. Raises Missing with the log's tail."""
    with LOG.open("a") as log:
        log.write(f"\n$ {' '.join(argv)}\n")
        log.flush()
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        code = subprocess.run(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment).returncode
    if code:
        tail = "\n  ".join(LOG.read_text(errors="replace").splitlines()[-15:])
        raise Missing(f"{what} failed (exit {code}); the end of {LOG}:\n  {tail}")


# Debian packages


def wanted_packages() -> list[str]:
    lines = (HERE / "debian-packages.txt").read_text().splitlines()
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


def missing_packages(wanted: list[str]) -> list[str]:
    run = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *wanted], capture_output=True, text=True
    )
    have = {line.split()[0] for line in run.stdout.splitlines() if line.endswith(" installed")}
    return [name for name in wanted if name not in have]


def root_prefix() -> Optional[list[str]]:
    """How to become root without a question: nothing, sudo, or not at all (None)."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        return ["sudo", "-n"]
    return None


def prepare_packages() -> None:
    if not shutil.which("dpkg-query"):
        raise Missing(f"not a Debian system; install the equivalents of: {' '.join(wanted_packages())}")
    missing = missing_packages(wanted_packages())
    if not missing:
        return
    command = f"apt-get install --no-install-recommends {' '.join(missing)}"
    prefix = root_prefix()
    if prefix is None:
        raise Missing(f"Debian packages are missing and need root. Run:\n  sudo {command}")
    say(f"installing Debian packages: {' '.join(missing)}")
    logged([*prefix, "apt-get", "-q", "update"], "apt-get update")
    logged([*prefix, *command.split(), "-q", "-y"], "apt-get install")


# Virtual environments


def stamp_of(core: str, python: str) -> str:
    files = [HERE / name for name in (*REQUIREMENTS[core], f"constraints-{core}.txt")]
    digest = hashlib.sha256(python.encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def prepare_venv(core: str) -> None:
    """Make or update the virtual environment of `core` unless its stamp is current."""
    python = interpreters.find(core)
    if python is None:
        versions = ", ".join(interpreters.PYTHONS[core])
        raise NoPython(f"ansible-core {core} needs Python with ensurepip, one of {versions}; none in PATH or pyenv")
    venv = VENVS[core]
    stamp = venv / "stamp"
    if stamp.exists() and stamp.read_text() == stamp_of(core, python):
        return
    say(f"ansible-core {core}: installing into {venv.relative_to(BUILD.parent)} with {Path(python).name}")
    stamp.unlink(missing_ok=True)
    logged([python, "-m", "venv", *(["--clear"] if not (venv / "bin" / "pip").exists() else []), str(venv)], "venv")
    lists = [argument for name in REQUIREMENTS[core] for argument in ("-r", str(HERE / name))]
    constraints = ["-c", str(HERE / f"constraints-{core}.txt")]
    logged([str(venv / "bin" / "python"), "-m", "pip", "install", "-q", *lists, *constraints], f"pip for {core}")
    stamp.write_text(stamp_of(core, python))


def attempt(step: Callable[[], None]) -> bool:
    """Run one step; say what is missing. False if it is needed and could not be had."""
    try:
        step()
    except Missing as problem:
        print(f"setup: MISSING: {problem}", file=sys.stderr, flush=True)
        return False
    return True


def second_core() -> None:
    """The second core proves, nothing else needs it: without its Python its stages are skipped and say so."""
    try:
        prepare_venv("2.21")
    except NoPython as problem:
        say(f"skipped: {problem}")


def main() -> int:
    LOG.parent.mkdir(parents=True, exist_ok=True)
    LOG.write_text("")
    steps = (prepare_packages, lambda: prepare_venv("2.19"), second_core)
    return 0 if all([attempt(step) for step in steps]) else 1


if __name__ == "__main__":
    sys.exit(main())
