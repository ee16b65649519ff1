# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""200 rounds of vault-session with a real gocryptfs: nothing is left and no secret is lost, whatever ends it.

Without systemd and agents; with them it is molecule/vault/rounds.
"""

from __future__ import annotations

import collections
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SESSION = HERE.parents[2] / "roles" / "vault" / "files" / "vault-session"
ROUNDS = 200
MEGABYTES = 64


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and /dev/fuse: it mounts")
    programs = ("gocryptfs", "gocryptfs-xray", "fusermount3", "systemd-creds", "mke2fs", "unshare")
    missing = [program for program in programs if not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    image = tmp_path_factory.mktemp("rounds") / "image"
    with image.open("wb") as file:
        file.truncate(MEGABYTES << 20)
    subprocess.run(["/sbin/mke2fs", "-q", "-t", "ext4", image], check=True)
    own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    done = subprocess.run([*own, sys.executable, "-B", str(HERE / "session_rounds.py"), str(SESSION), str(image), str(ROUNDS)],
                          capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_nothing_is_left_and_no_secret_is_lost(rows: list[dict[str, Any]]) -> None:
    rounds = [row for row in rows if "cause" in row]
    count = collections.Counter(row["cause"] for row in rounds)
    print("\n".join(f"{cause:40}{number:5}" for cause, number in count.items()))
    assert len(rounds) == ROUNDS and min(count.values()) >= ROUNDS // len(count)
    assert [row for row in rounds if row["left"] or row["wrong"]] == []


def test_the_search_of_the_disk_finds_what_is_there(rows: list[dict[str, Any]]) -> None:
    """In the end the script writes the vault's key to a file; before that it was nowhere on the image."""
    (found,) = rows[-1]["planted"]
    assert found.startswith("vault key in")
