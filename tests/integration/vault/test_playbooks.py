# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks rotate, backup and restore, on this host: what they do, refuse and record."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .host import Host, sh
from .test_states import decrypted, identity, master, state_of_disk

__all__ = ["identity"]  # a fixture

OLD = {"token": "canary-old-token", "other": "canary-old-other"}
NEW = {"token": "canary-new-token", "other": "canary-new-other"}
CIPHER = Path("/var/lib/cordon/vault/scout")
BACKUPS = Path("/var/lib/cordon/vault-backup")


@pytest.fixture
def filled(host: Host) -> Host:
    host.vault("scout", "scribe")
    host.secrets(OLD)
    return host


def rotate(host: Host, check: bool = False, **variables: Any) -> str:
    """Run rotate.yml for scout. Return what it said; a failure raises with it."""
    given = {"rotate_agents": ["scout"], "rotate_reason": "an incident", "agent_host_by": "ann", **variables}
    return judged(host.playbook("rotate", check, **given))


class Refused(AssertionError):
    """A playbook failed; the text is all that it said."""


def judged(done: Any) -> str:
    for value in (*OLD.values(), *NEW.values()):
        assert value not in done.stdout + done.stderr, "a value was printed"
    if done.returncode != 0:
        raise Refused(done.stdout + done.stderr)
    return str(done.stdout)


def recorded(host: Host, since: int) -> list[tuple[str, ...]]:
    return [tuple(entry[key] for key in ("agent", "what", "act", "by", "reason")) for entry in host.rotations()[since:]]


# --- Rotation ---------------------------------------------------------------------------------------


def test_one_secret_is_rotated_under_an_open_session(filled: Host) -> None:
    host, since = filled, len(filled.rotations())
    given = {"rotate": "secrets", "rotate_secrets": ["token"], "vault_secrets": {"scout": {**OLD, "token": NEW["token"]}}}
    with host.opened() as point:
        before = state_of_disk()
        rotate(host, check=True, **given)
        assert state_of_disk() == before
        said = rotate(host, **given)
        assert (point / "token").read_text() == NEW["token"], "the session was interrupted, or reads the old value"
        assert (point / "other").read_text() == OLD["other"]
    assert recorded(host, since) == [("scout", "secret token", "changed", "ann", "an incident")]
    assert '"what": "secret token"' in said
    # Again: the value is the old one by now, and that is no rotation.
    with pytest.raises(Refused, match=r"Nothing was rotated: these secrets have that value already: scout: token"):
        rotate(host, **given)
    rotate(host, rotate_same=True, **given)
    assert len(recorded(host, since)) == 1


def test_a_brokered_secret_is_not_said_to_be_rotated(filled: Host) -> None:
    """It lies in no vault: the role firewall seals it for the proxy."""
    host, since = filled, len(filled.rotations())
    key = {"name": "api_key", "broker": {"host": "api.example.org", "header": "Authorization"}}
    manifest = [{"name": "scout", "command": ["/bin/true"], "egress": [{"name": "api.example.org"}],
                 "secrets": [{"name": "token"}, {"name": "other"}, key]}]  # fmt: skip
    given = {"agent_host_agents": manifest, "vault_secrets": {"scout": {**NEW, "api_key": "canary"}}}
    before = state_of_disk()
    with pytest.raises(Refused, match=r"Nothing was rotated: api_key has a broker.*cordon.agent_host.firewall"):
        rotate(host, rotate="secrets", rotate_secrets=["token", "api_key"], **given)
    assert state_of_disk() == before
    assert "Not rotated" not in rotate(host, rotate="secrets", rotate_secrets=["token"], **given)
    given["vault_secrets"] = {"scout": {"token": "canary-newer-token", "other": NEW["other"], "api_key": "canary"}}
    assert "Not rotated, because the proxy has them and no vault: api_key." in rotate(host, rotate="everything", **given)
    assert host.read() == {"token": "canary-newer-token", "other": NEW["other"]}
    assert not any("api_key" in what for _agent, what, *_others in recorded(host, since))


def test_a_vault_key_is_rotated_under_an_open_session(filled: Host) -> None:
    host, since, key = filled, len(filled.rotations()), filled.key()
    with host.opened() as point:
        rotate(host, rotate="password", check=True)
        assert host.key() == key
        rotate(host, rotate="password")
        assert (point / "token").read_text() == OLD["token"]
    assert host.key() != key
    assert host.read() == OLD
    assert recorded(host, since) == [("scout", "vault key", "renewed", "ann", "an incident")]


def test_after_an_incident_everything_is_new(filled: Host, identity: tuple[str, Path]) -> None:
    host = filled
    host.vault(escrow_recipients=[identity[0]])
    since, key, old_master = len(host.rotations()), host.key(), master(host.key())
    scribes = master(host.key("scribe"), CIPHER.parent / "scribe")
    given = {"rotate": "everything", "vault_secrets": {"scout": NEW}}
    with pytest.raises(Refused, match=r"these secrets have that value already: scout: other"):
        rotate(host, rotate="everything", vault_secrets={"scout": {**NEW, "other": OLD["other"]}})
    assert master(host.key()) == old_master, "half of a rotation was done"
    rotate(host, check=True, **given)
    rotate(host, **given)
    assert host.read() == NEW
    assert host.key() != key
    new_master = master(host.key())
    assert new_master != old_master
    escrow = Path("/var/lib/cordon/vault-escrow/scout.age").read_text()
    assert decrypted(escrow, identity[1]).strip() == new_master
    assert sorted(recorded(host, since)) == sorted(
        ("scout", what, act, "ann", "an incident")
        for what, act in (("master key", "renewed"), ("secret other", "changed"), ("secret token", "changed"))
    )
    assert master(host.key("scribe"), CIPHER.parent / "scribe") == scribes, "an agent that was not named"


def test_sessions_end_only_when_asked(filled: Host) -> None:
    host = filled
    units = host.fake_systemd()
    given = {"rotate": "everything", "vault_secrets": {"scout": NEW}}
    sh("systemctl start cordon-agent@scout.service", check=False)
    host.vault(state="mounted")
    (units / "cordon-agent@scout.service").touch()
    before = master(host.key())
    with pytest.raises(Refused, match=r"in use by cordon-agent@scout.service"):
        rotate(host, **given)
    assert master(host.key()) == before
    assert "systemctl start" not in (units / "calls").read_text()
    rotate(host, rotate_end_sessions=True, **given)
    assert master(host.key()) != before
    calls = (units / "calls").read_text()
    assert calls.index("stop -- cordon-vault@scout.service") < calls.index("systemctl start cordon-agent@scout.service")
    assert (units / "cordon-agent@scout.service").exists(), "the service was not started again"
    assert Path("/srv/agents/scout/.vault/token").read_text() == NEW["token"]


def test_everything_is_rotated_where_some_hosts_were_done_before(host: Host) -> None:
    """A run that failed on one host of a fleet is given again: the others have the new password by now."""
    manifest = [{"name": "scout", "command": ["/bin/true"], "secrets": [{"name": "token"}, {"name": "other"}],
                 "vault": {"unlock": "operator"}}]  # fmt: skip
    old, new = {"scout": "canary-old-password"}, {"scout": "canary-new-password"}
    host.vault(unlock="operator", passwords=old, scrypt_log_n=10)
    host.secrets(OLD, passwords=old)
    given = {"agent_host_agents": manifest, "vault_scrypt_log_n": 10, "rotate": "everything", "vault_passwords": old,
             "rotate_passwords": new, "vault_secrets": {"scout": NEW}}  # fmt: skip
    rotate(host, check=True, **given)
    rotate(host, **given)
    assert host.read(password=new["scout"]) == NEW
    with pytest.raises(Refused, match=r"these secrets have that value already: scout: other, token"):
        rotate(host, **given)
    said = rotate(host, rotate_same=True, **given)
    assert host.read(password=new["scout"]) == NEW
    assert old["scout"] not in said and new["scout"] not in said


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({}, "Say whose, what and why"),
        ({"rotate": "secrets"}, "Say whose, what and why"),
        ({"rotate": "password", "rotate_reason": " "}, "Say whose, what and why"),
        ({"rotate": "password", "rotate_reason": None}, "Say whose, what and why"),
        ({"rotate": "password", "rotate_agents": None}, "Say whose, what and why"),
        ({"rotate": "password", "rotate_agents": ["nobody"]}, "The manifest has no agent nobody"),
        ({"rotate": "password", "rotate_agents": '["scout"]'}, re.escape('The manifest has no agent [\\"scout\\"].')),
        ({"rotate": "secrets", "rotate_secrets": "token,tokn"}, "only.scout.tokn: the manifest does not declare it"),
        ({"rotate": "all"}, "value of rotate must be one of"),
    ],
)
def test_a_rotation_says_whose_what_and_why(filled: Host, variables: dict[str, Any], says: str) -> None:
    before = state_of_disk()
    with pytest.raises(Refused, match=says):
        rotate(filled, vault_secrets={"scout": NEW}, **variables)
    assert state_of_disk() == before


def test_names_may_be_text(filled: Host) -> None:
    """As -e rotate_agents=scout and a survey of AWX give them, and as Ansible reads them where it checks the arguments."""
    host, since = filled, len(filled.rotations())
    rotate(host, rotate="secrets", rotate_agents="scout", rotate_secrets="other, token", vault_secrets={"scout": NEW})
    assert [what for _agent, what, *_others in recorded(host, since)] == ["secret other", "secret token"]
    key = {"name": "api_key", "broker": {"host": "api.example.org", "header": "Authorization"}}
    manifest = [{"name": "scout", "command": ["/bin/true"], "egress": [{"name": "api.example.org"}], "secrets": [key]}]
    with pytest.raises(Refused, match=r"Nothing was rotated: api_key has a broker"):
        rotate(host, rotate="secrets", rotate_agents="scout", rotate_secrets="api_key", agent_host_agents=manifest)
    archive = saved(host, backup_agents="scribe")
    with pytest.raises(Refused, match=r"has no vault of agent scout"):
        restore(host, archive, restore_agents="scout", restore_rehearse="true")
    assert '"scribe": "sealed key"' in restore(host, archive, restore_agents="scribe", restore_rehearse="true")


# --- Backup and restore -----------------------------------------------------------------------------


def saved(host: Host, **variables: Any) -> Path:
    """Run backup.yml. Return the archive on the controller."""
    directory = host.directory / "controller"
    judged(host.playbook("backup", backup_directory=str(directory), **variables))
    (archive,) = (directory / "agenthost").iterdir()
    assert (directory / "agenthost").stat().st_mode & 0o777 == 0o700
    assert not list(BACKUPS.glob("*.tar")), "the archive stayed on the host"
    return archive


def restore(host: Host, archive: Path, check: bool = False, **variables: Any) -> str:
    given = {"restore_archive": str(archive), "restore_agents": ["scout"], "agent_host_by": "ann", **variables}
    return judged(host.playbook("restore", check, **given))


def test_a_rehearsed_restore_and_a_real_one(filled: Host) -> None:
    host = filled
    archive = saved(host)
    assert not any(value.encode() in archive.read_bytes() for value in OLD.values())
    old_key = host.key()
    host.secrets(NEW)
    host.vault(renew="master")
    before = state_of_disk()
    assert '"scout": "sealed key"' in restore(host, archive, restore_rehearse=True)
    assert '"scout": "sealed key"' in restore(host, archive, check=True)
    assert state_of_disk() == before
    since = len(host.rotations())
    restore(host, archive)
    assert host.read() == OLD
    assert host.key() == old_key
    assert recorded(host, since) == [("scout", "vault", "restored", "ann", f"restored from {archive.name}")]
    # What was in use is kept, with its key.
    (kept,) = BACKUPS.glob("scout-*")
    assert master(host.key(path=f"{kept}/scout.cred"), kept / "vault")
    assert not host.vault("scout", "scribe")["changed"]
    host.secrets({"token": OLD["token"]})
    assert host.read() == {"token": OLD["token"]}, "the restored vault forgot which secrets are managed"


@pytest.mark.parametrize("names", [[], "", None])
def test_without_a_name_all_are_saved(filled: Host, names: Any) -> None:
    """A survey's field that nobody filled in is empty, and a backup of nothing would look like one."""
    archive = saved(filled, backup_agents=names)
    assert '"scribe": "sealed key"' in restore(filled, archive, restore_agents=["scout", "scribe"], restore_rehearse=True)


def test_a_backup_that_cannot_be_fetched_leaves_nothing_on_the_host(filled: Host) -> None:
    """It would fill the disk, one failing run after another."""
    for part in ("controller", "controller/agenthost/x"):
        place = filled.directory / part
        place.parent.mkdir(parents=True, exist_ok=True)
        if part == "controller":
            place.write_text("a file where the directory is to be")
        else:
            sh(f"mount -t tmpfs -o size=4k tmpfs {place.parent}; head -c 4096 /dev/zero > {place}")
        try:
            with pytest.raises(Refused):
                judged(filled.playbook("backup", backup_directory=str(filled.directory / "controller")))
            assert not list(BACKUPS.glob("*.tar*"))
        finally:
            sh(f"umount {place.parent}", check=False)
            sh(f"rm -rf {filled.directory}/controller")


def test_a_host_that_lost_everything_gets_its_vaults_back(filled: Host) -> None:
    host = filled
    archive = saved(host)
    sh("chattr -i /srv/agents/*/.vault; rm -rf /var/lib/cordon /etc/cordon /srv/agents/*/.vault")
    restore(host, archive, restore_agents=["scout", "scribe"])
    assert host.read() == OLD
    assert host.read("scribe") == {}
    assert not host.vault("scout", "scribe")["changed"]


def test_another_host_needs_the_escrow(host: Host, identity: tuple[str, Path]) -> None:
    escrow = host.vault("scout", "scribe", escrow_recipients=[identity[0]])["escrow"]["scout"]
    host.secrets(OLD)
    archive = saved(host)
    sh("chattr -i /srv/agents/*/.vault; rm -rf /var/lib/cordon /etc/cordon /srv/agents/*/.vault")
    shutil.move("/var/lib/systemd/credential.secret", "/srv/credential.secret")
    try:
        with pytest.raises(Refused, match=r"nothing opens the vault of agent scout.*master_keys.scout from its escrow"):
            restore(host, archive)
        with pytest.raises(Refused, match=r"by this master key, which may be another vault's"):
            restore(host, archive, restore_master_keys={"scout": "0" * 64})
        assert not CIPHER.exists()
        said = restore(host, archive, restore_master_keys={"scout": decrypted(escrow, identity[1]).strip()})
        assert '"scout": "master key"' in said
        assert decrypted(escrow, identity[1]).strip() not in said
        assert host.read() == OLD
        assert not host.vault()["changed"]
    finally:
        shutil.move("/srv/credential.secret", "/var/lib/systemd/credential.secret")


def test_a_damaged_archive_is_found_before_anything_changes(filled: Host) -> None:
    host = filled
    archive = saved(host)
    secret = next(path for path in CIPHER.iterdir() if not path.name.startswith("gocryptfs"))
    raw = archive.read_bytes()
    at = raw.index(secret.read_bytes()) + 30
    archive.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    host.secrets(NEW)
    before = state_of_disk()
    for rehearse in (True, False):
        with pytest.raises(Refused, match=r"the check found damaged files"):
            restore(host, archive, restore_rehearse=rehearse)
    assert state_of_disk() == before
    assert not re.search(r"agenthost.*changed=[1-9]", host.playbook("restore").stdout)


def test_an_archive_without_the_agent_and_an_open_vault_are_errors(filled: Host) -> None:
    host = filled
    archive = saved(host, backup_agents=["scribe"])
    with pytest.raises(Refused, match=r"has no vault of agent scout"):
        restore(host, archive)
    with host.opened("scribe"), pytest.raises(Refused, match=r"systemd does not run this host|close the vault first"):
        restore(host, archive, restore_agents=["scribe"])
    assert not list(BACKUPS.glob(".*.incoming.tar"))


def test_an_archive_of_an_attacker_writes_nowhere_else(host: Host, tmp_path: Path) -> None:
    """Members that climb or follow links out of the place where they are unpacked."""
    host.vault()
    victim = Path("/etc/cordon-victim")
    victim.write_text("root's own\n")
    sh(f"mkdir -p {tmp_path}/scout; ln -s /etc {tmp_path}/scout/away; cp {CIPHER}/gocryptfs.* {tmp_path}/scout")
    sh(f"tar -cf {tmp_path}/evil.tar -C {tmp_path} scout")
    climb = "scout/../../../../../../etc/cordon-victim"
    sh(
        f"cd {tmp_path}; rm scout/away; mkdir scout/away; echo bad > scout/away/cordon-victim; echo bad > up; "
        f"tar -rf evil.tar scout/away/cordon-victim; tar -rPf evil.tar --transform 's,^up,{climb},' up"
    )
    assert climb in sh(f"tar -tPf {tmp_path}/evil.tar").stdout
    with pytest.raises(Refused):
        restore(host, tmp_path / "evil.tar")
    assert victim.read_text() == "root's own\n"


def on_fleet(host: Host, name: str, hosts: tuple[str, ...], *arguments: str, **variables: Any) -> Any:
    """Run a playbook on several hosts, each of which is this one."""
    collections = {"ANSIBLE_COLLECTIONS_PATH": str(host.root), "ANSIBLE_HOME": str(host.directory / "home")}
    given = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False,
             "agent_host_agents": [{"name": "scout", "command": ["/bin/true"]}], **variables}  # fmt: skip
    argv = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", ",".join((*hosts, "")), "-e", json.dumps(given)]
    environment = {**host.environment, **collections, "ANSIBLE_NOCOLOR": "1"}
    return subprocess.run([*argv, *arguments, f"cordon.agent_host.{name}"], capture_output=True, text=True, env=environment)


def test_an_archive_is_restored_on_its_own_host_only(filled: Host) -> None:
    host, fleet = filled, ("agenthost", "other")
    archive = saved(host)
    host.secrets(NEW)
    before = state_of_disk()
    given = {"restore_archive": str(archive), "restore_agents": ["scout"]}
    with pytest.raises(Refused, match=r"Nothing was restored.*of another host: other is.*-l HOST") as refused:
        judged(on_fleet(host, "restore", fleet, **given))
    assert "Bring the archive" not in str(refused.value) and state_of_disk() == before
    # One host may have another's archive, and many hosts may have each its own.
    assert '"scout": "sealed key"' in judged(on_fleet(host, "restore", fleet, "-l", "other", restore_rehearse=True, **given))
    for name in fleet:
        (host.directory / "each" / name).mkdir(parents=True)
        shutil.copy(archive, host.directory / "each" / name / "it.tar")
    given["restore_archive"] = f"{host.directory}/each/{{{{ inventory_hostname }}}}/it.tar"
    assert judged(on_fleet(host, "restore", fleet, restore_rehearse=True, **given)).count('"scout": "sealed key"') == 2
    judged(on_fleet(host, "restore", fleet, "-l", "agenthost", **given))
    assert host.read() == OLD


def sabotage(host: Host, units: Path, script: str, started: str = "open && touch") -> None:
    """Have the stand-in for systemd do more once it stopped the vault; and this where a start is only ordered."""
    program = host.directory / "programs" / "systemctl"
    order = f'"systemctl start --no-block cordon-agent@scout.service") {started} "$STATE/cordon-agent@scout.service" ;;'
    text = program.read_text().replace('rm -f "$STATE"/cordon-* ;;', f'rm -f "$STATE"/cordon-* && {{ {script}; }} ;;\n  {order}')
    assert script in text
    program.write_text(text)
    host.vault(state="mounted")
    (units / "cordon-agent@scout.service").touch()


@pytest.mark.parametrize("started", ["open && touch", "false"])
def test_a_restore_that_fails_starts_again_what_it_ended(filled: Host, started: str) -> None:
    host = filled
    archive = saved(host)
    units = host.fake_systemd()
    sabotage(host, units, f": > {BACKUPS}/.agenthost.incoming.tar", started)
    with pytest.raises(Refused, match=r"vault_backup: ") as refused:
        restore(host, archive, restore_end_sessions=True)
    assert "Asked to start again, though this run failed: scout" in str(refused.value)
    assert re.search(r"agenthost .*failed=1 ", str(refused.value)), "the first fault is the one that counts"
    assert (units / "calls").read_text().rstrip().endswith("systemctl start --no-block cordon-agent@scout.service")
    assert not list(BACKUPS.glob(".*.incoming.tar"))
    if started == "false":
        assert "start --no-block cordon-agent@scout.service' failed" in str(refused.value), "a start that failed is told"
    else:
        assert (units / "cordon-agent@scout.service").exists(), "the service was not started again"
        assert Path("/srv/agents/scout/.vault/token").read_text() == OLD["token"]


def test_a_rotation_that_fails_starts_again_what_it_ended(filled: Host) -> None:
    """A directory comes to stand at a secret's name while the sessions end, so that its new value cannot be written."""
    host = filled
    units = host.fake_systemd()
    script = """point=$(mktemp -d) && systemd-creds decrypt --name=cordon-vault-scout /etc/cordon/vault/scout.cred - |
      gocryptfs -q -nosyslog /var/lib/cordon/vault/scout $point > /dev/null 2>&1 &&
      rm $point/token && mkdir $point/token && umount $point"""
    sabotage(host, units, script)
    with pytest.raises(Refused, match=r"a directory stands at the name of the secret token") as refused:
        rotate(host, rotate="everything", rotate_end_sessions=True, vault_secrets={"scout": NEW})
    assert "Asked to start again, though this run failed: scout" in str(refused.value)
    assert (units / "cordon-agent@scout.service").exists(), "the service was not started again"


def test_archives_lie_where_the_operator_stands(filled: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the installed collection, which an upgrade of it deletes."""
    host, here = filled, filled.directory / "operator"
    here.mkdir()
    monkeypatch.chdir(here)
    inside = host.root / "ansible_collections/cordon/agent_host/playbooks"
    before = set(inside.iterdir())
    try:
        judged(host.playbook("backup"))
        assert set(inside.iterdir()) == before
        (archive,) = here.glob("vault-backups/agenthost/*.tar")
        assert '"scout": "sealed key"' in restore(host, archive.relative_to(here), restore_rehearse=True)
        judged(host.playbook("backup", backup_directory="elsewhere", backup_agents=["scout"]))
        assert list(here.glob("elsewhere/agenthost/*.tar"))
    finally:
        for path in set(inside.iterdir()) - before:
            shutil.rmtree(path)


def test_a_name_that_the_manifest_does_not_have_is_refused(filled: Host) -> None:
    host = filled
    archive = saved(host)
    host.secrets(NEW)
    before = state_of_disk()
    with pytest.raises(Refused, match=r"Nothing was saved: the manifest has no agent scoot"):
        judged(host.playbook("backup", backup_directory=str(host.directory / "more"), backup_agents=["scout", "scoot"]))
    assert not (host.directory / "more").exists()
    for wanted in (["scoot"], ["scout", "scoot"]):
        with pytest.raises(Refused, match=r"The manifest has no agent scoot"):
            restore(host, archive, restore_agents=wanted)
    assert state_of_disk() == before


def test_a_host_without_gocryptfs_is_told_what_comes_first(filled: Host) -> None:
    host = filled
    archive = saved(host)
    program = shutil.which("gocryptfs")
    sh("chattr -i /srv/agents/*/.vault; rm -rf /var/lib/cordon /etc/cordon /srv/agents/*/.vault")
    sh(f"mount --bind /dev/null {program}")
    try:
        for check in (True, False):
            with pytest.raises(Refused, match=r"gocryptfs is not installed on agenthost: run the playbook"):
                restore(host, archive, check=check)
        assert not BACKUPS.exists()
    finally:
        sh(f"umount {program}")
    restore(host, archive, check=True)
