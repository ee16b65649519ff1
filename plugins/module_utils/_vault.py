# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private: where the vault of each agent lies, and what must be done to have it.

Everything here is pure: a module observes the host, asks steps(), and acts.

The order of the steps is what makes a lost secret impossible: the sealed key is on disk before the
vault that needs it appears, and the vault appears in one rename.  Power lost in between leaves a key
without a vault (the next run makes the vault) or a half-made vault under another name (made again).
A vault without its key is never made again: that would be the loss.  How a key changes: _vault_keys.
"""

from __future__ import annotations

import re
from typing import Any, List, Mapping, NamedTuple, Optional, Tuple

CIPHERS = "/var/lib/cordon/vault"
KEYS = "/etc/cordon/vault"
ESCROW = "/var/lib/cordon/vault-escrow"
BACKUPS = "/var/lib/cordon/vault-backup"
# Where systemd-creds is missing: what its own /var/lib/systemd/credential.secret is to it.
HOST_SECRET = "/var/lib/cordon/vault-host.secret"
TPM = "/dev/tpmrm0"  # the TPM 2.0, as the kernel shares it out
_OPENSSL = ["-aes-256-cbc", "-pbkdf2", "-a", "-A", "-pass", f"file:{HOST_SECRET}"]
_OPENSSL_MARK = "U2FsdGVkX1"  # "Salted__" in base64: openssl-enc(1)
_RECIPIENT = re.compile(r"age1[02-9ac-hj-np-z]{58}")  # Bech32 of 32 bytes, as age-keygen(1) prints it


class VaultError(Exception):
    """Something that keeps a vault from being used; the message names it and the remedy."""


class Place(NamedTuple):
    """The paths and names of one agent's vault.

    unlock: sealed (a key on the host opens it) or operator (a password).
    """

    name: str
    user: str = ""
    home: str = ""
    unlock: str = "sealed"

    @property
    def cipher(self) -> str:
        """The encrypted directory."""
        return f"{CIPHERS}/{self.name}"

    @property
    def staging(self) -> str:
        """Where a vault or a config is made before it gets its name; no agent's name starts with a dot."""
        return f"{CIPHERS}/.{self.name}.new"

    @property
    def lock(self) -> str:
        """Held shared by who opens the vault, alone by who changes what opens it."""
        return f"{CIPHERS}/.{self.name}.lock"

    @property
    def key(self) -> str:
        """The sealed key."""
        return f"{KEYS}/{self.name}.cred"

    @property
    def next_key(self) -> str:
        """The sealed key that the vault is about to get; after a power loss either may be the one that opens it."""
        return f"{KEYS}/{self.name}.cred.next"

    @property
    def copy(self) -> str:
        """A second copy of gocryptfs.conf: one damaged byte of it would lose the vault."""
        return f"{KEYS}/{self.name}.conf"

    @property
    def escrow(self) -> str:
        """The master key, encrypted to people outside the host."""
        return f"{ESCROW}/{self.name}.age"

    @property
    def escrow_of(self) -> str:
        """Of which vault and for whom the escrow is, as JSON."""
        return f"{ESCROW}/{self.name}.json"

    @property
    def point(self) -> str:
        """The mount point."""
        return f"{self.home}/.vault"

    @property
    def source(self) -> str:
        """The file system's name in the mount table, and the name that is sealed into the key."""
        return f"cordon-vault-{self.name}"

    @property
    def unit(self) -> str:
        """The unit that opens the vault."""
        return f"cordon-vault@{self.name}.service"


class Seen(NamedTuple):
    """What a host shows of one agent's vault.

    user     whether the user exists
    home     whether the home directory exists
    cipher   absent, empty (a directory), vault, half (made by an init that broke off; no file is in it),
             damaged (no readable gocryptfs.conf, or no gocryptfs.diriv) or other
    key      whether the sealed key exists
    next_key whether a sealed key that is not in force yet, or only just is, exists
    copy     absent, same or differs: the copy of gocryptfs.conf beside it
    leftover whether something lies where vaults are made
    loose    paths whose owner or mode lets others in, of the encrypted directory and the keys
    mounted  source of what is mounted at the mount point, or None
    stale    whether that mount is a FUSE mount whose process is gone
    point    absent, directory, loose (a directory with another owner or mode), other; of the bare mount point; "covered"
             while something is mounted
    immutable whether the bare mount point is immutable; None where it can neither be told nor set
    inside   names in the bare mount point, but for the notices of _vault_notice
    """

    user: bool
    home: bool
    cipher: str
    key: bool
    next_key: bool = False
    copy: str = "absent"
    leftover: bool = False
    loose: Tuple[str, ...] = ()
    mounted: Optional[str] = None
    stale: bool = False
    point: str = "absent"
    immutable: Optional[bool] = None
    inside: Tuple[str, ...] = ()


SEAL = "seal a new key"
CREATE = "create the vault"
SETTLE = "finish what was interrupted, and keep a copy of gocryptfs.conf"
TO_PASSWORD = "put the vault under the operator's password"
TO_SEALED = "put the vault under a sealed key"
CLOSE_OFF = "give the vault and its key to root alone"
UNMOUNT_STALE = "unmount the dead mount"
MAKE_POINT = "make the mount point"
FIX_POINT = "make the mount point immutable"
# Not of steps(): asked for by name.
RENEW_PASSWORD = "put the vault under a new key"
RENEW_MASTER = "copy everything into a new vault with a new master key"
ADOPT = "put the vault that the master key opens under a new key"


def problems(place: Place, seen: Seen, missing_is_planned: bool, password: bool = False) -> List[str]:
    """Say what must be mended by hand before anything may be done.

    missing_is_planned: in check mode the user may be one that role agent would have made by now.
    password: whether the vault's password was given.
    """
    found = []
    if not (missing_is_planned or (seen.user and seen.home)):
        what = f"home {place.home}" if seen.user else f"user {place.user}"
        found.append(f"agent {place.name}: {what} is missing: run the role cordon.agent_host.agent first")
    found += _cipher_problems(place, seen)
    found += _password_problems(place, seen, password)
    return found + _point_problems(place, seen)


def _cipher_problems(place: Place, seen: Seen) -> List[str]:
    if seen.cipher == "damaged":
        return [
            f"{place.cipher}: gocryptfs.conf or gocryptfs.diriv is missing or damaged: restore it from a backup. "
            f"Without it the vault cannot be opened; move {place.cipher} away to start an empty vault"
        ]
    if seen.cipher == "half":
        return [
            f"{place.cipher} is a half-made vault without a single file in it: somebody's gocryptfs -init broke off. "
            f"Nothing can be lost: rm -r {place.cipher}, and run this again"
        ]
    if seen.cipher == "other":
        return [f"{place.cipher} is not a directory: move it away"]
    return []


def _password_problems(place: Place, seen: Seen, password: bool) -> List[str]:
    """What only the password can tell or do; nothing where it was given."""
    if password:
        return []
    if place.unlock == "sealed":
        if seen.cipher == "vault" and not (seen.key or seen.next_key):
            return [
                f"{place.key} is missing, but the vault that it opens is there: restore the sealed key from a "
                f"backup of this host, or put it under a new one with its master key (docs/vault.md, Escrow), or "
                f"move {place.cipher} away to start an empty vault with a new key. If a person's password "
                f"opens it, give that in passwords.{place.name}"
            ]
        return []
    needs = ""
    if seen.cipher in ("absent", "empty"):
        needs = "it is to be made"
    elif seen.key or seen.next_key:
        needs = f"a sealed key opens it, {place.key}, and the password is to replace that"
    elif seen.leftover or (seen.cipher == "vault" and seen.copy != "same"):
        needs = "a change of it was interrupted, or its gocryptfs.conf was changed, and only the password tells which"
    return [f"vault of agent {place.name}: its password is needed, because {needs}: give passwords.{place.name}"] if needs else []


def _point_problems(place: Place, seen: Seen) -> List[str]:
    if seen.mounted not in (None, place.source):
        return [f"{place.point}: {seen.mounted} is mounted there, not the vault: umount {place.point}"]
    if seen.point == "other":
        return [f"{place.point} is not a directory: move it away"]
    if seen.inside:
        return [
            f"{place.point} is not empty while the vault is closed: {', '.join(seen.inside)} lie there in the "
            f"clear. chattr -i {place.point}, move them away, and replace the secrets in them: they were on disk"
        ]
    return []


def steps(place: Place, seen: Seen) -> List[str]:
    """What to do, in order, for a vault without problems."""
    there, sealed = seen.cipher == "vault", place.unlock == "sealed"
    wanted = [
        (SEAL, sealed and not there and not seen.key),
        (CREATE, not there),
        (SETTLE, there and (seen.next_key or seen.leftover or seen.copy != "same")),
        (TO_PASSWORD, not sealed and (seen.key or seen.next_key)),
        (TO_SEALED, sealed and there and not (seen.key or seen.next_key)),
        (CLOSE_OFF, bool(seen.loose)),
        (UNMOUNT_STALE, seen.stale),
        (MAKE_POINT, seen.point in ("absent", "loose")),
        (FIX_POINT, seen.point in ("absent", "directory", "loose") and seen.immutable is False),
    ]
    return [step for step, needed in wanted if needed]


def shortfalls(place: Place, seen: Seen) -> List[str]:
    """Say what cannot be had on this host, though the vault works without it."""
    if seen.point in ("absent", "directory", "loose") and seen.immutable is None:
        return [not_immutable(place, "no right to set the flag, or a file system without it")]
    return []


def not_immutable(place: Place, reason: str) -> str:
    """The warning of a mount point that only its owner and mode protect."""
    return (
        f"{place.point} cannot be made immutable here ({reason}): the agent cannot write to it while the "
        f"vault is closed, but programs that run as root can"
    )


def confirmed(removed: List[str], confirm: List[str]) -> Optional[str]:
    """Why a removal is refused: its confirmation must name exactly the agents that would lose their vault."""
    if sorted(confirm) == sorted(removed):
        return None
    return (
        f"nothing was removed. state absent takes the vaults of {', '.join(sorted(removed)) or 'nobody'} away, and confirm "
        f"names {', '.join(sorted(confirm)) or 'nobody'}: write confirm: [{', '.join(sorted(removed))}] if that is meant"
    )


def unusable_password(password: str) -> Optional[str]:
    """Why a password cannot be one; gocryptfs reads one line."""
    if not password:
        return "it is empty"
    try:
        size = len(password.encode())
    except UnicodeEncodeError:
        return "it has a character that UTF-8 has no bytes for"
    if size > 2000:
        return "it is longer than 2000 bytes, and gocryptfs takes no more than 2048"
    if any(character in password for character in "\r\n\0"):
        return "it has a line break or a null byte in it, and gocryptfs reads one line"
    return None


def bad_passwords(option: str, given: Mapping[str, Any]) -> List[str]:
    """What is wrong with the passwords of an option, by agent."""
    found = []
    for name, one in given.items():
        why = unusable_password(one) if isinstance(one, str) else "it is no text: put it in quotes"
        found += [f"{option}.{name}: {why}"] if why else []
    return found


def master_key(given: Any) -> str:
    """A master key as gocryptfs-xray prints it, or '' for what is none; gocryptfs also takes capitals, and hyphens within."""
    plain = given.strip().replace("-", "").lower() if isinstance(given, str) else ""
    return plain if re.fullmatch(r"[0-9a-f]{64}", plain) else ""


def bad_master_keys(given: Mapping[str, Any]) -> List[str]:
    """What is wrong with the option master_keys."""
    return [
        f"master_keys.{name}: it is no master key: give the 64 hexadecimal digits that its escrow decrypts to"
        for name, key in given.items()
        if not master_key(key)
    ]


def bad_recipients(recipients: List[str]) -> List[str]:
    """Those that are no age recipients."""
    return [one for one in recipients if not _RECIPIENT.fullmatch(one)]


def program(seal: str, has_systemd_creds: bool) -> str:
    """Choose what seals a new key; VaultError where this host cannot do what is asked."""
    if seal == "openssl" or (seal == "auto" and not has_systemd_creds):
        return "openssl"
    if not has_systemd_creds:
        raise VaultError(
            f"systemd-creds is missing, so a key cannot be sealed with {seal}: it comes with systemd 250 "
            f"(Debian 12, Ubuntu 24.04). Set vault_seal to openssl, or use a newer release"
        )
    return "systemd-creds"


def seal_argv(place: Place, seal: str, with_program: str, has_tpm: bool = False) -> List[str]:
    """Seal standard input to standard output; systemd-creds checks the name inside when it unseals."""
    if with_program == "openssl":
        return ["openssl", "enc", "-e", *_OPENSSL]
    return creds_argv(place.source, seal, has_tpm)


def creds_argv(name: str, seal: str, has_tpm: bool) -> List[str]:
    """Seal standard input to standard output by systemd-creds.

    auto is resolved here: systemd's own passes over a TPM that the firmware does not announce, so that on a host with a
    BIOS it would take the host key alone (seen with 252), and nobody would know.

    PCR 16: bind to this machine's TPM where there is one, but to none of its measurements, since a firmware update would
    change them and lock the vault for ever. 16 is for debugging: nothing measures into it. An empty list would say the
    same, but what 252 seals so, it refuses to unseal ("TPM2 PCR bank invalid or not supported", seen).
    """
    if seal == "auto":
        seal = "host+tpm2" if has_tpm else "host"
    binding = [] if seal == "host" else ["--tpm2-pcrs=16"]
    return ["systemd-creds", "encrypt", f"--with-key={seal}", *binding, f"--name={name}", "-", "-"]


def unseal_argv(place: Place, path: str, sealed: str) -> List[str]:
    """Unseal the key in path to standard output; sealed is the beginning of the file, which says how it was sealed."""
    if sealed.startswith(_OPENSSL_MARK):
        return ["openssl", "enc", "-d", *_OPENSSL, "-in", path]
    return ["systemd-creds", "decrypt", f"--name={place.source}", path, "-"]
