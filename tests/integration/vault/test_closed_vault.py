# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who reads a secret while the vault is closed gets an error and is told how to open it: with a real gocryptfs, as root.

Nothing may pass for the secret, nothing may be written in its place, and a session must not notice the notices.
"""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_UNIT = runpy.run_path(str(Path(__file__).resolve().parents[2] / "unit" / "conftest.py"))

TELL = """
import subprocess, sys
from ansible_collections.cordon.agent_host.plugins.module_utils import _vault_notice, _vault_open
def run(argv, data=None):
    done = subprocess.run(argv, input=data, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr
_vault_open.ROOM = sys.argv[3]
_vault_open.enter_private_namespace(run)
print(",".join(_vault_notice.converge("scout", sys.argv[1], sys.argv[4:], sys.argv[2] == "check")))
"""


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Path]:
    """A directory with an encrypted directory `c` and its empty, immutable mount point `m`."""
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and /dev/fuse: it mounts")
    missing = [program for program in ("gocryptfs", "fusermount3", "chattr") if not shutil.which(program)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: apt-get install gocryptfs fuse3 e2fsprogs")
    for name in ("c", "m", "room"):
        (tmp_path / name).mkdir(mode=0o700)
    subprocess.run(["gocryptfs", "-init", "-q", "-scryptn", "10", "--", tmp_path / "c"], input="pw", text=True, check=True)
    subprocess.run(["chattr", "+i", tmp_path / "m"], check=True)
    yield tmp_path
    while os.path.ismount(tmp_path / "m"):
        subprocess.run(["umount", tmp_path / "m"], check=True)
    subprocess.run(["chattr", "-i", tmp_path / "m"], check=True)


@pytest.fixture
def tell(vault: Path) -> Callable[..., list[str]]:
    """tell(SECRET, ..., how="do"): what the module does, in a mount namespace of its own; the names it changed."""
    root = str(_UNIT["collection_root"]())

    def run(*secrets: str, how: str = "do") -> list[str]:
        argv = [sys.executable, "-B", "-c", TELL, str(vault / "m"), how, str(vault / "room"), *secrets]
        done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root})
        assert done.returncode == 0, done.stderr
        return [name for name in done.stdout.strip().split(",") if name]

    return run


def mount(vault: Path, *options: str) -> subprocess.CompletedProcess[str]:
    argv = ["gocryptfs", "-q", "-nosyslog", *options, "--", str(vault / "c"), str(vault / "m")]
    return subprocess.run(argv, input="pw", text=True, stdout=subprocess.DEVNULL)


def test_reading_is_an_error_and_a_look_tells_how_to_open_it(vault: Path, tell: Callable[..., list[str]]) -> None:
    assert tell("github_token", "url") == ["github_token", "url"]
    read = subprocess.run(["cat", vault / "m/github_token"], capture_output=True, text=True)
    assert read.returncode == 1 and read.stdout == ""
    listed = subprocess.run(["ls", "-l", vault / "m/github_token"], capture_output=True, text=True, check=True)
    assert "the vault is closed: 'cordonctl secrets scout' says how to open it" in listed.stdout


def test_nothing_can_be_written_in_the_place_of_a_secret(vault: Path, tell: Callable[..., list[str]]) -> None:
    """Through a link that leads nowhere a write makes the file it leads to, where it may."""
    assert tell("github_token") == ["github_token"]
    for name in ("github_token", "other"):
        with pytest.raises(PermissionError):
            (vault / "m" / name).write_text("plaintext")
    subprocess.run(["chattr", "-i", vault / "m"], check=True)
    (vault / "m/github_token").write_text("plaintext")  # so it was the flag that refused
    assert os.listdir(vault / "m") != ["github_token"]


def test_notices_follow_the_secrets_and_touch_nothing_when_they_are_right(vault: Path, tell: Callable[..., list[str]]) -> None:
    tell("a", "b")
    assert tell("a", "b") == []
    assert tell("b", "c", how="check") == ["a", "c"]
    assert sorted(os.listdir(vault / "m")) == ["a", "b"]
    assert tell("b", "c") == ["a", "c"]
    assert sorted(os.listdir(vault / "m")) == ["b", "c"]
    shown = subprocess.run(["lsattr", "-d", vault / "m"], capture_output=True, text=True, check=True).stdout
    assert "i" in shown.split()[0]


def test_they_are_put_below_an_open_vault_and_the_session_does_not_notice(vault: Path, tell: Callable[..., list[str]]) -> None:
    assert mount(vault).returncode == 0
    (vault / "m/github_token").write_text("the secret")
    assert tell("github_token") == ["github_token"]
    assert (vault / "m/github_token").read_text() == "the secret"
    assert os.listdir(vault / "m") == ["github_token"]
    subprocess.run(["umount", vault / "m"], check=True)
    assert os.path.islink(vault / "m/github_token")


def test_the_session_is_not_closed_by_a_caller_without_a_namespace_of_its_own(vault: Path) -> None:
    assert mount(vault).returncode == 0
    argv = [sys.executable, "-B", "-c", TELL.replace("_vault_open.enter_private_namespace(run)", ""), str(vault / "m"), "do",
            str(vault / "room"), "github_token"]
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(_UNIT["collection_root"]())})
    assert "that would close the session's vault" in done.stderr
    assert os.path.ismount(vault / "m")


def test_the_vault_opens_over_notices(vault: Path, tell: Callable[..., list[str]]) -> None:
    tell("github_token")
    assert mount(vault).returncode == 10, "gocryptfs no longer minds: vault-session can do without -nonempty"
    assert mount(vault, "-nonempty").returncode == 0
    assert os.listdir(vault / "m") == []
