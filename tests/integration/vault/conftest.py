# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host of its own for vaults: this machine's gocryptfs, systemd-creds and age, and nothing written outside a tmpfs."""

from __future__ import annotations

import os
import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

# The unit tests know how to make the collection importable; it must be before host.py is read.
_UNIT = runpy.run_path(str(Path(__file__).resolve().parents[2] / "unit" / "conftest.py"))

from .host import Host, seclude

NEEDED = {
    "gocryptfs": "gocryptfs", "gocryptfs-xray": "gocryptfs", "fusermount3": "fuse3", "age": "age", "age-keygen": "age",
    "systemd-creds": "systemd", "openssl": "openssl", "strace": "strace", "setpriv": "util-linux",
}  # fmt: skip


@pytest.fixture(scope="session")
def machine() -> Iterator[None]:
    """This process, and all that it starts, in a mount namespace in which root may write to /etc and /var/lib."""
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and /dev/fuse: it mounts vaults")
    missing = sorted({package for program, package in NEEDED.items() if not shutil.which(program)})
    if missing:
        pytest.fail(f"missing: apt-get install {' '.join(missing)} (or make setup as root)")
    yield from seclude()


@pytest.fixture
def host(machine: None, tmp_path: Path) -> Iterator[Host]:
    """A host without vaults, with the agents scout and scribe."""
    made = Host(tmp_path, _UNIT["collection_root"]())
    made.clean()
    yield made
    made.clean()
