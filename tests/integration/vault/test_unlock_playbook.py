# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook unlock on a fleet: who is given which password, and who is blamed for one that fits nowhere.

Each host of the fleet is this machine with another interpreter, and cordonctl a stand-in that knows which one it is on.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .host import Host, sh

VAULTS = {"alpha": {"notary": "locked", "clerk": "open"}, "beta": {"scribe": "locked"}, "gamma": {}}
PASSWORDS = {"notary": "canary-of-notary", "clerk": "canary-of-clerk", "scribe": "canary-of-scribe"}
STRANGER = "has an agent with vault.unlock: operator of the name ghost"
CORDONCTL = """#!/usr/bin/env python3
import json, os, pathlib, sys
place = pathlib.Path(os.environ["FLEET_HOST"])
if (place / "broken").exists():
    sys.exit("cordonctl: this host has no manifest")
if sys.argv[1:] == ["unlock", "--list"]:
    print((place / "vaults").read_text())
elif sys.argv[1:] == ["unlock", "--json"]:
    given = sys.stdin.read()
    (place / "stdin").write_text(given)
    right = json.loads((place / "right").read_text())
    found = {name: {"open": one == right[name], "changed": one == right[name],
                    "message": "opened" if one == right[name] else f"the vault of agent {name} is not open: wrong password"}
             for name, one in json.loads(given).items()}
    print(json.dumps(found))
    sys.exit(not all(one["open"] for one in found.values()))
else:
    sys.exit(f"not expected: {sys.argv}")
"""
Unlock = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(name="place")
def fixture_place(host: Host, tmp_path: Path) -> Iterator[Path]:
    """The fleet: a directory for each host, and cordonctl where the role installs it."""
    sh("mkdir -p /srv/fleet/upper /srv/fleet/work")
    sh("mount -t overlay -o lowerdir=/usr/lib,upperdir=/srv/fleet/upper,workdir=/srv/fleet/work overlay /usr/lib")
    try:
        sh("mkdir -p /usr/lib/cordon; cat > /usr/lib/cordon/cordonctl; chmod 0755 /usr/lib/cordon/cordonctl", CORDONCTL)
        for name in VAULTS:
            own = tmp_path / "fleet" / name
            own.mkdir(parents=True)
            (own / "vaults").write_text(json.dumps(VAULTS[name]))
            (own / "right").write_text(json.dumps(PASSWORDS))
            (own / "python").write_text(f'#!/bin/sh\nFLEET_HOST={own} exec {sys.executable} "$@"\n')
            (own / "python").chmod(0o755)
        yield tmp_path / "fleet"
    finally:
        sh("umount --lazy /usr/lib; rm -rf /srv/fleet")


@pytest.fixture(name="unlock")
def fixture_unlock(host: Host, place: Path) -> Unlock:
    def run(*arguments: str, away: tuple[str, ...] = (), **variables: Any) -> subprocess.CompletedProcess[str]:
        inventory, given = place / "inventory.json", place / "given.json"
        hosts: dict[str, dict[str, Any]] = {
            name: {"ansible_connection": "local", "ansible_python_interpreter": str(place / name / "python")}
            for name in VAULTS
        }
        hosts.update({name: {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1} for name in away})
        inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
        given.write_text(json.dumps({"ansible_become": False, "vault_passwords": PASSWORDS, **variables}))
        argv = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(inventory), "-e", f"@{given}", *arguments]
        environment = {**host.environment, "ANSIBLE_COLLECTIONS_PATH": str(host.root), "ANSIBLE_HOME": str(place / "home"),
                       "ANSIBLE_REMOTE_TMP": str(place / "remote"), "ANSIBLE_PIPELINING": "false", "ANSIBLE_NOCOLOR": "1"}
        done = subprocess.run([*argv, "cordon.agent_host.unlock"], capture_output=True, text=True, env=environment)
        assert "canary-of" not in done.stdout + done.stderr
        return done

    return run


def brought(place: Path) -> dict[str, dict[str, str]]:
    """The passwords that each host was given."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(place.glob("*/stdin"))}


def failed(done: subprocess.CompletedProcess[str]) -> set[str]:
    """The hosts that failed, by the recap."""
    recap = done.stdout.split("PLAY RECAP")[1].splitlines()[1:]
    return {line.split()[0] for line in recap if line and "failed=0" not in line}


def test_each_host_is_given_its_own_and_no_file_has_them(place: Path, unlock: Unlock) -> None:
    checked = unlock("--check")
    assert checked.returncode == 0 and brought(place) == {}
    assert "to be opened: notary" in checked.stdout
    done = unlock("-vvv")
    assert done.returncode == 0, done.stdout
    assert brought(place) == {name: {agent: PASSWORDS[agent]} for name, agent in (("alpha", "notary"), ("beta", "scribe"))}
    assert not [line for line in done.stdout.splitlines() if "AnsiballZ_vault_unlock" in line]


def test_where_they_would_have_to_be_in_a_file_nothing_is_sent(host: Host, place: Path, unlock: Unlock) -> None:
    host.environment["ANSIBLE_KEEP_REMOTE_FILES"] = "true"
    done = unlock()
    assert failed(done) == {"alpha", "beta"} and "nothing was sent" in done.stdout and brought(place) == {}


def test_a_wrong_password_fails_its_own_host(place: Path, unlock: Unlock) -> None:
    (place / "beta" / "right").write_text(json.dumps({"scribe": "another"}))
    done = unlock()
    assert failed(done) == {"beta"} and "the vault of agent scribe is not open: wrong password" in done.stdout


def test_a_name_that_no_host_has_fails_when_all_have_answered(place: Path, unlock: Unlock) -> None:
    done = unlock(vault_passwords={**PASSWORDS, "ghost": "canary-of-ghost"})
    assert failed(done) == set(VAULTS) and STRANGER in done.stdout
    # A host that failed later had answered.
    (place / "beta" / "right").write_text(json.dumps({"scribe": "another"}))
    assert failed(unlock()) == {"beta"}


@pytest.mark.parametrize("how", ["broken", "away", "limited"])
def test_nobody_is_blamed_for_the_agents_of_a_host_that_did_not_answer(place: Path, unlock: Unlock, how: str) -> None:
    arguments = ("-l", "alpha,gamma") if how == "limited" else ()
    if how == "broken":
        (place / "beta" / "broken").touch()
    passwords = {**PASSWORDS, "ghost": "canary-of-ghost"}
    done = unlock(*arguments, away=("delta",) if how == "away" else (), vault_passwords=passwords)
    assert failed(done) == ({"beta"} if how == "broken" else set()), done.stdout
    assert STRANGER not in done.stdout
    absent = {"broken": "beta", "away": "delta", "limited": "beta"}[how]
    unknown = "ghost" if how == "away" else "ghost, scribe"
    assert f"not judged: {unknown}. No answer from {absent}" in done.stdout
    assert brought(place)["alpha"] == {"notary": PASSWORDS["notary"]}


@pytest.mark.parametrize("given", ["canary-of-notary", json.dumps({"notary": "canary-of-notary"}), ["canary-of-notary"], None])
def test_passwords_that_are_no_mapping_are_refused_unseen(place: Path, unlock: Unlock, given: Any) -> None:
    """A survey of AWX gives text. Letter by letter it would be taken for agents that no host has, and be shown."""
    done = unlock(vault_passwords=given)
    assert brought(place) == {}
    if given is None:
        assert done.returncode == 0 and "not in vault_passwords: notary" in done.stdout
    else:
        assert failed(done) == set(VAULTS) and "vault_passwords is to be a mapping" in done.stdout, done.stdout
        assert "of the name" not in done.stdout
