# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private: put a vault away with all that opens it, save vaults to an archive, and bring them back.

A vault is moved by rename, after what opens it was copied: it is whole in one place or in the other, never in neither.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from typing import List, Optional, Tuple

from . import _gocryptfs, _vault
from ._vault_disk import private_directory, read, remove, rename, write
from ._vault_host import Refused, set_immutable
from ._vault_keys import Keys, exchange, sync_directory
from ._vault_open import Key, Run, unseal

PUT_AWAY = "move the vault and its key to the backups"
DELETE = "delete the vault and its key"
REMOVE_POINT = "remove the mount point"

LARGEST = 1 << 20  # bytes; configurations, sealed keys and escrows have a few hundred to a few thousand


def now() -> str:
    """The time in names of backups."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())


def beside(place: _vault.Place) -> List[str]:
    """The files that belong to a vault and lie elsewhere; the names in an archive are their last components."""
    return [place.key, place.next_key, place.copy, place.escrow, place.escrow_of]


def steps(place: _vault.Place, backup: bool) -> List[str]:
    """What to do so that there is no vault; it must be closed."""
    parts = [place.cipher, place.staging, _partial(place), _unpacked(place), *beside(place)]
    found = [PUT_AWAY if backup else DELETE] if any(os.path.lexists(path) for path in parts) else []
    return found + ([REMOVE_POINT] if os.path.lexists(place.point) else [])


def _partial(place: _vault.Place) -> str:
    return f"{_vault.BACKUPS}/.{place.name}.partial"


def _unpacked(place: _vault.Place) -> str:
    return f"{_vault.BACKUPS}/.{place.name}.restore"


def _free(place: _vault.Place) -> str:
    """A name for a backup that none has yet."""
    plain = f"{_vault.BACKUPS}/{place.name}-{now()}"
    names = [plain, *(f"{plain}-{number}" for number in range(1, 100))]
    return next(name for name in names if not os.path.lexists(name))


def put_away(run: Run, place: _vault.Place) -> str:
    """Move a vault and what opens it to the backups. Return where."""
    private_directory(_vault.BACKUPS)
    kept = finish(place) if os.path.lexists(_partial(place)) else ""
    if any(os.path.lexists(path) for path in [place.cipher, *beside(place)]) and not _only_copies(place, kept):
        prepare(place)
        if os.path.lexists(place.cipher):
            rename(place.cipher, f"{_partial(place)}/vault")
        kept = finish(place)
    _forget(run, place)
    return kept


def _only_copies(place: _vault.Place, kept: str) -> bool:
    """Whether an earlier run moved the vault and was interrupted before it removed the keys that it had copied."""
    return os.path.lexists(f"{kept}/vault") and not os.path.lexists(place.cipher) if kept else False


def prepare(place: _vault.Place) -> None:
    """Copy what opens a vault to where the vault is about to go."""
    private_directory(_partial(place))
    for path in beside(place):
        if os.path.lexists(path):
            write(f"{_partial(place)}/{os.path.basename(path)}", read(path))


def finish(place: _vault.Place) -> str:
    """Give a backup its name. Return it, or '' where nothing was to be kept."""
    if not os.listdir(_partial(place)):
        os.rmdir(_partial(place))
        return ""
    final = _free(place)
    rename(_partial(place), final)
    return final


def delete(run: Run, place: _vault.Place) -> None:
    """Delete a vault and what opens it. It loses its name first, so that no moment leaves one without its key."""
    _clear(run, place.staging)
    if os.path.lexists(place.cipher):
        rename(place.cipher, place.staging)
    _clear(run, _partial(place))
    _forget(run, place)


def _forget(run: Run, place: _vault.Place) -> None:
    for path in beside(place):
        remove(path)
    _clear(run, place.staging)
    _clear(run, _unpacked(place))


def _clear(run: Run, path: str) -> None:
    if os.path.lexists(path):
        must(run, ["rm", "-r", "--force", "--one-file-system", "--", path])


def remove_point(place: _vault.Place) -> None:
    """Remove the mount point, which is empty but for notices: _vault_notice."""
    with contextlib.suppress(Refused):  # then it never was immutable
        set_immutable(place, False)
    for name in os.listdir(place.point):
        os.unlink(f"{place.point}/{name}")
    os.rmdir(place.point)


def check_directory(archive: str) -> None:
    """VaultError where others may write to an archive's directory; one that is missing is made by save()."""
    top = os.path.dirname(archive)
    if os.path.lexists(top):
        seen = os.stat(top)
        if seen.st_uid != 0 or seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise _vault.VaultError(f"{top}: others may write to it: take a directory of root's for the archive, or a new one")


def save(run: Run, places: List[_vault.Place], archive: str) -> bool:
    """Write the vaults, encrypted as they are, and their sealed keys to a tar file. False if one changed meanwhile."""
    if not os.path.lexists(os.path.dirname(archive)):
        private_directory(os.path.dirname(archive))
    # Sparse: a file of an agent's may have holes longer than the disk, which would be filled with them.
    argv = ["tar", "--create", f"--file={archive}.partial", "--numeric-owner", "--format=pax", "--sparse"]
    for place in places:
        for path in [place.cipher, *beside(place)]:
            if os.path.lexists(path):
                argv += [f"--directory={os.path.dirname(path)}", os.path.basename(path)]
    os.close(os.open(f"{archive}.partial", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    try:
        rc, out, err = run(argv)
        if rc not in (0, 1):  # 1: a file changed as it was read (tar(1))
            raise _vault.VaultError(f"{archive} was not written: {' '.join((err or out).split())}")
        must(run, ["sync", f"{archive}.partial"])
        rename(f"{archive}.partial", archive)
    except BaseException:
        remove(f"{archive}.partial")
        raise
    return rc == 0


def _cut_off(archive: str) -> bool:
    """Whether the two blocks of zeros are missing that end a tar file (tar(5)): cut between two members it is whole to tar."""
    with open(archive, "rb") as stream:
        stream.seek(max(0, os.path.getsize(archive) - 1024))
        return stream.read() != bytes(1024)


class Unpacked:
    """One agent's vault out of an archive, or out of a directory of the backups, beside the vaults in use."""

    def __init__(self, run: Run, place: _vault.Place, archive: str) -> None:
        self._run = run
        self._place = place
        self._archive = archive
        self._top = _unpacked(place)
        self.cipher = f"{self._top}/{place.name}"

    def __enter__(self) -> Unpacked:
        private_directory(_vault.BACKUPS)
        _clear(self._run, self._top)
        try:
            if os.path.isdir(self._archive):
                self._copy()
            else:
                self._extract()
            self._check()
        except BaseException:  # a half of it would keep a full disk full
            _clear(self._run, self._top)
            raise
        return self

    def _copy(self) -> None:
        if not os.path.isdir(f"{self._archive}/vault"):
            raise _vault.VaultError(f"{self._archive} has no directory vault: give a {_vault.BACKUPS}/NAME-TIME, or a tar file")
        must(self._run, ["cp", "--archive", "--no-target-directory", "--", self._archive, self._top])
        os.rename(f"{self._top}/vault", self.cipher)

    def _extract(self) -> None:
        private_directory(self._top)
        name = self._place.name
        pattern = [name, *(os.path.basename(path) for path in beside(self._place))]
        if _cut_off(self._archive):
            raise _vault.VaultError(f"{self._archive} is cut off, or no tar file: its end is missing")
        listed = must(self._run, ["tar", "--list", f"--file={self._archive}"]).splitlines()
        wanted = [member for member in pattern if member in listed or f"{member}/" in listed]
        if name not in wanted:
            raise _vault.VaultError(f"{self._archive} has no vault of agent {name}")
        argv = ["tar", "--extract", f"--file={self._archive}", "--same-owner", "--numeric-owner", "--same-permissions"]
        must(self._run, [*argv, f"--directory={self._top}", "--", *wanted])

    def _check(self) -> None:
        """VaultError for what save() has not written: a link leads into the vault in use, a FIFO has no end."""
        seen = os.lstat(self.cipher)
        odd = [] if stat.S_ISDIR(seen.st_mode) else [self.cipher]
        own = [f"{self.cipher}/{name}" for name in sorted(_gocryptfs.OWN_FILES)]
        for path in [] if odd else [*own, *map(self.path, beside(self._place))]:
            if os.path.lexists(path):
                seen = os.lstat(path)
                odd += [] if stat.S_ISREG(seen.st_mode) and seen.st_size <= LARGEST else [path]
        if odd:
            names = ", ".join(os.path.relpath(path, self._top) for path in odd)
            raise _vault.VaultError(f"{self._archive}: {names} is not what a backup has there; nothing was changed")

    def __exit__(self, *_error: object) -> None:
        _clear(self._run, self._top)

    def path(self, of: str) -> str:
        """Where the file lies that had this path when it was saved."""
        return f"{self._top}/{os.path.basename(of)}"

    def opening(self, password: Optional[str], master: Optional[str]) -> Tuple[Key, str]:
        """Return what opens it and the cipher; every file is read, and VaultError tells what is damaged."""
        try:
            with open(f"{self.cipher}/{_gocryptfs.CONFIG}", encoding="utf-8") as stream:
                cipher = _gocryptfs.cipher(_gocryptfs.parse_config(stream.read()))
        except (OSError, ValueError) as problem:
            raise _vault.VaultError(f"{self._archive}: gocryptfs.conf of {self._place.name} is damaged: {problem}") from problem
        refused: List[str] = []
        for key in self._keys(password, master, refused):
            argv = _gocryptfs.fsck_argv(self.cipher, cipher if key.origin == "master" else "")
            rc, out, err = self._run(argv, data=f"{key.line}\n")
            if rc == 0:
                return key, cipher
            if not _gocryptfs.wrong_password(rc, err + out):
                of = "by this master key, which may be another vault's, " if key.origin == "master" else ""
                raise _vault.VaultError(_gocryptfs.failure(f"{self._archive}: {of}{self._place.name}", rc, err or out))
            refused.append(f"{key.origin} does not belong to it")
        raise _vault.VaultError(
            f"{self._archive}: nothing opens the vault of agent {self._place.name} ({'; '.join(refused) or 'no key is in it'}): "
            f"give passwords.{self._place.name}, or master_keys.{self._place.name} from its escrow. Nothing was changed"
        )

    def _keys(self, password: Optional[str], master: Optional[str], refused: List[str]) -> List[Key]:
        found = []
        for path in (self.path(self._place.key), self.path(self._place.next_key)):
            if os.path.lexists(path):
                try:
                    found.append(Key(path, unseal(self._run, self._place, path)))
                except _vault.VaultError as error:
                    refused.append(str(error))
        found += [Key("password", password)] if password is not None else []
        return found + ([Key("master", master)] if master is not None else [])

    def put_back(self, keys: Keys, key: Key, password: Optional[str] = None) -> str:
        """Put it in the place of the vault in use, which goes to the backups. Return where that is, or ''.

        Its sealed key lies beside the one in use before the vaults change places: see _vault_keys.
        """
        place, beside_keys = self._place, f"{_partial(self._place)}/vault"
        private_directory(_vault.CIPHERS)
        private_directory(_vault.KEYS)
        if os.path.lexists(_partial(place)):  # of one that was interrupted
            finish(place)
        prepare(place)
        if key.origin not in ("password", "master"):
            write(place.next_key, read(key.origin))
        os.chown(self.cipher, 0, 0)
        os.chmod(self.cipher, 0o700)
        must(self._run, ["sync", "--file-system", self.cipher])
        # The vault in use goes to its keys in the same moment: what lies with the archive is removed by the next restore.
        rename(self.cipher, beside_keys)
        if os.path.lexists(place.cipher):
            exchange(beside_keys, place.cipher)
        else:
            rename(beside_keys, place.cipher)
        kept = finish(place)
        try:
            self._open_by(keys, key, password)
            self._others()
        except (OSError, _vault.VaultError) as problem:
            was = f", and what was in use in {kept}" if kept else ""
            raise _vault.VaultError(
                f"the archive's vault of agent {place.name} is in its place{was}, but the restore is not finished: {problem}. "
                f"Mend that, and run this again"
            ) from problem
        return kept

    def _open_by(self, keys: Keys, key: Key, password: Optional[str]) -> None:
        """Let the restored vault be opened by what it came with, or by a new key where only the master key opens it."""
        if key.origin in ("master", "password"):
            for path in (self._place.key, self._place.next_key):
                remove(path)
        if key.origin == "master":
            keys.adopt(key.line, password if self._place.unlock == "operator" else None)
        else:
            keys.settle()

    def _others(self) -> None:
        for path in (self._place.escrow, self._place.escrow_of):
            remove(path)
            if os.path.lexists(self.path(path)):
                private_directory(os.path.dirname(path))
                write(path, read(self.path(path)))
        sync_directory(_vault.CIPHERS)


def must(run: Run, argv: List[str]) -> str:
    """Run a program that must succeed. Return its output."""
    rc, out, err = run(argv)
    if rc != 0:
        raise _vault.VaultError(f"{' '.join(argv)} failed: {' '.join((err or out).split())}")
    return out
