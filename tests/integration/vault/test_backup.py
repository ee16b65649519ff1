# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vault_backup: what it saves and where, what a rehearsal finds, and what it holds up meanwhile."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .host import Failed, Host, sh
from .test_states import state_of_disk

BACKUPS, ARCHIVE = Path("/var/lib/cordon/vault-backup"), "/var/lib/cordon/vault-backup/x.tar"
SECRETS = {"token": "canary-value"}


def backup(host: Host, state: str, archive: str = ARCHIVE, **arguments: Any) -> dict[str, Any]:
    given = {"agents": [host.agent()], "state": state, "archive": archive, **arguments}
    if state != "saved":
        given.setdefault("seal", "host")
    return host.module("vault_backup", **given)


@pytest.fixture
def filled(host: Host) -> Host:
    host.vault()
    host.secrets(SECRETS)
    return host


# --- Saved ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "refused"),
    [("chmod 1777 /srv/here", True), ("chmod 770 /srv/here", True), ("chown agent-scout /srv/here", True),
     ("chmod 755 /srv/here", False)],
)  # fmt: skip
def test_a_directory_that_is_there_keeps_its_mode(filled: Host, script: str, refused: bool) -> None:
    sh(f"rm -rf /srv/here; mkdir /srv/here; {script}")
    before = os.stat("/srv/here")
    for check in (True, False):
        with contextlib.ExitStack() as stack:
            if refused:
                stack.enter_context(pytest.raises(Failed, match="/srv/here: others may write to it"))
            backup(filled, "saved", "/srv/here/x.tar", check=check)
    after = os.stat("/srv/here")
    assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)
    assert os.path.exists("/srv/here/x.tar") != refused


def test_a_directory_that_is_missing_is_made_for_root_alone(filled: Host) -> None:
    sh("rm -rf /srv/new")
    backup(filled, "saved", "/srv/new/x.tar")
    assert (os.stat("/srv/new").st_mode & 0o777, os.stat("/srv/new/x.tar").st_mode & 0o777) == (0o700, 0o600)


def test_an_archive_needs_an_absolute_path(filled: Host) -> None:
    for state in ("saved", "rehearsed"):
        with pytest.raises(Failed, match=r"archive: x.tar is no absolute path"):
            backup(filled, state, "x.tar")


def test_a_host_without_agents_has_nothing_to_save(host: Host) -> None:
    assert not backup(host, "saved", agents=[])["changed"]
    assert not os.path.exists(ARCHIVE)


def test_an_archive_that_was_not_written_leaves_nothing(filled: Host) -> None:
    filled.fake_systemd()
    program = filled.directory / "programs" / "tar"
    program.write_text("#!/bin/sh\necho 'tar: No space left on device' >&2; exit 2\n")
    program.chmod(0o755)
    with pytest.raises(Failed, match=r"x.tar was not written: tar: No space left on device"):
        backup(filled, "saved")
    assert [path.name for path in BACKUPS.iterdir() if path.name != ".lock"] == []


@contextlib.contextmanager
def held(how: str) -> Iterator[None]:
    """The lock of the vault, as somebody else holds it."""
    argv = ["flock", how, "/var/lib/cordon/vault/.scout.lock", "bash", "-c", "echo held; read -r _line"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout and process.stdout.readline() == "held\n"
        try:
            yield
        finally:
            process.stdin.close()


@pytest.mark.parametrize("state", ["saved", "rehearsed"])
def test_an_agent_starts_while_its_vault_is_saved_or_rehearsed(filled: Host, state: str) -> None:
    """A session holds the lock shared while it opens; whoever changes the vault holds it alone."""
    backup(filled, "saved")
    with held("--shared"):
        backup(filled, state)


# --- Rehearsed and restored -------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["rehearsed", "restored"])
def test_a_password_that_a_restore_needs_is_missed_before_anything_is_replaced(host: Host, tmp_path: Path, state: str) -> None:
    sh(f"age-keygen -o {tmp_path}/identity")
    (recipient,) = re.findall(r"public key: (age1\w+)", (tmp_path / "identity").read_text())
    given: dict[str, Any] = {"unlock": "operator", "scrypt_log_n": 10, "passwords": {"scout": "old"}}
    escrow = host.vault(escrow_recipients=[recipient], **given)["escrow"]["scout"]
    host.secrets(SECRETS, passwords={"scout": "old"})
    agents = [host.agent(unlock="operator")]
    backup(host, "saved", agents=agents)
    masters = {"scout": sh(f"age --decrypt --identity {tmp_path}/identity", escrow).stdout.strip()}
    before = state_of_disk()
    with pytest.raises(Failed, match=r"passwords.scout is needed: what shall open it. Nothing was changed"):
        backup(host, state, agents=agents, master_keys=masters)
    assert state_of_disk() == before
    backup(host, state, agents=agents, master_keys=masters, passwords={"scout": "new"})
    assert host.read(password="old" if state == "rehearsed" else "new") == SECRETS


def repacked(script: str) -> None:
    """Unpack the archive, change what is in it, and pack it again."""
    unpack, pack = f"tar -xf {ARCHIVE}", f"tar --sparse -cf {ARCHIVE} *"
    sh(f"mkdir /srv/repacked; cd /srv/repacked && {unpack} && {script} && {pack}; rm -rf /srv/repacked")


SCOUT = "/var/lib/cordon/vault/scout"
STRANGE = {
    "the vault is a link to the one in use": f"rm -r scout; ln -s {SCOUT} scout",
    "the vault is a file": "rm -r scout; touch scout",
    "its key is a FIFO": "rm scout.cred; mkfifo scout.cred",
    "its key is a link": "rm scout.cred; ln -s /etc/cordon/vault/scout.cred scout.cred",
    "its key is a device": "rm scout.cred; mknod scout.cred c 1 5",
    "its key is endless": "truncate -s 100G scout.cred",
    "its configuration is a FIFO": "rm scout/gocryptfs.conf; mkfifo scout/gocryptfs.conf",
    "its configuration is a link": f"ln -sf {SCOUT}/gocryptfs.conf scout/gocryptfs.conf",
    "its IV is a FIFO": "rm scout/gocryptfs.diriv; mkfifo scout/gocryptfs.diriv",
    "its escrow is a link": "ln -s /etc/shadow scout.age",
}


@pytest.mark.parametrize("script", STRANGE.values(), ids=STRANGE.keys())
def test_what_no_backup_has_is_refused_before_it_is_read(filled: Host, script: str) -> None:
    backup(filled, "saved")
    repacked(script)
    before = state_of_disk()
    for state in ("rehearsed", "restored"):
        with pytest.raises(Failed, match=r"x.tar: scout\S* is not what a backup has there.*nothing was changed"):
            backup(filled, state, wrap=["timeout", "60"])
        assert state_of_disk() == before
    assert filled.read() == SECRETS


def test_an_archive_that_is_cut_off_is_refused(host: Host) -> None:
    """Between two files tar takes the end for the end, and what is left of the vault decrypts."""
    given: dict[str, Any] = {"unlock": "operator", "scrypt_log_n": 10, "passwords": {"scout": "pw"}}
    host.vault(**given)
    host.secrets({f"token{number}": "x" * 700 for number in range(9)}, passwords=given["passwords"])
    agents = [host.agent(unlock="operator")]
    backup(host, "saved", agents=agents)
    # gocryptfs's own files first, then the secrets, of which the last is taken.
    order = "scout scout/gocryptfs.* $(ls -d scout/* | grep -v /gocryptfs)"
    repacked(f"tar --no-recursion -cf /srv/x {order}")
    shutil.move("/srv/x", ARCHIVE)
    whole = Path(ARCHIVE).read_bytes()
    before = state_of_disk()
    last = 512 * int(sh(f"tar --list --block-number -f {ARCHIVE}").stdout.splitlines()[-2].split()[1].rstrip(":"))
    for end in (last, last + 700, 300, 0):
        Path(ARCHIVE).write_bytes(whole[:end])
        with pytest.raises(Failed, match=r"x.tar is cut off"):
            backup(host, "restored", agents=agents, passwords=given["passwords"])
        assert {**state_of_disk(), ARCHIVE: ""} == {**before, ARCHIVE: ""}, "half of it stayed on the disk"
    Path(ARCHIVE).write_bytes(whole)
    backup(host, "rehearsed", agents=agents, passwords=given["passwords"])


def test_a_full_disk_is_left_as_it_was(filled: Host) -> None:
    backup(filled, "saved")
    repacked("head -c 3000000 /dev/urandom > scout/big")
    sh(f"mkdir /srv/away; mv {BACKUPS}/* /srv/away; mount -t tmpfs -o size=1m tmpfs {BACKUPS}")
    try:
        with pytest.raises(Failed, match=r"tar --extract.*No space left on device"):
            backup(filled, "restored", "/srv/away/x.tar")
        assert [path.name for path in BACKUPS.iterdir()] == [".lock"]
    finally:
        sh(f"umount {BACKUPS}; rm -rf /srv/away")
    assert filled.read() == SECRETS


def master_key(host: Host) -> str:
    return sh("gocryptfs-xray -dumpmasterkey /var/lib/cordon/vault/scout/gocryptfs.conf", f"{host.key()}\n").stdout.strip()


@pytest.mark.parametrize("written", [lambda key: f"{key}\n", str.upper, lambda key: "-".join(re.findall("." * 8, key))])
def test_a_master_key_is_taken_as_gocryptfs_takes_it(filled: Host, written: Callable[[str], str]) -> None:
    """A rehearsal took each of these; the restore failed after the vaults had changed places, and no key opened the new one."""
    host = filled
    masters = {"scout": written(master_key(host))}
    backup(host, "saved")
    os.unlink("/etc/cordon/vault/scout.cred")
    sh(f"cd {BACKUPS}; tar --delete --file=x.tar scout.cred")
    assert backup(host, "rehearsed", master_keys=masters)["opened_by"] == {"scout": "master key"}
    backup(host, "restored", master_keys=masters)
    assert host.read() == SECRETS
    os.unlink("/etc/cordon/vault/scout.cred")
    host.vault(master_keys=masters)
    assert host.read() == SECRETS


@pytest.mark.parametrize("given", ["", "zz", "0" * 63, None, 5])
def test_what_is_no_master_key_is_refused(filled: Host, given: Any) -> None:
    backup(filled, "saved")
    before = state_of_disk()
    for check in (True, False):
        with pytest.raises(Failed, match=r"master_keys.scout: it is no master key: give the 64 hexadecimal digits"):
            backup(filled, "restored", check=check, master_keys={"scout": given})
        with pytest.raises(Failed, match=r"master_keys.scout: it is no master key"):
            filled.vault(check=check, master_keys={"scout": given})
    assert state_of_disk() == before


def test_a_restore_that_fails_says_what_is_where(filled: Host) -> None:
    """The second agent's; that of the first is done, and each old vault is kept somewhere."""
    host = filled
    host.vault("scribe")
    agents = [host.agent(), host.agent("scribe")]
    backup(host, "saved", agents=agents)
    stuck = "/var/lib/cordon/vault-escrow/scribe.age"
    sh(f"install -D -m 600 /dev/null {stuck}; mount --bind {stuck} {stuck}")
    try:
        with pytest.raises(Failed, match=r"agent scribe is in its place, and what was in use in (.*).*busy.*again") as error:
            backup(host, "restored", agents=agents)
    finally:
        sh(f"umount {stuck}")
    kept = re.findall(r"in use in (\S+),", str(error.value))
    assert Path(kept[0], "vault").is_dir() and Path(error.value.result["backups"]["scout"], "vault").is_dir()
    assert [entry["agent"] for entry in error.value.result["rotations"]] == ["scout"]
    backup(host, "restored", agents=agents)
    assert host.read() == SECRETS


def test_an_archive_that_has_no_room_leaves_no_half_of_it(filled: Host) -> None:
    filled.secrets({"token": "x" * 200000})
    sh("rm -rf /srv/here; install -d -m 700 /srv/here")
    backup(filled, "saved", "/srv/here/x.tar")
    sh(f"mkdir -p {BACKUPS}; mount -t tmpfs -o size=64k,mode=0700 small {BACKUPS}")
    try:
        for archive in ("/srv/here/x.tar", "/srv/here/unpacked"):
            sh("cd /srv/here; rm -rf unpacked; mkdir unpacked; tar -C unpacked -xf x.tar; mv unpacked/scout unpacked/vault")
            with pytest.raises(Failed, match="No space left on device"):
                backup(filled, "rehearsed", archive)
            assert [path.name for path in BACKUPS.iterdir()] == [".lock"]
    finally:
        sh(f"umount --lazy {BACKUPS}")


def test_a_vault_that_was_put_away_comes_back(filled: Host) -> None:
    host = filled
    kept = host.vault(state="absent", confirm=["scout"])["backups"]["scout"]
    host.vault()
    host.secrets({"token": "another"})
    assert backup(host, "rehearsed", kept)["opened_by"] == {"scout": "sealed key"}
    done = backup(host, "restored", kept)
    assert host.read() == SECRETS and Path(kept, "vault").is_dir()
    assert not host.vault()["changed"]
    assert Path(done["backups"]["scout"]) != Path(kept)
    backup(host, "restored", done["backups"]["scout"])
    assert host.read() == {"token": "another"}
    with pytest.raises(Failed, match="/srv/agents has no directory vault"):
        backup(host, "restored", "/srv/agents")
