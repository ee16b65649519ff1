# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever changes a vault may die at any step: the vault then opens with its old or its new key, and nothing in it is lost.

For every step of every operation: it dies there, somebody opens the vault as a session does, and a later run brings order.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils import (
    _gocryptfs,
    _vault,
    _vault_backup,
    _vault_escrow,
    _vault_host,
    _vault_keys,
    _vault_open,
)
from ansible_collections.cordon.agent_host.plugins.modules import vault_secrets

from .crash import DONE, die_at, run
from .host import Host, end_gocryptfs, sh

# A name of our own, so that only our own gocryptfs are ended.
NAME = f"crash{os.getpid()}"
SEALED = _vault.Place(NAME, "agent-scout", "/srv/agents/scout")
OPERATOR = SEALED._replace(unlock="operator")
HOW = _vault_keys.How("openssl", "openssl", 10)  # openssl: half the time of systemd-creds, and the steps are the same
OLD, NEW = "the old password", "the new password"
CONTENT = {"token": "canary-value", "other": "x" * 5000}
MOST_STEPS = 200


def keys(run_by: Callable[..., Any], place: _vault.Place, password: str | None) -> _vault_keys.Keys:
    return _vault_keys.Keys(run_by, place, HOW, password)


def fill(run_by: Callable[..., Any], values: dict[str, str]) -> None:
    """What the module vault_secrets does."""
    given: dict[str, Any] = {"declared": {NAME: sorted(values)}, "values": {NAME: values}, "only": None}
    module = SimpleNamespace(
        params={**given, "passwords": {}, "new_passwords": {}, "locked": "fail", "by": "", "reason": None},
        check_mode=False,
        no_log_values=set(),
        run_command=lambda argv, data=None, **_how: run_by(argv, data),
    )
    vault_secrets.Job(module).converge()


@dataclass
class Operation:
    """One act on a vault: who opens it before, the act, and who may open it after it broke off and after it was finished."""

    before: _vault.Place
    after: _vault.Place
    act: Callable[[Callable[..., Any]], Any]
    password_before: str | None = None
    password_after: str | None = None

    @property
    def passwords(self) -> list[str]:
        return [one for one in (self.password_before, self.password_after) if one is not None]


def _private(act: Callable[[Callable[..., Any]], Any]) -> Callable[[Callable[..., Any]], Any]:
    def with_mounts(run_by: Callable[..., Any]) -> None:
        _vault_open.enter_private_namespace(run)  # its steps change no disk
        act(run_by)

    return with_mounts


def _restore(run_by: Callable[..., Any]) -> None:
    with _vault_backup.Unpacked(run_by, SEALED, ARCHIVE) as archive:
        key, _cipher = archive.opening(None, None)
        archive.put_back(keys(run_by, SEALED, None), key)


ARCHIVE = f"/var/lib/cordon/{NAME}.tar"
RECIPIENT = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"  # of age's own documentation
OPERATIONS = {
    "sealed, new key": Operation(SEALED, SEALED, lambda r: keys(r, SEALED, None).renew_password(None)),
    "operator, new password": Operation(
        OPERATOR, OPERATOR, lambda r: keys(r, OPERATOR, OLD).renew_password(NEW), OLD, NEW
    ),
    "from sealed to operator": Operation(SEALED, OPERATOR, lambda r: keys(r, OPERATOR, NEW).to_password(), None, NEW),
    "from operator to sealed": Operation(OPERATOR, SEALED, lambda r: keys(r, SEALED, OLD).to_sealed(), OLD, None),
    "sealed, new master key": Operation(SEALED, SEALED, _private(lambda r: keys(r, SEALED, None).renew_master(None))),
    "operator, new master key": Operation(
        OPERATOR, OPERATOR, _private(lambda r: keys(r, OPERATOR, OLD).renew_master(NEW)), OLD, NEW
    ),
    "restore": Operation(SEALED, SEALED, _private(_restore)),
    "escrow": Operation(
        SEALED, SEALED, lambda r: _vault_escrow.make(r, SEALED, keys(r, SEALED, None), [RECIPIENT])
    ),
}  # fmt: skip


@pytest.fixture
def disk(host: Host, tmp_path: Path) -> Iterator[Callable[[Operation], None]]:
    """disk(OPERATION): bring the host back to what it was before the operation."""
    saved: list[Path] = []

    def bring_back(operation: Operation) -> None:
        end_gocryptfs(NAME)
        for top in ("/var/lib/cordon", "/etc/cordon"):
            shutil.rmtree(top, ignore_errors=True)
        if saved:
            sh(f"cp -a {saved[0]}/lib /var/lib/cordon; cp -a {saved[0]}/etc /etc/cordon")
            return
        make(operation)
        saved.append(tmp_path / "saved")
        saved[0].mkdir()
        sh(f"cp -a /var/lib/cordon {saved[0]}/lib; cp -a /etc/cordon {saved[0]}/etc")

    yield bring_back
    end_gocryptfs(NAME)


def make(operation: Operation) -> None:
    """A vault with content, and an archive of it."""
    place, password = operation.before, operation.password_before
    maker = keys(run, place, password)
    if password is None:
        maker.seal()
    maker.create()
    with opened(place.cipher, password or key_line(place.key)) as point:
        for name, text in CONTENT.items():
            (point / name).write_text(text)
    _vault_backup.save(run, [place], ARCHIVE)


@contextlib.contextmanager
def opened(cipher: str, line: str) -> Iterator[Path]:
    point = Path("/srv/probe")
    point.mkdir(exist_ok=True)
    sh(f"gocryptfs -q -nosyslog -fsname cordon-vault-{NAME}-probe {cipher} {point} >/dev/null 2>&1", f"{line}\n")
    try:
        yield point
    finally:
        sh(f"umount {point}")


def key_line(path: str) -> str:
    return _vault_open.unseal(run, SEALED, path)


def openers(passwords: list[str]) -> list[str]:
    """The lines with which a session would try: the sealed key, the one that is to come, a password that somebody knows."""
    paths = [path for path in (SEALED.key, SEALED.next_key) if os.path.exists(path)]
    return [key_line(path) for path in paths] + passwords


def content(line: str) -> dict[str, str]:
    with opened(SEALED.cipher, line) as point:
        return {path.name: path.read_text() for path in point.iterdir()}


def opening(lines: list[str]) -> list[str]:
    config = f"{SEALED.cipher}/{_gocryptfs.CONFIG}"
    return [line for line in lines if run(_gocryptfs.master_key_argv(config), f"{line}\n")[0] == 0]


def bring_order(place: _vault.Place, passwords: list[str]) -> str:
    """The next run of the module, with the same passwords, old and new; return what opens the vault then."""
    maker = _vault_keys.Keys(run, place, HOW, *passwords)
    for _round in range(2):
        seen = _vault_host.observe(place)
        assert _vault.problems(place, seen, False, bool(passwords)) == []
        steps = _vault.steps(place, seen)
        for step in [step for step in steps if step not in (_vault.MAKE_POINT, _vault.FIX_POINT)]:
            _vault_host.Worker(run, place, maker).act(step)
    seen = _vault_host.observe(place)
    assert not [step for step in _vault.steps(place, seen) if step not in (_vault.MAKE_POINT, _vault.FIX_POINT)]
    assert not seen.leftover and not seen.next_key
    return key_line(place.key) if os.path.exists(place.key) else opening(passwords)[0]


# A mere kill loses less: tried where most is at stake.
CASES = [(name, "power lost") for name in OPERATIONS] + [("sealed, new key", "killed"), ("sealed, new master key", "killed")]


@pytest.mark.parametrize(("name", "how"), CASES)
def test_a_change_that_dies_at_any_step_leaves_a_vault_that_opens(
    disk: Callable[[Operation], None], name: str, how: str
) -> None:
    operation = OPERATIONS[name]
    for step in range(MOST_STEPS):
        disk(operation)
        before = opening(openers(operation.passwords))
        outcome = die_at(step, how == "power lost", Path(SEALED.staging), operation.act)
        here = f"{name}, step {step}"
        found = opening(openers(operation.passwords))
        assert len(found) >= 1, f"{here}: nothing opens the vault"
        assert content(found[0]) == CONTENT, here
        # A session of before the change, or of after it, is not asked for anything that it does not have.
        place = operation.before if outcome != DONE and found[0] in before else operation.after
        line = bring_order(place, operation.passwords)
        assert content(line) == CONTENT, here
        if outcome == DONE:
            assert (line not in before) == (name not in ("restore", "escrow")), "the change itself did nothing"
            print(f"{name}: {step} steps")
            return
    pytest.fail(f"more than {MOST_STEPS} steps")


def test_a_vault_that_is_made_appears_whole_or_not_at_all(host: Host) -> None:
    for step in range(MOST_STEPS):
        end_gocryptfs(NAME)
        host.clean()
        os.makedirs("/var/lib/cordon")
        os.makedirs("/etc/cordon")

        def act(run_by: Callable[..., Any]) -> None:
            maker = keys(run_by, SEALED, None)
            maker.seal()
            maker.create()

        outcome = die_at(step, True, Path(SEALED.staging), act)
        assert _vault_host.observe(SEALED).cipher in ("absent", "empty", "vault")
        assert content(bring_order(SEALED, [])) == {}
        if outcome == DONE:
            return
    pytest.fail(f"more than {MOST_STEPS} steps")


def test_a_vault_that_is_put_away_is_whole_in_one_place(disk: Callable[[Operation], None]) -> None:
    operation = OPERATIONS["sealed, new key"]
    for step in range(MOST_STEPS):
        disk(operation)
        line = key_line(SEALED.key)
        outcome = die_at(step, True, Path(SEALED.staging), lambda run_by: _vault_backup.put_away(run_by, SEALED))
        tops = [Path(SEALED.cipher), *Path(_vault.BACKUPS).glob("*/vault")]
        there = [top for top in tops if top.is_dir()]
        assert len(there) == 1, f"step {step}: {there}"
        _vault_backup.put_away(run, SEALED)
        (kept,) = Path(_vault.BACKUPS).glob(f"{NAME}-*/vault")
        assert not _vault_backup.steps(SEALED._replace(home="/nonexistent"), True)
        with opened(str(kept), _vault_open.unseal(run, SEALED, f"{kept.parent}/{NAME}.cred")) as point:
            assert {path.name: path.read_text() for path in point.iterdir()} == CONTENT
        assert line == _vault_open.unseal(run, SEALED, f"{kept.parent}/{NAME}.cred")
        if outcome == DONE:
            return
    pytest.fail(f"more than {MOST_STEPS} steps")


NEWER = {**CONTENT, "own": "only in the vault in use"}


def kept_vaults() -> dict[str, dict[str, str]]:
    """The vaults in the backups, each opened by a key that lies beside it."""
    found = {}
    for top in Path(_vault.BACKUPS).glob(f"{NAME}-*/vault"):
        keys_beside = [_vault_open.unseal(run, SEALED, str(path)) for path in top.parent.glob(f"{NAME}.cred*")]
        lines = [line for line in keys_beside if run(_gocryptfs.master_key_argv(f"{top}/gocryptfs.conf"), f"{line}\n")[0] == 0]
        if lines:
            with opened(str(top), lines[0]) as point:
                found[str(top)] = {path.name: path.read_text() for path in point.iterdir()}
    return found


@pytest.mark.parametrize("between", ["nothing", "a run of the role"])
def test_a_restore_that_dies_is_repeated_and_keeps_the_vault_that_was_in_use(
    disk: Callable[[Operation], None], between: str
) -> None:
    """The vault in use has a master key and a file that the archive has not."""
    operation, watched = OPERATIONS["restore"], Path(SEALED.staging)
    disk(operation)
    newer = _private(lambda run_by: keys(run_by, SEALED, None).renew_master(None))
    assert die_at(10**6, False, watched, newer) == DONE
    with opened(SEALED.cipher, key_line(SEALED.key)) as point:
        (point / "own").write_text(NEWER["own"])
    sh("cp -a /var/lib/cordon /srv/lib; cp -a /etc/cordon /srv/etc")
    for step in range(MOST_STEPS):
        end_gocryptfs(NAME)
        sh("rm -rf /var/lib/cordon /etc/cordon; cp -a /srv/lib /var/lib/cordon; cp -a /srv/etc /etc/cordon")
        outcome = die_at(step, True, watched, operation.act)
        if between != "nothing":
            bring_order(SEALED, [])
        assert die_at(10**6, False, watched, operation.act) == DONE, f"step {step}"
        assert content(bring_order(SEALED, [])) == CONTENT, f"step {step}"
        assert NEWER in kept_vaults().values(), f"step {step}: the vault that was in use is lost"
        assert not Path(f"{_vault.BACKUPS}/.{NAME}.partial").exists() and not Path(f"{_vault.BACKUPS}/.{NAME}.restore").exists()
        if outcome == DONE:
            print(f"{step} steps")
            return
    pytest.fail(f"more than {MOST_STEPS} steps")


def test_secrets_that_are_written_are_the_old_or_the_new_ones(disk: Callable[[Operation], None]) -> None:
    """One changed, one new, one removed. A loss of power is not tried here: the files lie behind FUSE."""
    watched, after = Path(SEALED.staging), {"token": "the new value", "new": "another"}
    for step in range(MOST_STEPS):
        disk(OPERATIONS["sealed, new key"])
        assert die_at(10**6, False, watched, lambda run_by: fill(run_by, CONTENT)) == DONE
        outcome = die_at(step, False, watched, lambda run_by: fill(run_by, after))
        end_gocryptfs(NAME)
        line = key_line(SEALED.key)
        found = {name: text for name, text in content(line).items() if not name.startswith(".")}
        for name in {*CONTENT, *after}:
            assert found.get(name) in (CONTENT.get(name), after.get(name)), f"step {step}: {name}"
        assert die_at(10**6, False, watched, lambda run_by: fill(run_by, after)) == DONE
        assert content(line) == after, f"step {step}"
        if outcome == DONE:
            assert found == after
            return
    pytest.fail(f"more than {MOST_STEPS} steps")
