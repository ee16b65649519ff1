# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What may be wrong with a vault: each fault is mended, or is an error with a remedy that works. No secret is lost."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .host import Failed, Host, end_gocryptfs, sh
from .test_secrets import ciphertext
from .test_states import state_of_disk

CIPHER, KEYS = Path("/var/lib/cordon/vault/scout"), Path("/etc/cordon/vault")
CONF, POINT = CIPHER / "gocryptfs.conf", Path("/srv/agents/scout/.vault")
SECRETS = {"token": "canary-value"}


@pytest.fixture
def filled(host: Host) -> Host:
    host.vault()
    host.secrets(SECRETS)
    return host


def refused(host: Host, says: str, **arguments: Any) -> str:
    """The module fails with these words, in check mode and for real, and touches nothing."""
    before = state_of_disk()
    for check in (True, False):
        with pytest.raises(Failed, match=says) as error:
            host.vault(check=check, **arguments)
    assert state_of_disk() == before
    return str(error.value)


def overwrite(path: Path, at: int, byte: bytes) -> None:
    raw = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(raw[:at] + byte + raw[at + 1 :])


def test_a_half_made_vault(host: Host) -> None:
    """By hand: our own init happens under another name."""
    host.vault()
    for missing in ("gocryptfs.conf", "gocryptfs.diriv"):
        kept = (CIPHER / missing).read_bytes()
        os.unlink(CIPHER / missing)
        assert "Nothing can be lost: rm -r /var/lib/cordon/vault/scout" in refused(host, "half-made vault")
        (CIPHER / missing).write_bytes(kept)
    os.unlink(CONF)
    shutil.rmtree(CIPHER)  # the remedy
    host.vault()
    assert host.read() == {}


@pytest.mark.parametrize("left", ["an empty directory", "half of a new vault"])
def test_what_an_interrupted_init_left_is_made_again(host: Host, left: str) -> None:
    host.vault()
    shutil.rmtree(CIPHER)
    if left == "an empty directory":
        CIPHER.mkdir()
    else:
        (CIPHER.parent / ".scout.new").mkdir()
        (CIPHER.parent / ".scout.new" / "gocryptfs.conf").write_text("{")
    assert "scout: create the vault" in host.vault()["steps"]
    assert host.read() == {}
    assert not (CIPHER.parent / ".scout.new").exists()


def failure(path: Path) -> int | None:
    """Why a file cannot be read."""
    try:
        path.read_text()
    except OSError as error:
        return error.errno
    return None


def test_a_dead_mount_is_removed(filled: Host) -> None:
    host = filled
    with host.opened() as point:
        # As after kill -9: the mount answers "Transport endpoint is not connected".
        end_gocryptfs("scout", here=True)
        # A request that it takes with it is answered by "Software caused connection abort".
        until = time.monotonic() + 10
        while (error := failure(point / "token")) != errno.ENOTCONN:
            assert error == errno.ECONNABORTED and time.monotonic() < until
            time.sleep(0.05)
        assert host.vault(check=True)["steps"] == ["scout: unmount the dead mount"]
        assert host.vault()["steps"] == ["scout: unmount the dead mount"]
        sh("mount -t tmpfs x /srv/agents/scout/.vault")  # for the fixture, which unmounts
    assert host.read() == SECRETS


def test_a_mount_point_with_files_in_it(filled: Host) -> None:
    host = filled
    sh(f"chattr -i {POINT}; echo in-the-clear > {POINT}/leak")
    assert f"chattr -i {POINT}, move them away, and replace the secrets in them" in refused(host, "leak lie there in the clear")
    os.unlink(POINT / "leak")
    assert host.vault()["steps"] == ["scout: make the mount point immutable"]


@pytest.mark.parametrize("immutable", [False, True])
def test_a_mount_point_of_somebody_else_is_given_to_root(host: Host, immutable: bool) -> None:
    """Where it cannot be immutable, nothing else keeps the agent from writing secrets there in the clear."""
    sh(f"install -d -m 755 -o agent-scout {POINT}")
    sh(f"chattr +i {POINT}" if immutable else "true")
    planned = host.vault(check=True)
    assert POINT.stat().st_uid != 0
    assert host.vault()["steps"] == planned["steps"] and "scout: make the mount point" in planned["steps"]
    seen = POINT.stat()
    assert (seen.st_uid, seen.st_gid, seen.st_mode & 0o7777) == (0, 0, 0o555)
    assert "i" in sh(f"lsattr -d {POINT}").stdout.split()[0]
    assert not host.vault()["changed"]


def test_the_name_of_somebody_elses_mount_is_no_hindrance(filled: Host) -> None:
    """Any user may mount by fusermount, at a path that is no UTF-8."""
    sh(r"mkdir -p $'/srv/\xff\u2028' && mount -t tmpfs x $'/srv/\xff\u2028'")
    try:
        assert not filled.vault()["changed"]
        assert not filled.secrets(SECRETS)["changed"]
    finally:
        sh(r"umount $'/srv/\xff\u2028'")


def test_something_else_is_mounted_at_the_mount_point(filled: Host) -> None:
    sh(f"mount -t tmpfs intruder {POINT}")
    refused(filled, f"intruder is mounted there, not the vault: umount {POINT}")
    sh(f"umount {POINT}")
    assert not filled.vault()["changed"]


@pytest.mark.parametrize(
    ("what", "byte"),
    [
        ('"EncryptedKey": "', b"~"), ('"Salt": "', b"~"), ('"N": ', b"9"), ('"FeatureFlags"', b"X"), ("{", b"("),
        ("GCMIV128", b"g"),
    ],
)  # fmt: skip
def test_one_damaged_byte_of_the_config(filled: Host, what: str, byte: bytes) -> None:
    """Without the copy beside it this would be the end of every secret in the vault."""
    host = filled
    text = CONF.read_text()
    at = text.index(what) + (len(what) if what.endswith((' "', ": ")) else 1 if what.startswith('"') else 0)
    overwrite(CONF, at, byte)
    assert CONF.read_text() != text
    with pytest.raises(AssertionError):
        host.read()
    said = refused(host, "gocryptfs.conf")
    remedy = f"cp /etc/cordon/vault/scout.conf {CONF}"
    assert remedy in said
    with pytest.raises(Failed, match=r"nothing was written|gocryptfs"):
        host.secrets({"token": "another"})
    sh(remedy)
    host.vault()
    assert host.read() == SECRETS
    assert not host.vault()["changed"]


def test_a_damaged_copy_is_made_again(filled: Host) -> None:
    overwrite(KEYS / "scout.conf", 40, b"~")
    assert filled.vault()["steps"] == ["scout: finish what was interrupted, and keep a copy of gocryptfs.conf"]
    assert (KEYS / "scout.conf").read_bytes() == CONF.read_bytes()
    assert filled.read() == SECRETS


def test_a_damaged_number_of_a_directory_loses_no_file(filled: Host) -> None:
    """With it gocryptfs shows the directory without its files, and says so in a log only: a copy would be an empty one."""
    host, top = filled, CIPHER / "gocryptfs.diriv"
    with host.opened() as point:
        own = host.make_own(point)
        host.as_agent(f"mkdir {own}/notes && echo mine > {own}/notes/{'a' * 200}")
    (deep,) = (path for path in CIPHER.rglob("gocryptfs.diriv") if list(path.parent.glob("gocryptfs.longname.*")))
    for path, many in ((top, 4), (deep, 1)):  # 4: what lies below is hidden too
        kept = path.read_bytes()
        overwrite(path, 3, bytes([kept[3] ^ 1]))
        before = state_of_disk()
        with pytest.raises(Failed, match=rf"{many} of the names in it do not decrypt.*Nothing was changed.*from a backup"):
            host.vault(renew="master")
        for check in (True, False):
            if path == top:
                with pytest.raises(Failed, match=r"2 of the names in it do not decrypt.*move /var/lib/cordon/vault/scout away"):
                    host.secrets({"token": "another"}, check=check)
        assert state_of_disk() == before
        path.write_bytes(kept)  # the remedy
    host.vault(renew="master")
    with host.opened():
        assert host.as_agent(f"cat {own}/notes/*").stdout == "mine\n"
    assert host.read() == SECRETS


def test_a_damaged_file_is_named_by_a_renewal_and_a_secret_is_written_anew(filled: Host) -> None:
    host = filled
    (path,) = (path for path in CIPHER.iterdir() if "." not in path.name)
    overwrite(path, 30, bytes([path.read_bytes()[30] ^ 1]))
    before = state_of_disk()
    with pytest.raises(Failed, match=r"not copied, and stays as it is: .*scout.old/token.*a secret is written anew by vault_s"):
        host.vault(renew="master")
    assert state_of_disk() == before
    host.secrets(SECRETS)  # the remedy
    host.vault(renew="master")
    assert host.read() == SECRETS


@pytest.mark.parametrize("name", ["gocryptfs.conf", "gocryptfs.diriv"])
def test_a_missing_part_is_no_reason_to_make_the_vault_anew(filled: Host, name: str) -> None:
    host, kept = filled, (CIPHER / name).read_bytes()
    os.unlink(CIPHER / name)
    refused(host, "missing or damaged: restore it from a backup")
    (CIPHER / name).write_bytes(kept)
    host.vault()
    assert host.read() == SECRETS


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda key: key.unlink(), "scout.cred is missing, but the vault that it opens is there"),
        (lambda key: overwrite(key, 60, b"~"), "cannot be unsealed on this host"),
    ],
)
def test_a_key_that_is_lost(filled: Host, damage: Callable[[Path], None], says: str) -> None:
    host, kept = filled, (KEYS / "scout.cred").read_bytes()
    damage(KEYS / "scout.cred")
    with pytest.raises(Failed, match=says):
        host.vault(renew="password")
    if not (KEYS / "scout.cred").exists():
        refused(host, says)
    (KEYS / "scout.cred").write_bytes(kept)
    host.vault()
    assert host.read() == SECRETS


RECIPIENT = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"  # of age's own documentation
OPERATOR: dict[str, Any] = {"unlock": "operator", "scrypt_log_n": 10}
WRONG = {"passwords": {"scout": "a guess"}}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"escrow_recipients": [RECIPIENT], **OPERATOR}, "locked. An operator's password opens it, and none was given"),
        ({"escrow_recipients": [RECIPIENT], **OPERATOR, **WRONG}, "none of password opens it"),
        (WRONG, "none of password opens it"),  # from an operator to sealed
        ({"master_keys": {"scout": "0" * 64}}, "the master key given is not its own"),
        ({"state": "mounted", **OPERATOR, **WRONG}, "none of password opens it"),
    ],
)
def test_a_check_fails_where_the_run_would_for_an_operators_vault(host: Host, arguments: dict[str, Any], says: str) -> None:
    host.vault(passwords={"scout": "right"}, **OPERATOR)
    host.secrets(SECRETS, passwords={"scout": "right"})
    if arguments.get("state"):
        host.fake_systemd()
        with pytest.raises(Failed, match=says):
            host.vault(check=True, **arguments)
    else:
        refused(host, says, **arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"renew": "password"}, {"renew": "master"}, {"escrow_recipients": [RECIPIENT]},
        {"passwords": {"scout": "new"}, **OPERATOR},
    ],
)  # fmt: skip
def test_a_check_fails_where_the_run_would_for_a_damaged_key(filled: Host, arguments: dict[str, Any]) -> None:
    overwrite(KEYS / "scout.cred", 60, b"~")
    refused(filled, "cannot be unsealed on this host|none of password opens it", **arguments)


def test_a_damaged_key_without_a_vault_is_named_with_the_way_to_a_new_one(host: Host) -> None:
    host.vault()
    overwrite(KEYS / "scout.cred", 60, b"~")
    with pytest.raises(Failed, match="cannot be unsealed on this host"):
        host.secrets(SECRETS, check=True)
    shutil.rmtree(CIPHER)
    refused(host, "There is no vault that it opens: for a new one move /etc/cordon/vault/scout.cred away")
    shutil.move(KEYS / "scout.cred", "/srv/away")  # the remedy
    host.vault()
    host.secrets(SECRETS)
    assert host.read() == SECRETS


@pytest.mark.parametrize(
    ("program", "arguments"),
    [("age", {"escrow_recipients": [RECIPIENT]}), ("systemd-creds", {"renew": "password"}), ("gocryptfs", {"renew": "password"})],
)
def test_a_program_that_repeats_a_key_does_not_show_it(filled: Host, program: str, arguments: dict[str, Any]) -> None:
    """Ansible knows the secrets among its options only: not the master key, nor a key that was just made."""
    filled.fake_systemd()
    path, real = filled.directory / "programs" / program, shutil.which(program)
    path.write_text(f'#!/bin/sh\n[ "$1" = decrypt ] && exec {real} "$@"\nsed "s/^/repeated: /" >&2; exit 3\n')
    path.chmod(0o755)
    with pytest.raises(Failed, match="repeated: ") as error:
        filled.vault(**arguments)
    assert not re.search("[0-9a-f]{64}", str(error.value.result))


def test_backups_on_another_disk_are_an_error_that_names_both_places(filled: Host) -> None:
    kept = state_of_disk()
    sh("mkdir /var/lib/cordon/vault-backup; mount -t tmpfs x /var/lib/cordon/vault-backup")
    with pytest.raises(Failed, match=r"cross-device link: '/var/lib/cordon/vault/scout' -> '/var/lib/cordon/vault-backup/.scout"):
        filled.vault(state="absent", confirm=["scout"])
    sh("umount /var/lib/cordon/vault-backup; rmdir /var/lib/cordon/vault-backup")
    assert state_of_disk() == kept and filled.read() == SECRETS


# --- A disk that is full ------------------------------------------------------------------------------


@contextlib.contextmanager
def full(top: str) -> Iterator[None]:
    """A small disk with the content of this directory, and no room on it."""
    sh(f"rm -rf /srv/before; mkdir -p {top}; cp -a {top} /srv/before")
    sh(f"mount -t tmpfs -o size=256k,mode=0700 small {top} && cp -a /srv/before/. {top}/")
    sh(f"dd if=/dev/zero of={top}/.fill.lock bs=4k", check=False)
    try:
        yield
    finally:
        os.unlink(f"{top}/.fill.lock")
        sh(f"rm -rf /srv/before; cp -a {top} /srv/before; umount --lazy {top}; find {top} -mindepth 1 -delete")
        sh(f"cp -a /srv/before/. {top}/")


@pytest.mark.parametrize("top", ["/var/lib/cordon/vault", "/etc/cordon/vault"])
@pytest.mark.parametrize("renew", ["password", "master"])
def test_a_renewal_on_a_full_disk_changes_nothing_and_names_the_place(filled: Host, top: str, renew: str) -> None:
    host = filled
    with full(top):
        before = state_of_disk()
        for _time in range(2):
            with pytest.raises(Failed, match=rf"(?i)no space left on device: '?{top}|{top}\S*: no space left on device"):
                host.vault(renew=renew)
            assert state_of_disk() == before
    host.vault(renew=renew)
    assert host.read() == SECRETS


def test_secrets_on_a_full_disk_keep_their_values_and_are_named(filled: Host) -> None:
    host = filled
    with full(str(CIPHER.parent)):
        with pytest.raises(Failed, match=r"secret token was not written: No space left on device. Look at .*scout \(df") as error:
            host.secrets({"token": "y" * 9000})
        assert error.value.result["rotations"] == []
        assert host.read() == SECRETS
    host.secrets({"token": "y" * 9000})
    assert host.read() == {"token": "y" * 9000}


def test_a_record_that_has_no_room_is_an_error(filled: Host) -> None:
    """The kernel writes the part that has room, and says how much only."""
    says = "No space left on device: what was done is not, or not wholly, recorded in: '/var/lib/cordon/rotations.jsonl'"
    with full("/var/lib/cordon"), pytest.raises(Failed, match=says):
        filled.module("vault_secrets", declared={"scout": []}, values={"scout": {}}, reason="long " * 2000)
    assert filled.read() == {}


# --- A new master key that was broken off between the exchange of the vaults and the copy of gocryptfs.conf ---------------

OLD, NEW, STAGING = "the old password", "the new password", CIPHER.parent / ".scout.new"
QUICK: dict[str, Any] = {"unlock": "operator", "scrypt_log_n": 10}
BOTH = {"passwords": {"scout": OLD}, "new_passwords": {"scout": NEW}}


@pytest.fixture
def broken_off(host: Host) -> Host:
    host.vault(passwords={"scout": OLD}, **QUICK)
    host.secrets(SECRETS, passwords={"scout": OLD})
    sh(f"cp -a {CIPHER} /srv/old; cp -a {KEYS}/scout.conf /srv/old.conf")
    host.vault(renew="master", **BOTH, **QUICK)
    sh(f"mv /srv/old {STAGING}; mv /srv/old.conf {KEYS}/scout.conf")
    return host


def test_the_copy_of_another_vault_is_no_remedy(broken_off: Host) -> None:
    """That copy over the only gocryptfs.conf with the new master key would be the end of every secret."""
    before = state_of_disk()
    for check in (True, False):
        with pytest.raises(Failed, match=r"interrupted: give the new password, in passwords.scout or new_") as error:
            broken_off.vault(check=check, passwords={"scout": OLD}, **QUICK)
        assert not re.search(r"\bcp\b|restore it from /etc", str(error.value))
    assert state_of_disk() == before
    with pytest.raises(Failed, match="none of password opens it") as error:
        broken_off.secrets(SECRETS, passwords={"scout": OLD})
    assert "restore it from /etc" not in str(error.value)


@pytest.mark.parametrize("given", [{}, {"passwords": {"scout": OLD}}, {"passwords": {"scout": NEW}}])
def test_the_copy_of_another_vault_is_no_remedy_for_what_cannot_be_read(broken_off: Host, given: dict[str, Any]) -> None:
    """The damaged one is the only one with the new master key: a bracket of it can be put right by hand."""
    overwrite(CONF, 0, b"(")
    before = state_of_disk()
    for check in (True, False):
        with pytest.raises(Failed, match="missing or damaged: restore it from a backup") as error:
            broken_off.vault(check=check, **given, **QUICK)
        assert not re.search(r"\bcp\b", str(error.value))
        assert given or "could not be told: vault of agent scout: it is locked" in str(error.value)
    assert state_of_disk() == before


@pytest.mark.parametrize("given", [{"passwords": {"scout": NEW}}, {"new_passwords": {"scout": NEW}}, BOTH])
def test_the_new_password_finishes_it(broken_off: Host, given: dict[str, Any]) -> None:
    done = broken_off.vault(**given, **QUICK)
    assert done["steps"] == ["scout: finish what was interrupted, and keep a copy of gocryptfs.conf"]
    assert not STAGING.exists() and broken_off.read(password=NEW) == SECRETS
    assert not broken_off.vault(**given, **QUICK)["changed"]


@pytest.mark.parametrize("renew", ["password", "master"])
def test_a_rotation_with_the_same_variables_finishes_it(broken_off: Host, renew: str) -> None:
    for _time in range(2):
        broken_off.vault(renew=renew, **BOTH, **QUICK)
        assert not STAGING.exists() and broken_off.read(password=NEW) == SECRETS
    given = {"passwords": {"scout": OLD}, "new_passwords": {"scout": NEW}}
    assert not broken_off.secrets(SECRETS, **given)["changed"]
    broken_off.secrets({"token": "another"}, **given)
    assert broken_off.read(password=NEW) == {"token": "another"}


def test_the_old_vault_stays_until_the_one_in_place_is_proved(broken_off: Host) -> None:
    """Somebody put the copy back all the same: now the old vault is the only one that anything opens."""
    sh(f"cp {KEYS}/scout.conf {CONF}")
    before = state_of_disk()
    with pytest.raises(Failed, match="nothing was removed") as error:
        broken_off.vault(**BOTH, **QUICK)
    assert state_of_disk() == before
    remedy = re.search(r"mv \S+ \S+ && mv \S+ \S+", str(error.value))
    assert remedy
    sh(remedy[0])
    broken_off.vault(**BOTH, **QUICK)
    assert broken_off.read(password=OLD) == SECRETS


def test_a_password_that_was_changed_half_is_changed_by_the_same_variables(host: Host) -> None:
    host.vault(passwords={"scout": OLD}, **QUICK)
    host.secrets(SECRETS, passwords={"scout": OLD})
    copy = (KEYS / "scout.conf").read_bytes()
    host.vault(renew="password", **BOTH, **QUICK)
    (KEYS / "scout.conf").write_bytes(copy)
    done = host.vault(renew="password", **BOTH, **QUICK)
    assert done["steps"] == ["scout: finish what was interrupted, and keep a copy of gocryptfs.conf"]
    assert host.read(password=NEW) == SECRETS and (KEYS / "scout.conf").read_bytes() == CONF.read_bytes() != copy


@pytest.mark.parametrize(
    "script",
    [
        f"chmod 755 {CIPHER}", f"chown agent-scout {CIPHER}", f"chmod 644 {KEYS}/scout.cred",
        f"chown agent-scout {KEYS}/scout.conf",
    ],
)  # fmt: skip
def test_who_else_could_get_at_it_is_shut_out(host: Host, script: str) -> None:
    host.vault()
    before = state_of_disk()
    sh(script)
    assert host.vault()["steps"] == ["scout: give the vault and its key to root alone"]
    assert state_of_disk() == before


def test_a_file_with_endless_holes_neither_fills_the_disk_nor_stops_a_renewal_without_a_word(filled: Host) -> None:
    host, archive = filled, Path("/var/lib/cordon/vault-backup/x.tar")
    with host.opened() as point:
        own = host.make_own(point)
        host.as_agent(f"truncate -s 900G {own}/holes; echo mine > {own}/mine")
    host.module("vault_backup", agents=[host.agent()], state="saved", archive=str(archive))
    assert archive.stat().st_size < 100_000
    before = ciphertext()
    with pytest.raises(Failed, match=r"longer than its disk is large.*'own/holes' has 966367641600 bytes.*remove or shorten it"):
        host.vault(renew="master")
    assert ciphertext() == before
    with host.opened():
        host.as_agent(f"truncate -s 3M {own}/holes")  # the remedy
    host.module("vault_backup", agents=[host.agent()], state="saved", archive=str(archive))
    host.vault(renew="master")
    host.module("vault_backup", agents=[host.agent()], state="restored", archive=str(archive), seal="host")
    with host.opened():
        assert (own / "mine").read_text() == "mine\n" and (own / "holes").stat().st_size == 3 << 20


def test_an_agent_writes_to_its_own_directory_of_the_open_vault_only(host: Host) -> None:
    """What gocryptfs alone sees to; that secrets are not removed or made writable is the unit's (molecule/vm)."""
    host.vault()
    host.secrets(SECRETS)
    with host.opened() as point:
        own = host.make_own(point)
        host.as_agent(f"echo mine > {own}/mine")
        assert "Permission denied" in host.as_agent(f"echo mine > {point}/mine", check=False).stderr
        assert "Permission denied" in host.as_agent(f"ls {CIPHER}", check=False).stderr
        assert "Permission denied" in host.as_agent(f"ls {own}", "scribe", check=False).stderr


def test_two_runs_at_once_do_not_get_in_each_others_way(host: Host, tmp_path: Path) -> None:
    """Both would seal a new key, and the vault of the first would be lost with the key of the second."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            host.vault()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert host.read() == {}


def test_a_vault_that_is_in_use_by_another_run_is_waited_for(filled: Host) -> None:
    script = "flock /var/lib/cordon/vault/.scout.lock sleep 4 & sleep 1; echo locked"
    sh(script.replace("sleep 4", "sleep 4 > /dev/null 2>&1"))
    begun = time.monotonic()
    assert not filled.vault()["changed"]
    assert time.monotonic() - begun > 1.5
