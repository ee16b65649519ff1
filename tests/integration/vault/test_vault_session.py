# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vault-session, the program of the vault's unit, on a vault that the modules made: which key, which lock, what is mounted."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .host import Host, sh

SESSION = Path(__file__).parents[3] / "roles" / "vault" / "files" / "vault-session"
POINT, KEYS, LOCK = Path("/srv/agents/scout/.vault"), Path("/etc/cordon/vault"), "/var/lib/cordon/vault/.scout.lock"
Session = Callable[..., str]


@pytest.fixture
def session(host: Host, tmp_path: Path) -> Iterator[Session]:
    """session(open or close, writable=...): what it said, after "rc=". The vault has one secret, `token`."""
    host.vault()
    host.secrets({"token": "canary"})
    # Who looks into this machine's swap is not installed here.
    sh("[ ! -e /proc/swaps ] || mount --bind /dev/null /proc/swaps")

    def run(verb: str, writable: str = "no") -> str:
        said = tmp_path / "said"
        with said.open("w") as stream:  # no pipe: gocryptfs goes on with it
            done = subprocess.run(["bash", str(SESSION), verb, "scout"], stdout=stream, stderr=stream,
                                  env={**os.environ, "CORDON_VAULT_WRITABLE": writable})
        return f"rc={done.returncode} {said.read_text()}"

    yield run
    run("close")
    sh("umount /proc/swaps", check=False)


def test_it_opens_read_only_over_the_notices(host: Host, session: Session) -> None:
    assert POINT.joinpath("token").is_symlink()
    assert session("open").startswith("rc=0")
    assert host.as_agent(f"cat {POINT}/token").stdout == "canary"
    with pytest.raises(OSError, match="Read-only file system"):
        (POINT / "own").mkdir()
    assert session("close").startswith("rc=0") and POINT.joinpath("token").is_symlink()


def test_a_writable_vault_has_a_directory_of_the_agents(host: Host, session: Session) -> None:
    for value in ("first", "second"):
        assert session("open", writable="yes").startswith("rc=0")
        seen = (POINT / "own").stat()
        assert (seen.st_uid, seen.st_mode & 0o777) == (61200, 0o700)
        host.as_agent(f"echo {value} >> {POINT}/own/mine")
        session("close")
    assert not host.vault()["changed"] and not host.secrets({"token": "canary"})["changed"]
    # And the other way round: what is there stays, and is read-only.
    assert session("open").startswith("rc=0")
    assert host.as_agent(f"cat {POINT}/own/mine").stdout == "first\nsecond\n"
    assert "Read-only" in host.as_agent(f"echo more >> {POINT}/own/mine", check=False).stderr


def test_what_stands_at_the_name_own_is_not_followed(host: Host, session: Session) -> None:
    with host.opened():
        sh(f"ln -s /etc/cordon-made-by-root {POINT}/own")
    assert "the directory /srv/agents/scout/.vault/own could not be made" in session("open", writable="yes")
    assert not os.path.lexists("/etc/cordon-made-by-root")


def test_plaintext_under_the_mount_point_keeps_it_closed(host: Host, session: Session) -> None:
    sh(f"chattr -i {POINT}; echo in-the-clear > {POINT}/leak")
    assert "leak lie there in the clear" in session("open")
    assert not os.path.ismount(POINT)


@pytest.mark.parametrize("first", ["that is gone", "of another vault", "that this host cannot unseal"])
def test_after_a_power_loss_the_other_key_opens_it(session: Session, first: str) -> None:
    os.rename(KEYS / "scout.cred", KEYS / "scout.cred.next")
    if first == "of another vault":
        sh(f"echo other | systemd-creds encrypt --with-key=host --name=cordon-vault-scout - {KEYS}/scout.cred")
    elif first == "that this host cannot unseal":
        (KEYS / "scout.cred").write_text("damaged")
    assert session("open").startswith("rc=0")
    assert (POINT / "token").read_text() == "canary"


def test_no_key_that_opens_it(session: Session) -> None:
    sh(f"echo other | systemd-creds encrypt --with-key=host --name=cordon-vault-scout - {KEYS}/scout.cred")
    said = session("open")
    assert said.startswith("rc=1") and "it could not be opened, for the reason above: see docs/vault.md" in said
    assert not os.path.ismount(POINT)


def test_it_waits_for_a_run_that_changes_the_vault_and_holds_no_lock_afterwards(session: Session) -> None:
    with subprocess.Popen(["flock", LOCK, "sleep", "3"]):
        time.sleep(0.5)
        begun = time.monotonic()
        assert session("open").startswith("rc=0")
        assert time.monotonic() - begun > 1.5
    # gocryptfs goes on; a rotation of the key must not wait for the end of the session.
    sh(f"flock --exclusive --nonblock {LOCK} true")


def test_two_that_open_do_not_wait_for_each_other(session: Session) -> None:
    with subprocess.Popen(["flock", "--shared", LOCK, "sleep", "20"]) as other:
        ended = threading.Timer(15, other.kill)
        ended.start()
        begun = time.monotonic()
        assert session("open").startswith("rc=0") and time.monotonic() - begun < 10
        ended.cancel()
        other.kill()
