# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private: make a vault, change what opens it, and renew its master key, so that power lost anywhere leaves one that opens.

gocryptfs.conf and the sealed key are two files on two file systems, and no rename replaces both.  So the key that is to
come lies beside the one in force while gocryptfs.conf is replaced, and whoever opens the vault tries both:

    done so far                                 what opens the vault
    NAME.cred.next written                      NAME.cred
    gocryptfs.conf (or the vault) replaced      NAME.cred.next
    NAME.cred.next renamed to NAME.cred         NAME.cred

Each is on disk before the next begins.  settle() finishes or takes back what was broken off.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import secrets
import stat
from typing import Any, List, NamedTuple, Optional, Sequence, Set, Tuple

from . import _gocryptfs, _vault
from ._vault_disk import private_directory, read, remove, rename, write
from ._vault_open import IDLE, ROOM, Key, Run, candidates, hidden, mounted, not_opened, stored

_RENAME_EXCHANGE = 2  # linux/fs.h
_AT_FDCWD = -100  # fcntl.h
# Mounts a vault under $0, where only this script sees it; prints x for each name that decrypts, and r if one file does.
_PROOF = r"""mount -t tmpfs -o mode=0700,size=1m,nosuid,nodev,noexec cordon-vault-admin "$0" && mkdir "$0/vault" || exit
"$@" >"$0/log" 2>&1 || { code=$?; cat "$0/log" >&2; exit "$code"; }
find "$0/vault" -mindepth 1 -maxdepth 1 -printf x
find "$0/vault" -type f -size +0 -exec dd if={} of=/dev/null count=1 status=none \; -printf r -quit
umount "$0/vault"
"""


class How(NamedTuple):
    """How keys and vaults are made: see the module's options of these names; program seals keys."""

    seal: str
    program: str
    scrypt_log_n: Optional[int] = None
    cipher: str = "aes-gcm"


class Keys:
    """What opens the vault of one agent; new is the password that a change shall put in force, or has."""

    def __init__(
        self, run: Run, place: _vault.Place, how: How, password: Optional[str] = None, new: Optional[str] = None
    ) -> None:
        self._run = run
        self._place = place
        self._how = how
        self._passwords = [one for one in (password, new) if one is not None]
        self._config = f"{place.cipher}/{_gocryptfs.CONFIG}"

    # --- Looking --------------------------------------------------------------------------------

    def opening(self) -> Tuple[Key, str]:
        """Return the key that opens the vault, and the vault's master key; VaultError when nothing does."""
        tried, broken = [], ""
        for key in candidates(self._run, self._place, self._passwords):
            try:
                master = self._master_key(self._config, key.line)
            except _vault.VaultError as error:
                master, broken = None, f". {error}"
            if master:
                return key, master
            tried.append(key.origin)
        raise _vault.VaultError(not_opened(self._place, tried) + broken + self._interrupted() + self.copy_opens())

    def needed(self, steps: Sequence[str]) -> None:
        """Look whether there is what these steps need to open a vault, or to make one by a key that is there; else VaultError."""
        if _vault.SETTLE in steps:
            self.settling()
        elif _vault.TO_PASSWORD in steps or _vault.TO_SEALED in steps:
            self.opening()
        elif _vault.CREATE in steps and _vault.SEAL not in steps:
            self._line_for_new()

    def opens(self, line: str) -> bool:
        """Whether this password opens the vault."""
        return self._master_key(self._config, line) is not None

    def _interrupted(self) -> str:
        """The remedy where a change to another password was broken off."""
        name = self._place.name
        if self._place.unlock == "sealed" or not os.path.lexists(self._place.staging):
            return ""
        return f". A change of it was interrupted: give the new password, in passwords.{name} or new_passwords.{name}"

    def copy_opens(self) -> str:
        """The remedy where gocryptfs.conf was damaged and the copy of it was not.

        The copy may be another vault's: where a new master key was broken off, and after a restore.  Over the only
        gocryptfs.conf with the master key it would be the end of the vault.
        """
        if not os.path.lexists(self._place.copy):
            return ""
        try:
            keys = candidates(self._run, self._place, self._passwords)
            masters = [self._master_key(self._place.copy, key.line) for key in keys]
            if not any(master is not None and self._decrypts(master, self._place.copy) for master in masters):
                return ""
        except (OSError, ValueError, _vault.VaultError) as error:
            return f". Whether the copy of it helps, {self._place.copy}, could not be told: {error}"
        return f". The copy opens, so gocryptfs.conf was damaged or replaced: cp {self._place.copy} {self._config}"

    def _master_key(self, config: str, line: str) -> Optional[str]:
        rc, out, err = self._run(_gocryptfs.master_key_argv(config), data=f"{line}\n")
        if rc == 0 and re.fullmatch(r"[0-9a-f]{64}", out.strip()):
            return out.strip()
        if _gocryptfs.wrong_password(rc, err):
            return None
        raise _vault.VaultError(_gocryptfs.failure(config, rc, err))

    # --- Making ---------------------------------------------------------------------------------

    def seal(self) -> None:
        """Make a key and keep it sealed only; in the clear it passes through pipes."""
        self._store(self._place.key, secrets.token_hex(32))

    def create(self) -> None:
        """Make the vault under another name and rename it when it is on disk: it exists whole or not at all."""
        private_directory(_vault.CIPHERS)
        self._init(self._line_for_new(), self._how.cipher)
        rename(self._place.staging, self._place.cipher)
        self.keep_copy()

    def _init(self, line: str, cipher: str) -> None:
        """Make an empty vault in the staging directory, on disk."""
        self._clear()
        os.mkdir(self._place.staging, 0o700)
        argv = _gocryptfs.init_argv(self._place.staging, self._log_n(), cipher)
        self._gocryptfs(argv, f"{line}\n", f"{self._place.cipher} was not made")
        _sync(self._place.staging)

    def _line_for_new(self) -> str:
        """What shall open the vault that is to be made."""
        if self._place.unlock != "sealed":
            return self._given()
        try:
            return next(candidates(self._run, self._place, ())).line
        except _vault.VaultError as error:
            remedy = f"There is no vault that it opens: for a new one move {self._place.key} away"
            raise _vault.VaultError(f"{error}. {remedy}") from error

    def _given(self) -> str:
        """The operator's password."""
        if not self._passwords:
            name = self._place.name
            raise _vault.VaultError(f"vault of agent {name}: its password is needed: give passwords.{name}")
        return self._passwords[0]

    def keep_copy(self) -> None:
        """Keep a copy of gocryptfs.conf: it is encrypted, and a damaged byte of the only one would lose the vault."""
        private_directory(_vault.KEYS)
        write(self._place.copy, read(self._config))

    def _log_n(self) -> int:
        least = _gocryptfs.LOG_N_OF_KEY if self._place.unlock == "sealed" else _gocryptfs.LOG_N_OF_PASSWORD
        return self._how.scrypt_log_n or least

    def _store(self, path: str, line: str) -> None:
        private_directory(_vault.KEYS)
        if self._how.program == "openssl" and not os.path.lexists(_vault.HOST_SECRET):
            os.makedirs(os.path.dirname(_vault.HOST_SECRET), mode=0o755, exist_ok=True)
            write(_vault.HOST_SECRET, secrets.token_hex(32))
        argv = _vault.seal_argv(self._place, self._how.seal, self._how.program, os.path.exists(_vault.TPM))
        write(path, self._must(argv, line))

    # --- Changing -------------------------------------------------------------------------------

    def settling(self) -> Key:
        """Return the key in force, where a change was broken off; VaultError where the vault in place is not proved to be whole.

        What lies in the staging place may be the old vault, and the only one.
        """
        key, master = self.opening()
        place = self._place
        if os.path.lexists(f"{place.staging}/{_gocryptfs.IDENTITY}") and not self._decrypts(master, self._config):
            aside = f"{_vault.CIPHERS}/.{place.name}.broken"
            raise _vault.VaultError(
                f"vault of agent {place.name}: nothing was removed. {self._config} opens, but what lies beside it does not "
                f"decrypt: it is another vault's. The vault of before a change that was interrupted is in {place.staging}. "
                f"To go back to that: mv {place.cipher} {aside} && mv {place.staging} {place.cipher}"
            )
        return key

    def settle(self) -> None:
        """Finish or take back a change that was broken off, after finding out which key is in force."""
        key = self.settling()
        if key.origin == self._place.next_key:
            rename(self._place.next_key, self._place.key)
        elif key.origin == self._place.key:
            remove(self._place.next_key)
        self.keep_copy()
        self._clear()
        if key.origin == "password" and self._place.unlock == "sealed":
            self.to_sealed()

    def to_password(self) -> None:
        """Put a vault that a sealed key opened under the operator's password."""
        password = self._given()
        if not self.opens(password):
            self.renew_password(password)
        for path in (self._place.key, self._place.next_key):
            remove(path)

    def to_sealed(self) -> None:
        """Put a vault that a password opened under a sealed key."""
        self.renew_password(None)

    def renew_password(self, new: Optional[str]) -> None:
        """Put the master key under a new sealed key, or under this password."""
        key, master = self.opening()
        self._wrap(f"{key.line}\n", new, master, by_master_key=False)

    def adopt(self, master: str, new: Optional[str]) -> None:
        """Put a vault of which only the master key is left under a new key or this password."""
        self.prove(master)
        self._wrap(f"{master}\n", new, master, by_master_key=True)

    def prove(self, master: str) -> None:
        """VaultError where this is not the vault's master key.

        gocryptfs cannot tell a wrong one from the right one, and would put it into the config without a word.
        """
        if not self._decrypts(master, self._config):
            raise _vault.VaultError(
                f"vault of agent {self._place.name}: the master key given is not its own: what is in the vault does not decrypt. "
                f"Nothing was changed. Decrypt the escrow that belongs to this vault"
            )

    def _wrap(self, old: str, new: Optional[str], master: str, by_master_key: bool) -> None:
        line = secrets.token_hex(32) if new is None else new
        try:
            if new is None:
                self._store(self._place.next_key, line)
            staged = self._rewrap(old, line, by_master_key)
            if self._master_key(staged, line) != master:
                name = self._place.name
                raise _vault.VaultError(f"vault of agent {name}: the new key does not open it; the old one is in force")
            _sync(self._place.staging)
        except BaseException:  # what is left would hide what the next run is to say of the key that is in force
            if new is None:
                remove(self._place.next_key)
            self._clear()
            raise
        rename(staged, self._config)
        self._in_force(sealed=new is None)

    def _rewrap(self, old: str, line: str, by_master_key: bool) -> str:
        """Change the password in a copy of the config, apart from the vault. Return the copy's path."""
        staging = self._place.staging
        self._clear()
        os.mkdir(staging, 0o700)
        write(f"{staging}/{_gocryptfs.CONFIG}", read(self._config))
        argv = _gocryptfs.passwd_argv(staging, self._log_n(), by_master_key)
        # Twice: a gocryptfs that asks for confirmation gets it, another reads one line only.
        what = f"the key of {self._place.cipher} was not changed"
        self._gocryptfs(argv, f"{old}{line}\n{line}\n", what)
        return f"{staging}/{_gocryptfs.CONFIG}"

    def _in_force(self, sealed: bool) -> None:
        """The vault opens by the new key: give that its place, and forget the old one."""
        self.keep_copy()
        if sealed:
            rename(self._place.next_key, self._place.key)
        self._clear()

    def _clear(self) -> None:
        """Remove what lies in the staging place, which nobody but root can reach; rm goes as deep as an agent may have dug."""
        if os.path.lexists(self._place.staging):
            self._must(["rm", "-r", "--force", "--one-file-system", "--", self._place.staging], "")
            sync_directory(_vault.CIPHERS)

    # --- A new master key -----------------------------------------------------------------------

    def renew_master(self, new: Optional[str]) -> None:
        """Copy everything into a new vault and put that in the old one's place; nobody may have the vault open.

        Needs a mount namespace of this process's own: see _vault_open.enter_private_namespace().
        """
        key, _master = self.opening()
        line = key.line if new is None else new
        if self._place.unlock == "sealed":
            line = secrets.token_hex(32)
            self._store(self._place.next_key, line)
        try:
            self._new_vault(key.line, line)
        except BaseException:  # a half copy would keep a full disk full
            remove(self._place.next_key)
            self._clear()
            raise
        exchange(self._place.staging, self._place.cipher)
        self._in_force(sealed=self._place.unlock == "sealed")

    def _new_vault(self, old_line: str, new_line: str) -> None:
        with open(self._config, encoding="utf-8") as stream:
            cipher = _gocryptfs.cipher(_gocryptfs.parse_config(stream.read()))
        self._init(new_line, cipher)
        self._copy(old_line, new_line)
        self._must(["sync", "--file-system", self._place.staging], "")

    def _copy(self, old_line: str, new_line: str) -> None:
        """Copy all files with their owners, modes, times and hard links, and compare what arrived."""
        name = self._place.name
        points = [f"{ROOM}/{name}.old", f"{ROOM}/{name}.new"]
        argvs = [
            _gocryptfs.mount_argv(self._place.cipher, points[0], f"{self._place.source}-old", True, IDLE, shared=False),
            _gocryptfs.mount_argv(self._place.staging, points[1], f"{self._place.source}-new", False, IDLE, shared=False),
        ]
        with mounted(self._run, argvs[0], points[0], f"{self._place.source}-old", old_line), \
                mounted(self._run, argvs[1], points[1], f"{self._place.source}-new", new_line):
            self._refuse_endless(points[0])
            self._copy_files(points)
            before, after = (_tree(point) for point in points)
        lost = _entries(self._place.cipher) - (len(before) - 1)
        if lost > 0:
            raise _vault.VaultError(hidden(self._place, lost))
        if before != after:
            unlike = sorted({item[0] for item in before ^ after})
            raise _vault.VaultError(
                f"vault of agent {name}: the copy differs from it in {', '.join(unlike[:5])}, so the old one stays. Was it "
                f"written to meanwhile? Close it and run this again"
            )

    def _refuse_endless(self, top: str) -> None:
        """An agent may have made files with holes, which a copy reads for days, while nobody can open the vault."""
        files = [(os.lstat(f"{here}/{name}").st_size, f"{here}/{name}") for here, _names, names in os.walk(top) for name in names]
        room = os.statvfs(top)
        if sum(size for size, _path in files) > room.f_blocks * room.f_frsize:
            size, path = max(files)
            raise _vault.VaultError(
                f"vault of agent {self._place.name}: its files are longer than its disk is large, so they have holes: "
                f"{os.path.relpath(path, top)!r} has {size} bytes. A copy would take days. Open the vault, remove or shorten it, "
                f"and run this again"
            )

    def _copy_files(self, points: List[str]) -> None:
        try:
            self._must(["cp", "--archive", "--no-target-directory", "--", *points], "")
        except _vault.VaultError as error:
            damaged = (
                ". A file with an input/output error is damaged: a secret is written anew by vault_secrets (the role); what is "
                "the agent's own must be removed, or the vault restored from a backup"
            )
            why = damaged if "Input/output error" in str(error) else ""
            name = self._place.name
            raise _vault.VaultError(f"vault of agent {name}: it was not copied, and stays as it is: {error}{why}") from error

    def _decrypts(self, master: str, config: str) -> bool:
        """Whether the vault is of this master key; the config says of which cipher.

        One file that is read proves it, since files are authenticated.  Without one all names must decrypt.
        """
        with open(config, encoding="utf-8") as stream:
            cipher = _gocryptfs.cipher(_gocryptfs.parse_config(stream.read()))
        os.makedirs(ROOM, mode=0o700, exist_ok=True)
        argv = _gocryptfs.mount_argv(
            self._place.cipher, f"{ROOM}/vault", f"{self._place.source}-master", True, IDLE, master=cipher
        )
        apart = ["unshare", "--mount", "--propagation", "slave", "bash", "-c", _PROOF, ROOM]
        rc, found, err = self._run([*apart, *argv], data=f"{master}\n")
        if rc != 0:
            raise _vault.VaultError(_gocryptfs.failure(f"{self._place.cipher} was not opened by a master key", rc, err))
        return found.endswith("r") or found == "x" * len(stored(self._place.cipher))

    def _gocryptfs(self, argv: List[str], data: str, what: str) -> None:
        rc, out, err = self._run(argv, data=data)
        if rc != 0:
            raise _vault.VaultError(_gocryptfs.failure(what, rc, err or out))

    def _must(self, argv: List[str], data: str) -> str:
        rc, out, err = self._run(argv, data=data)
        if rc != 0:
            raise _vault.VaultError(f"{' '.join(argv)} failed: {' '.join((err or out).split())}")
        return out


def identity(place: _vault.Place) -> str:
    """Name a vault and its master key without telling anything of them."""
    with open(f"{place.cipher}/{_gocryptfs.IDENTITY}", "rb") as stream:
        return hashlib.sha256(stream.read()).hexdigest()


def exchange(one: str, other: str) -> None:
    """Let two directories change places at once (renameat2(2)): there is no moment without a vault."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise _vault.VaultError(f"{one} and {other} cannot change places on this file system ({reason}); the old vault stays")
    for parent in sorted({os.path.dirname(one), os.path.dirname(other)}):
        sync_directory(parent)


def sync_directory(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync(directory: str) -> None:
    """Put a directory and its files on disk."""
    for path in [*(f"{directory}/{name}" for name in sorted(os.listdir(directory))), directory]:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _entries(cipher: str) -> int:
    """How many files and directories an encrypted directory holds, at all depths."""
    found, pending = 0, [cipher]
    while pending:
        inside = pending.pop()
        names = [f"{inside}/{name}" for name in stored(inside)]
        found += len(names)
        pending += [path for path in names if stat.S_ISDIR(os.lstat(path).st_mode)]
    return found


def _tree(top: str) -> Set[Tuple[Any, ...]]:
    """Describe every entry: path, kind and mode, owner, and what is in it; OSError for what cannot be read."""
    seen = os.stat(top)
    found: Set[Tuple[Any, ...]] = {("", seen.st_mode, seen.st_uid, seen.st_gid, "")}
    pending = [""]
    while pending:
        inside = pending.pop()
        for name in os.listdir(os.path.join(top, inside)):
            path = os.path.join(inside, name)
            seen = os.lstat(os.path.join(top, path))
            found.add((path, seen.st_mode, seen.st_uid, seen.st_gid, _content(os.path.join(top, path), seen.st_mode)))
            if stat.S_ISDIR(seen.st_mode):
                pending.append(path)
    return found


def _content(path: str, mode: int) -> str:
    if stat.S_ISLNK(mode):
        return os.readlink(path)
    if not stat.S_ISREG(mode):
        return ""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
