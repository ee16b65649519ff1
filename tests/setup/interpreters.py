# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find a Python that an ansible-core release runs on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

# Controller Pythons of each release (its own metadata); the first one found is taken.
PYTHONS = {"2.19": ("3.11", "3.12", "3.13"), "2.21": ("3.13", "3.12", "3.14")}


def works(path: str, version: str) -> bool:
    """Whether `path` is that Python and can make a venv (a pyenv shim may exist and yet not run)."""
    probe = "import sys, ensurepip; print('%d.%d' % sys.version_info[:2])"
    try:
        run = subprocess.run([path, "-c", probe], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return run.returncode == 0 and run.stdout.strip() == version


def candidates(version: str) -> Iterator[str]:
    """Paths worth asking: PATH, the system's directories, then pyenv's versions."""
    directories = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/local/bin", "/usr/bin"]
    for directory in directories:
        found = shutil.which(f"python{version}", path=directory)
        if found:
            yield found
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    yield from (str(path) for path in sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"), reverse=True))


def find(core: str) -> str | None:
    """The real path of an interpreter for ansible-core `core`, or None."""
    for version in PYTHONS[core]:
        for path in candidates(version):
            if works(path, version):
                return subprocess.run(
                    [path, "-c", "import sys; print(sys.executable)"], capture_output=True, text=True, check=True
                ).stdout.strip()
    return None
