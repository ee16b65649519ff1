# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""gocryptfs_vault, each state four ways: in check mode, for real, again, and again in check mode."""

from __future__ import annotations

import collections
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .host import Failed, Host, sh

CIPHER, KEYS = Path("/var/lib/cordon/vault/scout"), Path("/etc/cordon/vault")
SECRETS = {"token": "canary-value"}
OLD, NEW = "the old password of scout", "the new password of scout"
# A password deserves a costly derivation; that it gets one is tested once.
QUICK: dict[str, Any] = {"scrypt_log_n": 10}


def state_of_disk() -> dict[str, Any]:
    """Every file of ours, with owner and mode, and its content; the lock is no state."""
    found = {}
    for top in ("/etc/cordon", "/var/lib/cordon", "/srv/agents"):
        for parent, directories, files in os.walk(top):
            for path in [Path(parent, name) for name in directories + files if not name.endswith(".lock")]:
                seen = path.lstat()
                content = path.read_bytes() if path.is_file() else b""
                found[str(path)] = (seen.st_mode, seen.st_uid, seen.st_gid, content)
    return found


def four_ways(call: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Return the result of the real run; it is what the check said, and nothing is left to do after it."""
    before = state_of_disk()
    planned = call(check=True)
    assert state_of_disk() == before, "the check changed something"
    done = call(check=False)
    assert planned["changed"] and done["changed"]
    assert planned["steps"] == done["steps"]
    assert planned["diff"] == done["diff"]
    after = state_of_disk()
    for check in (False, True):
        again = call(check=check)
        assert (again["changed"], again["steps"]) == (False, [])
    assert state_of_disk() == after
    return done


@pytest.mark.parametrize(
    ("unlock", "arguments", "log_n"),
    [
        ("sealed", {}, 10),
        ("sealed", {"seal": "openssl"}, 10),
        ("sealed", {"scrypt_log_n": 12}, 12),
        ("operator", {"passwords": {"scout": OLD}}, 16),
    ],
)
def test_present_makes_a_vault_that_opens(host: Host, unlock: str, arguments: dict[str, Any], log_n: int) -> None:
    done = four_ways(lambda check: host.vault(check=check, unlock=unlock, **arguments))
    (vault,) = done["vaults"]
    assert (vault["unlock"], vault["cipher"], vault["scrypt_log_n"]) == (unlock, "AES-GCM", log_n)
    assert (vault["mounted"], vault["size"] > 300, "HKDF" in vault["feature_flags"]) == (False, True, True)
    assert (KEYS / "scout.cred").exists() == (unlock == "sealed")
    assert "i" in sh("lsattr -d /srv/agents/scout/.vault").stdout.split()[0]
    if arguments.get("seal") != "openssl":
        assert host.read(password=OLD if unlock == "operator" else None) == {}


@pytest.mark.parametrize(
    ("cipher", "shown", "flag"),
    [("aes-siv", "AES-SIV", "AESSIV"), ("xchacha", "XChaCha20-Poly1305", "XChaCha20Poly1305")],
)
def test_the_cipher_is_chosen_when_a_vault_is_made_and_kept(host: Host, cipher: str, shown: str, flag: str) -> None:
    done = host.vault(cipher=cipher)
    assert done["vaults"][0]["cipher"] == shown
    host.secrets(SECRETS)
    again = host.vault(renew="master", cipher="aes-gcm")
    assert flag in again["vaults"][0]["feature_flags"]
    assert host.read() == SECRETS


def test_all_agents_in_one_call(host: Host) -> None:
    done = four_ways(lambda check: host.vault("scout", "scribe", check=check))
    assert [vault["name"] for vault in done["vaults"]] == ["scout", "scribe"]
    assert host.vault("scout")["orphans"] == ["scribe"]


def test_an_unchanged_run_starts_no_program(host: Host, identity: tuple[str, Path], tmp_path: Path) -> None:
    given: dict[str, Any] = {"agents": [host.agent(), host.agent("scribe")], "escrow_recipients": [identity[0]]}
    host.module("gocryptfs_vault", **given)
    trace = tmp_path / "trace"
    wrap = ["strace", "-f", "-e", "trace=execve", "-o", str(trace)]
    assert not host.module("gocryptfs_vault", wrap=wrap, **given)["changed"]
    started = [line for line in trace.read_text().splitlines() if "execve(" in line and "= 0" in line]
    assert len(started) == 1, "the module itself"


# --- What is asked for ------------------------------------------------------------------------------


@pytest.mark.parametrize("home", ["/srv/agents/scout/", "/srv/agents/../agents/scout", "/srv/link/scout"])
def test_a_home_by_another_path_is_refused(host: Host, home: str) -> None:
    """The mount table does not have it, so an open vault looked closed: a new master key took its files from under a session."""
    host.vault()
    sh("ln -sfn agents /srv/link")
    agents = [{**host.agent(), "home": home}]
    with host.opened():
        for check in (True, False):
            with pytest.raises(Failed, match=r"its home .* is really /srv/agents/scout, and the mount table knows that path"):
                host.module("gocryptfs_vault", check, agents=agents, renew="master", seal="host")
            with pytest.raises(Failed, match="is really /srv/agents/scout"):
                host.module("vault_backup", check, agents=agents, state="restored", archive="/srv/none.tar")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../scout", "Scout"])
def test_a_name_that_is_none_is_refused(host: Host, name: str) -> None:
    """With an empty one the vault would be the directory of all vaults."""
    host.vault()
    before = state_of_disk()
    for check in (True, False):
        with pytest.raises(Failed, match="is no agent's name"):
            host.module("gocryptfs_vault", check, agents=[{**host.agent(), "name": name}], state="absent", confirm=[name])
        with pytest.raises(Failed, match="is no agent's name"):
            host.secrets({"token": "x"}, check, name)
    assert state_of_disk() == before


def test_an_agent_that_is_named_twice_is_refused(host: Host) -> None:
    """The run would wait for the lock that it holds itself."""
    for check in (True, False):
        with pytest.raises(Failed, match="agents: scout is named 2 times"):
            host.vault("scout", "scout", check=check)


# --- Keys and passwords -----------------------------------------------------------------------------


def test_a_new_sealed_key_opens_what_the_old_one_opened_and_the_old_one_nothing(host: Host) -> None:
    host.vault()
    host.secrets(SECRETS)
    old, escrowed = host.key(), master(host.key())
    before = state_of_disk()
    assert host.vault(renew="password", check=True)["steps"] == ["scout: put the vault under a new key"]
    assert state_of_disk() == before
    done = host.vault(renew="password", by="ann", reason="yearly")
    assert host.key() != old
    assert master(host.key()) == escrowed, "the master key changed with the password"
    with pytest.raises(AssertionError, match=r"Password incorrect"):
        host.read(password=old)
    assert host.read() == SECRETS
    assert [(entry["what"], entry["act"], entry["by"], entry["reason"]) for entry in done["rotations"]] == [
        ("vault key", "renewed", "ann", "yearly")
    ]
    assert host.rotations()[-1] == done["rotations"][0]


def master(line: str, cipher: Path = CIPHER) -> str:
    return sh(f"gocryptfs-xray -dumpmasterkey {cipher}/gocryptfs.conf", f"{line}\n").stdout.strip()


def test_a_new_key_does_not_disturb_an_open_session(host: Host) -> None:
    host.vault()
    host.secrets(SECRETS)
    with host.opened() as point:
        held = (point / "token").open()
        host.vault(renew="password")
        assert held.read() == (point / "token").read_text() == SECRETS["token"]
        held.close()


def test_an_operators_password_is_changed_once(host: Host) -> None:
    host.vault(unlock="operator", passwords={"scout": OLD}, **QUICK)

    def change(check: bool) -> dict[str, Any]:
        given = {"passwords": {"scout": OLD}, "new_passwords": {"scout": NEW}}
        return host.vault(check=check, unlock="operator", renew="password", **given, **QUICK)

    four_ways(change)
    assert host.read(password=NEW) == {}
    with pytest.raises(AssertionError, match=r"Password incorrect"):
        host.read(password=OLD)


@pytest.mark.parametrize("renew", ["password", "master"])
def test_a_wrong_password_changes_nothing(host: Host, renew: str) -> None:
    host.vault(unlock="operator", passwords={"scout": OLD}, **QUICK)
    before = state_of_disk()
    for check in (True, False):
        with pytest.raises(Failed, match=r"none of password opens it. A wrong password: give the right one"):
            host.vault(
                check=check, unlock="operator", renew=renew, passwords={"scout": "a guess"}, new_passwords={"scout": NEW}
            )
    assert state_of_disk() == before


def test_a_vault_goes_from_sealed_to_operator_and_back(host: Host) -> None:
    host.vault()
    host.secrets(SECRETS)
    with pytest.raises(Failed, match=r"a sealed key opens it, .*passwords.scout"):
        host.vault(unlock="operator")
    four_ways(lambda check: host.vault(check=check, unlock="operator", passwords={"scout": OLD}, **QUICK))
    assert not (KEYS / "scout.cred").exists()
    assert host.read(password=OLD) == SECRETS
    with pytest.raises(Failed, match=r"scout.cred is missing"):
        host.vault()
    four_ways(lambda check: host.vault(check=check, passwords={"scout": OLD}))
    assert host.read() == SECRETS


def test_an_operators_vault_is_kept_in_order_without_its_password(host: Host) -> None:
    """A run that nobody attends mends what needs no password; what needs it is an error, and says what."""
    with pytest.raises(Failed, match=r"its password is needed, because it is to be made: give passwords.scout"):
        host.vault(unlock="operator")
    host.vault(unlock="operator", passwords={"scout": OLD}, **QUICK)
    assert not host.vault(unlock="operator")["changed"]
    sh(f"chmod 755 {CIPHER}")
    assert host.vault(unlock="operator")["steps"] == ["scout: give the vault and its key to root alone"]


# --- A new master key -------------------------------------------------------------------------------


def stored_owners() -> collections.Counter[tuple[int, int]]:
    """How many of the vault's encrypted files and directories have which owner and mode; what gocryptfs keeps is left out."""
    paths = [CIPHER, *(path for path in CIPHER.rglob("*") if not path.name.startswith("gocryptfs."))]
    return collections.Counter((seen.st_uid, seen.st_mode & 0o777) for seen in (path.lstat() for path in paths))


def test_a_new_master_key_and_everything_is_copied(host: Host) -> None:
    host.vault()
    host.secrets(SECRETS)
    with host.opened() as point:
        own = host.make_own(point)
        host.as_agent(f"mkdir -p {own}/sub/deep && echo mine > {own}/sub/deep/file && ln -s ../../token {own}/sub/link")
        host.as_agent(f"chmod 640 {own}/sub/deep/file; touch -d 2020-01-01 {own}/sub/deep/file; mkfifo {own}/pipe")
        host.as_agent(f"truncate -s 3M {own}/sparse; setfattr -n user.note -v kept {own}/sparse", check=False)
    owners = stored_owners()
    old_key, old_master = host.key(), master(host.key())
    host.vault(renew="master", check=True)
    assert master(host.key()) == old_master
    done = host.vault(renew="master")
    assert [entry["what"] for entry in done["rotations"]] == ["master key"]
    assert host.key() != old_key
    assert master(host.key()) != old_master
    with host.opened() as point:
        seen = (own / "sub/deep/file").stat()
        assert ((own / "sub/deep/file").read_text(), seen.st_mode & 0o777, int(seen.st_mtime)) == (
            "mine\n", 0o640, int(sh("date -d 2020-01-01 +%s").stdout)
        )  # fmt: skip
        assert os.readlink(own / "sub/link") == "../../token"
        assert (own / "pipe").is_fifo() and (own / "sparse").stat().st_size == 3 << 20
        assert (point / "token").read_text() == SECRETS["token"]
    assert stored_owners() == owners and set(owners) == {(0, 0o700), (0, 0o400), (61200, 0o700), (61200, 0o755), (61200, 0o640),
                                                         (61200, 0o644), (61200, 0o777)}
    assert not list(CIPHER.parent.glob(".*.new"))
    assert not host.vault()["changed"]


def test_a_new_master_key_needs_the_vault_closed(host: Host) -> None:
    host.vault()
    host.secrets(SECRETS)
    before = master(host.key())
    with host.opened():
        for check in (True, False):
            with pytest.raises(Failed, match=r"in use by /srv/agents/scout/.vault.*rotate_end_sessions: true"):
                host.vault(renew="master", check=check)
    assert master(host.key()) == before


# --- Escrow -----------------------------------------------------------------------------------------


@pytest.fixture
def identity(tmp_path: Path) -> tuple[str, Path]:
    """Somebody outside the host: the age recipient, and the file with the identity."""
    path = tmp_path / "identity"
    sh(f"age-keygen -o {path}")
    found = re.search(r"public key: (age1\w+)", path.read_text())
    assert found
    return found[1], path


def decrypted(text: str, identity: Path) -> str:
    return sh(f"age --decrypt --identity {identity}", text).stdout


def test_the_escrow_opens_the_vault_without_its_key(host: Host, identity: tuple[str, Path]) -> None:
    recipient, private = identity
    done = four_ways(lambda check: host.vault(check=check, escrow_recipients=[recipient]))
    host.secrets(SECRETS)
    escrow = Path("/var/lib/cordon/vault-escrow/scout.age")
    assert (escrow.stat().st_mode & 0o777, escrow.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert done["escrow"]["scout"] == escrow.read_text()
    os.unlink(KEYS / "scout.cred")
    sh("mkdir -p /srv/probe")
    sh(
        f"gocryptfs -q -nosyslog -masterkey=stdin {CIPHER} /srv/probe > /dev/null 2>&1",
        decrypted(done["escrow"]["scout"], private),
    )
    try:
        assert Path("/srv/probe/token").read_text() == SECRETS["token"]
    finally:
        sh("umount /srv/probe")


def test_the_escrow_follows_the_master_key_and_the_recipients(host: Host, identity: tuple[str, Path], tmp_path: Path) -> None:
    recipient, private = identity
    first = host.vault(escrow_recipients=[recipient])["escrow"]["scout"]
    assert decrypted(first, private).strip() == master(host.key())
    host.vault(renew="password", escrow_recipients=[recipient])
    assert host.vault(escrow_recipients=[recipient])["escrow"]["scout"] == first, "a new key is no new master key"
    # Also where nobody thinks of the escrow, it stays right.
    host.vault(renew="master")
    second = host.vault(escrow_recipients=[recipient])
    assert not second["changed"]
    assert decrypted(second["escrow"]["scout"], private).strip() == master(host.key()) != decrypted(first, private).strip()
    sh(f"age-keygen -o {tmp_path}/other")
    other = re.findall(r"age1\w+", (tmp_path / "other").read_text())[0]
    third = four_ways(lambda check: host.vault(check=check, escrow_recipients=[other]))
    with pytest.raises(AssertionError, match=r"no identity matched"):
        decrypted(third["escrow"]["scout"], private)


def test_the_escrow_of_an_operators_vault_needs_its_password(host: Host, identity: tuple[str, Path]) -> None:
    host.vault(unlock="operator", passwords={"scout": OLD}, **QUICK)
    with pytest.raises(Failed, match=r"locked. An operator's password opens it, and none was given"):
        host.vault(unlock="operator", escrow_recipients=[identity[0]])
    done = host.vault(unlock="operator", escrow_recipients=[identity[0]], passwords={"scout": OLD}, **QUICK)
    assert decrypted(done["escrow"]["scout"], identity[1]).strip() == master(OLD)
    assert not host.vault(unlock="operator", escrow_recipients=[identity[0]])["changed"]


def test_an_escrow_of_an_earlier_master_key_is_told(host: Host, identity: tuple[str, Path]) -> None:
    """A renewal that was interrupted before its escrow; no recipients are given, as where somebody else keeps them."""
    host.vault(escrow_recipients=[identity[0]])
    assert "warnings" not in host.vault()
    note = Path("/var/lib/cordon/vault-escrow/scout.json")
    note.write_text(note.read_text().replace('"vault": "', '"vault": "0'))
    for check in (True, False):
        done = host.vault(check=check)
        assert not done["changed"] and re.search(r"vault-escrow/scout.age .*earlier master key", str(done["warnings"]))
    assert "warnings" not in host.vault(escrow_recipients=[identity[0]])
    assert "warnings" not in host.vault()


def test_a_vault_whose_key_is_lost_comes_back_by_its_escrow(host: Host, identity: tuple[str, Path]) -> None:
    done = host.vault(escrow_recipients=[identity[0]])
    host.secrets(SECRETS)
    os.unlink(KEYS / "scout.cred")
    with pytest.raises(Failed, match=r"restore the sealed key .*docs/vault.md, Escrow"):
        host.vault()
    # gocryptfs itself takes any master key, and the vault would be lost.
    with pytest.raises(Failed, match=r"the master key given is not its own: what is in the vault does not decrypt"):
        host.vault(master_keys={"scout": "0" * 64})
    before = state_of_disk()
    assert host.vault(master_keys={"scout": decrypted(done["escrow"]["scout"], identity[1])}, check=True)["changed"]
    assert state_of_disk() == before
    host.vault(master_keys={"scout": decrypted(done["escrow"]["scout"], identity[1])})
    assert host.read() == SECRETS
    assert not host.vault()["changed"]


# --- Absent -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("confirm", [[], ["scribe"], ["scout", "scribe"]])
def test_a_vault_is_not_taken_away_without_its_name(host: Host, confirm: list[str]) -> None:
    host.vault()
    before = state_of_disk()
    for check in (True, False):
        with pytest.raises(Failed, match=r"nothing was removed.*confirm: \[scout\]"):
            host.vault(state="absent", confirm=confirm, check=check)
    assert state_of_disk() == before


def test_absent_moves_the_vault_and_all_that_opens_it_to_the_backups(host: Host, identity: tuple[str, Path]) -> None:
    host.vault(escrow_recipients=[identity[0]])
    host.secrets(SECRETS)
    done = four_ways(lambda check: host.vault(state="absent", confirm=["scout"], check=check))
    kept = Path(done["backups"]["scout"])
    assert kept.parent == Path("/var/lib/cordon/vault-backup") and kept.parent.stat().st_mode & 0o777 == 0o700
    ends = ("cred", "conf", "age", "json")
    assert {path.name for path in kept.iterdir()} == {"vault", *(f"scout.{end}" for end in ends)}
    assert not any(path.name.startswith("scout") for path in KEYS.iterdir())
    assert not Path("/srv/agents/scout/.vault").exists()
    escrowed = decrypted((kept / "scout.age").read_text(), identity[1]).strip()
    assert master(host.key(path=f"{kept}/scout.cred"), kept / "vault") == escrowed


def test_absent_without_a_backup_leaves_nothing(host: Host, identity: tuple[str, Path]) -> None:
    host.vault("scout", "scribe", escrow_recipients=[identity[0]])
    four_ways(lambda check: host.vault(state="absent", confirm=["scout"], backup=False, check=check))
    assert [path for path in state_of_disk() if "scout" in path] == ["/srv/agents/scout"]
    assert not host.vault("scribe")["changed"]


def test_absent_where_no_file_can_be_immutable(host: Host) -> None:
    sh("mount -t ramfs ramfs /srv/agents/scout && chmod 755 /srv/agents/scout")
    try:
        host.vault()
        host.secrets(SECRETS)
        done = four_ways(lambda check: host.vault(state="absent", confirm=["scout"], check=check))
        assert Path(done["backups"]["scout"], "vault").is_dir() and not Path("/srv/agents/scout/.vault").exists()
    finally:
        sh("umount --lazy /srv/agents/scout")


@pytest.mark.parametrize("left", [".scout.partial", ".scout.restore"])
def test_absent_without_a_backup_takes_what_an_interruption_left_in_the_backups(host: Host, left: str) -> None:
    host.vault()
    sh(f"install -d -m 700 /var/lib/cordon/vault-backup/{left}; cp {KEYS}/scout.cred /var/lib/cordon/vault-backup/{left}")
    four_ways(lambda check: host.vault(state="absent", confirm=["scout"], backup=False, check=check))
    assert [path for path in state_of_disk() if "scout" in path] == ["/srv/agents/scout"]


def test_an_open_vault_is_not_taken_away(host: Host) -> None:
    host.vault()
    with host.opened(), pytest.raises(Failed, match=r"is mounted: close the vault first"):
        host.vault(state="absent", confirm=["scout"])


# --- Open and closed --------------------------------------------------------------------------------

@pytest.fixture
def systemd(host: Host) -> Path:
    """See Host.fake_systemd()."""
    return host.fake_systemd()


def is_open() -> bool:
    return "cordon-vault-scout" in Path("/proc/self/mountinfo").read_text()


def test_mounted_and_unmounted_by_the_unit(host: Host, systemd: Path) -> None:
    four_ways(lambda check: host.vault(state="mounted", check=check))
    assert is_open()
    done = four_ways(lambda check: host.vault(state="unmounted", check=check))
    assert (is_open(), done["ended"]) == (False, [])
    assert not (systemd / "calls").read_text().count("cordon-agent@scout.service\n")


def test_a_failure_says_which_sessions_were_ended_and_leaves_no_half_vault(host: Host, systemd: Path) -> None:
    host.vault()
    host.secrets(SECRETS)
    before = state_of_disk()
    host.vault(state="mounted")
    (systemd / "cordon-agent@scout.service").touch()
    copy = host.directory / "programs" / "cp"
    copy.write_text("#!/bin/sh\necho 'cp: No space left on device' >&2; exit 1\n")
    copy.chmod(0o755)
    with pytest.raises(Failed, match=r"No space left on device") as error:
        host.vault(renew="master", end_sessions=True)
    assert error.value.result["ended"] == ["cordon-agent@scout.service"]
    assert error.value.result["steps"] == ["scout: close the vault"]
    assert state_of_disk() == before, "the half copy keeps the disk full"


def test_a_vault_that_does_not_close_says_which_sessions_were_ended(host: Host, systemd: Path) -> None:
    host.vault(state="mounted")
    (systemd / "cordon-agent@scout.service").touch()
    umount = host.directory / "programs" / "umount"
    umount.write_text("#!/bin/sh\nexit 1\n")
    umount.chmod(0o755)
    with pytest.raises(Failed, match=r"systemctl .* stop -- cordon-vault@scout.service failed") as error:
        host.vault(state="unmounted", end_sessions=True)
    assert error.value.result["ended"] == ["cordon-agent@scout.service"]


def test_a_session_keeps_its_vault_unless_asked(host: Host, systemd: Path) -> None:
    host.vault(state="mounted")
    (systemd / "cordon-agent@scout.service").touch()
    for arguments in ({"state": "unmounted"}, {"renew": "master"}):
        for check in (True, False):
            with pytest.raises(Failed, match=r"in use by cordon-agent@scout.service.*end_sessions: true"):
                host.vault(check=check, **arguments)
    assert is_open()
    done = host.vault(renew="master", end_sessions=True)
    assert (is_open(), done["ended"]) == (False, ["cordon-agent@scout.service"])
    assert done["steps"] == ["scout: close the vault", "scout: copy everything into a new vault with a new master key"]


def test_without_systemd_nothing_is_opened_behind_its_back(host: Host) -> None:
    with pytest.raises(Failed, match=r"systemd does not run this host"):
        host.vault(state="mounted")
