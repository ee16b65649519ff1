# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that are either whole or absent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from testbed.show import Failure


def sync(path: Path) -> None:
    """Push a file or directory to the disk, so that a rename never publishes a half-written one."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Write beside the target and rename over it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        beside.rename(path)
    finally:
        beside.unlink(missing_ok=True)


def remove_own(directory: Path, patterns: Sequence[str]) -> None:
    """Remove what matches from a directory, and the directory if nothing else is in it: TESTBED_DIR may be mistyped
    and name a directory that holds somebody's work."""
    for pattern in patterns:
        for path in directory.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    if not any(directory.iterdir()):
        directory.rmdir()


def need_space(directory: Path, megabytes: int, purpose: str) -> None:
    """Refuse to begin what the disk cannot hold."""
    free = shutil.disk_usage(directory).free // 2**20
    if free < megabytes:
        raise Failure(
            f"{purpose} needs {megabytes} MB free in {directory}, and there are {free} MB. "
            "Free some space, or point XDG_CACHE_HOME (images) or TESTBED_DIR (guests) at a larger disk."
        )
