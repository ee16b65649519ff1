# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""rotate, backup, restore and unlock under systemd: what becomes of an agent's service and of a session that is at work.

The tests build on each other, in this order, and the last leaves the vaults with the values that they were found with.
What the playbooks refuse, and every step at which they may die, is in tests/integration/vault.
"""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

SHARED = Path(__file__).resolve().parents[2] / "shared"
FOUND = yaml.safe_load((SHARED / "group_vars" / "all.yml").read_text())
SERVICE, VAULT = "cordon-agent@scout.service", "cordon-vault@scout.service"
POINT, CIPHER = "/srv/agents/scout/.vault", "/var/lib/cordon/vault/scout"
SCRIBES = "/srv/agents/scribe/.vault/notes_key"
RECORD = "/var/lib/cordon/rotations.jsonl"
OUT = "/run/rotation.out"
WORK = "exec 3< ~/.vault/database_url; while :; do cat ~/.vault/github_token; echo; sleep 1; done"
PASSWORD = "molecule staple battery"

Play = Callable[..., subprocess.CompletedProcess[str]]


def values(**changed: str) -> dict[str, dict[str, str]]:
    """vault_secrets, with some of scout's changed."""
    wanted = copy.deepcopy(FOUND["vault_secrets"])
    wanted["scout"].update(changed)
    return wanted


def said(done: subprocess.CompletedProcess[str]) -> str:
    """All that Ansible said: what failed is on standard error, as Molecule configures it."""
    return done.stdout + done.stderr


def new_ones(word: str) -> dict[str, dict[str, str]]:
    return values(**{name: f"molecule-{word}-{name}" for name in FOUND["vault_secrets"]["scout"]})


def shown(host: Any, unit: str, name: str) -> str:
    return host.check_output(f"systemctl show --property={name} --value {unit}")


def daemon(host: Any) -> str:
    return shown(host, VAULT, "MainPID")


def kept(host: Any) -> list[str]:
    return host.check_output(f"cat {POINT}/github_token {POINT}/database_url").split("molecule-")[1:]


@pytest.fixture
def session(host: Any, eventually: Callable[..., Any]) -> Iterator[str]:
    """The unit of a session of scout that reads a secret every second; what it read is in OUT."""
    host.check_output(f"rm -f {OUT}; cd /; (setsid cordonctl run scout -- sh -c '{WORK}' > {OUT} 2>&1 < /dev/null &)")
    eventually(lambda: host.run(f"test -s {OUT}").rc == 0, 60)
    units = "systemctl list-units --plain --no-legend --state=running 'cordon-session-scout-*'"
    yield host.check_output(units).split()[0]
    host.run(f"systemctl stop 'cordon-session-scout-*'; rm -f {OUT}")


def rotate(play: Play, **variables: Any) -> subprocess.CompletedProcess[str]:
    return play("rotate", rotate_agents=["scout"], rotate_reason="tried by molecule", **variables)


def recorded(host: Any) -> list[tuple[str, str]]:
    """What and what became of it, of every line that these tests made."""
    lines = map(json.loads, host.check_output(f"cat {RECORD}").splitlines())
    ours = [line for line in lines if line["reason"] == "tried by molecule"]
    assert all(line["by"] == "molecule" and line["agent"] == "scout" and line["time"] for line in ours)
    return [(line["what"], line["act"]) for line in ours]


def test_a_secret_changes_and_the_session_that_reads_it_goes_on(
    host: Any, play: Play, session: str, eventually: Callable[..., Any]
) -> None:
    before = daemon(host), shown(host, SERVICE, "MainPID")
    done = rotate(play, rotate="secrets", rotate_secrets=["github_token"], vault_secrets=values(github_token="molecule-second"))
    assert done.returncode == 0
    assert "molecule-second" not in said(done)
    eventually(lambda: host.check_output(f"tail -n1 {OUT}") == "molecule-second")
    read = host.check_output(f"sort -u {OUT}").split()
    assert sorted(read) == ["molecule-github-token", "molecule-second"], "never half of a value, and never an error"
    assert (daemon(host), shown(host, SERVICE, "MainPID")) == before
    assert shown(host, session, "ActiveState") == "active"
    assert recorded(host) == [("secret github_token", "changed")]


def test_the_vaults_key_changes_under_it_too(host: Any, play: Play, session: str) -> None:
    before, key = daemon(host), host.check_output("sha256sum /etc/cordon/vault/scout.cred")
    assert rotate(play, rotate="password").returncode == 0
    assert host.check_output("sha256sum /etc/cordon/vault/scout.cred") != key
    assert (daemon(host), shown(host, session, "ActiveState")) == (before, "active")
    assert recorded(host)[1:] == [("vault key", "renewed")]
    # And the next session opens it with the new one.
    host.check_output(f"systemctl stop {session} {SERVICE}; while findmnt {POINT}; do sleep 0.2; done; systemctl start {SERVICE}")
    assert kept(host)[0] == "second"


def test_after_an_incident_everything_is_new_once_sessions_may_end(
    host: Any, play: Play, session: str, eventually: Callable[..., Any]
) -> None:
    given = {"rotate": "everything", "vault_secrets": new_ones("third")}
    conf = f"sha256sum {CIPHER}/gocryptfs.conf"
    before = host.check_output(conf), daemon(host)
    refused = rotate(play, **given)
    assert refused.returncode != 0 and "rotate_end_sessions" in said(refused)
    assert (host.check_output(conf), daemon(host)) == before
    assert shown(host, session, "ActiveState") == "active"

    assert rotate(play, rotate_end_sessions=True, **given).returncode == 0
    assert host.check_output(conf) != before[0]
    assert shown(host, session, "ActiveState") != "active"
    eventually(lambda: host.service("cordon-agent@scout").is_running, 60)
    assert host.check_output(f"cat {POINT}/github_token") == "molecule-third-github_token"
    assert ("master key", "renewed") in recorded(host)
    told = host.check_output("journalctl --no-pager --output=cat --since=-1hour") + host.check_output(f"cat {RECORD}")
    assert not [word for word in ("molecule-second", "molecule-third") if word in told]


def test_a_lost_vault_comes_back_from_its_backup(
    host: Any, play: Play, as_agent: Callable[..., Any], tmp_path: Path
) -> None:
    assert play("backup", backup_directory=str(tmp_path / "backups")).returncode == 0
    (archive,) = (tmp_path / "backups" / "agenthost-1").iterdir()
    assert b"molecule-third" not in archive.read_bytes()
    given = {"restore_archive": str(archive), "restore_agents": ["scout"]}
    rehearsed = play("restore", restore_rehearse=True, **given)
    assert rehearsed.returncode == 0 and "scout: sealed key" in said(rehearsed)
    assert host.service("cordon-agent@scout").is_running, "a rehearsal disturbs nobody"

    host.check_output(f"systemctl stop {SERVICE}; while findmnt {POINT}; do sleep 0.2; done")
    host.check_output(f"rm -r {CIPHER} /etc/cordon/vault/scout.*")
    refused = as_agent("scout", "true")
    assert refused.rc != 0
    assert play("restore", **given).returncode == 0
    assert as_agent("scout", "cat", f"{POINT}/github_token").stdout == "molecule-third-github_token"
    host.check_output(f"systemctl start {SERVICE}")


def test_a_vault_is_handed_to_an_operator_and_opened_by_the_playbook(
    host: Any, play: Play, as_agent: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    manifest = copy.deepcopy(FOUND["agent_host_agents"])
    next(agent for agent in manifest if agent["name"] == "scribe")["vault"] = {"unlock": "operator", "writable": True}
    given = {"agent_host_agents": manifest, "vault_secrets": new_ones("third")}
    assert play("vaults.yml", vault_passwords={"scribe": PASSWORD}, **given).returncode == 0
    assert not host.file("/etc/cordon/vault/scribe.cred").exists, "the host kept what opens the vault"
    host.check_output("systemctl stop cordon-agent@scribe cordon-vault@scribe")
    host.check_output("systemctl start --no-block cordon-agent@scribe")
    eventually(lambda: host.file("/run/cordon/unlock/scribe").exists, 60)

    wrong = play("unlock", vault_passwords={"scribe": "not the one"})
    assert wrong.returncode != 0 and "wrong password, 4 more" in said(wrong)
    stranger = play("unlock", vault_passwords={"scribe": PASSWORD, "nobody": "x"})
    assert stranger.returncode != 0 and "has an agent with vault.unlock: operator of the name nobody" in said(stranger)
    eventually(lambda: host.service("cordon-agent@scribe").is_running, 60)
    assert as_agent("scribe", "cat", SCRIBES).stdout == FOUND["vault_secrets"]["scribe"]["notes_key"]
    again = play("unlock", vault_passwords={"scribe": PASSWORD})
    assert again.returncode == 0 and "changed=0" in again.stdout
    for done in (wrong, stranger, again):
        assert PASSWORD not in said(done)


def test_it_is_handed_back_while_it_waits_and_everything_is_as_it_was_found(
    host: Any, play: Play, eventually: Callable[..., Any]
) -> None:
    host.check_output("systemctl stop cordon-agent@scribe cordon-vault@scribe; systemctl start --no-block cordon-agent@scribe")
    eventually(lambda: host.file("/run/cordon/unlock/scribe").exists, 60)
    assert play("vaults.yml", vault_passwords={"scribe": PASSWORD}).returncode == 0
    assert host.file("/etc/cordon/vault/scribe.cred").exists
    assert not host.file("/run/cordon/unlock/scribe").exists, "it waits for a password that nobody has to bring"
    assert host.service("cordon-agent@scribe").is_running
    assert host.check_output(f"cat {SCRIBES}") == FOUND["vault_secrets"]["scribe"]["notes_key"]
    assert kept(host) == ["github-token", "database-url"]
    status = json.loads(host.run("cordonctl status --json").stdout)
    assert not [check for check in status["attention"] if check["id"].startswith("vault") and check["status"] == "fail"]
