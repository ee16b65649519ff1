# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private: where the vault of each agent lies, and what must be done to have it.

Everything here is pure: a module observes the host, asks steps(), and acts.

The order of the steps is what makes a lost secret impossible: the sealed key is on disk before the
vault that needs it appears, and the vault appears in one rename.  Power lost in between leaves a key
without a vault (the next run makes the vault) or a half-made vault under another name (made again).
A vault without its key is never made again: that would be the loss.
"""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Tuple

CIPHERS = "/var/lib/cordon/vault"
KEYS = "/etc/cordon/vault"
# Where systemd-creds is missing: what its own /var/lib/systemd/credential.secret is to it.
HOST_SECRET = "/var/lib/cordon/vault-host.secret"
TPM = "/dev/tpmrm0"  # the TPM 2.0, as the kernel shares it out
_OPENSSL = ["-aes-256-cbc", "-pbkdf2", "-a", "-A", "-pass", f"file:{HOST_SECRET}"]
_OPENSSL_MARK = "U2FsdGVkX1"  # "Salted__" in base64: openssl-enc(1)


class VaultError(Exception):
    """Something that keeps a vault from being used; the message names it and the remedy."""


class Place(NamedTuple):
    """The paths and names of one agent's vault."""

    name: str
    user: str
    home: str

    @property
    def cipher(self) -> str:
        """The encrypted directory."""
        return f"{CIPHERS}/{self.name}"

    @property
    def staging(self) -> str:
        """Where a vault is made before it gets its name; no agent's name starts with a dot."""
        return f"{CIPHERS}/.{self.name}.new"

    @property
    def key(self) -> str:
        """The sealed key."""
        return f"{KEYS}/{self.name}.cred"

    @property
    def point(self) -> str:
        """The mount point."""
        return f"{self.home}/.vault"

    @property
    def source(self) -> str:
        """The file system's name in the mount table, and the name that is sealed into the key."""
        return f"cordon-vault-{self.name}"


class Seen(NamedTuple):
    """What a host shows of one agent's vault.

    user     whether the user exists
    home     whether the home directory exists
    cipher   absent, empty (a directory), vault, damaged (no readable gocryptfs.conf) or other
    key      whether the sealed key exists
    loose    paths whose owner or mode lets others in, of the encrypted directory and the key
    mounted  source of what is mounted at the mount point, or None
    stale    whether that mount is a FUSE mount whose process is gone
    point    absent, directory, other; of the bare mount point; "covered" while something is mounted
    immutable whether the bare mount point is immutable; None where it can neither be told nor set
    inside   names in the bare mount point
    """

    user: bool
    home: bool
    cipher: str
    key: bool
    loose: Tuple[str, ...] = ()
    mounted: Optional[str] = None
    stale: bool = False
    point: str = "absent"
    immutable: Optional[bool] = None
    inside: Tuple[str, ...] = ()


SEAL = "seal a new key"
CREATE = "create the vault"
CLOSE_OFF = "give the vault and its key to root alone"
UNMOUNT_STALE = "unmount the dead mount"
MAKE_POINT = "make the mount point"
FIX_POINT = "make the mount point immutable"


def problems(place: Place, seen: Seen, missing_is_planned: bool) -> List[str]:
    """Say what must be mended by hand before anything may be done.

    missing_is_planned: in check mode the user may be one that role agent would have made by now.
    """
    found = []
    if not (missing_is_planned or (seen.user and seen.home)):
        what = f"home {place.home}" if seen.user else f"user {place.user}"
        found.append(f"agent {place.name}: {what} is missing: run the role cordon.agent_host.agent first")
    return found + _cipher_problems(place, seen) + _point_problems(place, seen)


def _cipher_problems(place: Place, seen: Seen) -> List[str]:
    if seen.cipher == "damaged":
        return [
            f"{place.cipher}/gocryptfs.conf is missing or damaged: restore it from a backup. "
            f"Without one the vault cannot be opened; move {place.cipher} away to start an empty vault"
        ]
    if seen.cipher == "other":
        return [f"{place.cipher} is not a directory: move it away"]
    if seen.cipher == "vault" and not seen.key:
        return [
            f"{place.key} is missing, but the vault that it opens is there: restore the sealed key from a "
            f"backup of this host, or move {place.cipher} away to start an empty vault with a new key"
        ]
    return []


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


def steps(seen: Seen) -> List[str]:
    """What to do, in order, for a vault without problems."""
    wanted = [
        (SEAL, not seen.key),
        (CREATE, seen.cipher != "vault"),
        (CLOSE_OFF, bool(seen.loose)),
        (UNMOUNT_STALE, seen.stale),
        (MAKE_POINT, seen.point == "absent"),
        (FIX_POINT, seen.point in ("absent", "directory") and seen.immutable is False),
    ]
    return [step for step, needed in wanted if needed]


def shortfalls(place: Place, seen: Seen) -> List[str]:
    """Say what cannot be had on this host, though the vault works without it."""
    if seen.point in ("absent", "directory") and seen.immutable is None:
        return [not_immutable(place, "no right to set the flag, or a file system without it")]
    return []


def not_immutable(place: Place, reason: str) -> str:
    """The warning of a mount point that only its owner and mode protect."""
    return (
        f"{place.point} cannot be made immutable here ({reason}): the agent cannot write to it while the "
        f"vault is closed, but programs that run as root can"
    )


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
    """Seal standard input to standard output; systemd-creds checks the name inside when it unseals.

    auto is resolved here: systemd's own passes over a TPM that the firmware does not announce, so that on a host with a
    BIOS it would take the host key alone (seen with 252), and nobody would know.

    PCR 16: bind to this machine's TPM where there is one, but to none of its measurements, since a firmware update would
    change them and lock the vault for ever. 16 is for debugging: nothing measures into it. An empty list would say the
    same, but what 252 seals so, it refuses to unseal ("TPM2 PCR bank invalid or not supported", seen).
    """
    if with_program == "openssl":
        return ["openssl", "enc", "-e", *_OPENSSL]
    if seal == "auto":
        seal = "host+tpm2" if has_tpm else "host"
    binding = [] if seal == "host" else ["--tpm2-pcrs=16"]
    return ["systemd-creds", "encrypt", f"--with-key={seal}", *binding, f"--name={place.source}", "-", "-"]


def unseal_argv(place: Place, sealed: str) -> List[str]:
    """Unseal the key to standard output; sealed is the beginning of its file, which says how it was sealed."""
    if sealed.startswith(_OPENSSL_MARK):
        return ["openssl", "enc", "-d", *_OPENSSL, "-in", place.key]
    return ["systemd-creds", "decrypt", f"--name={place.source}", place.key, "-"]
