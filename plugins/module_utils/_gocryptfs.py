# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private: speak to gocryptfs: its command lines, its config file and its exit codes.

gocryptfs reads the password from standard input when that is no terminal, so a key is never an
argument, a variable or a file.  Exit codes: internal/exitcodes/exitcodes.go of gocryptfs 2.x.
"""

from __future__ import annotations

import json
from typing import Any, Dict, List, NamedTuple

CONFIG = "gocryptfs.conf"
# The number of a vault's top directory: random, written by -init and never again, so it names the vault and its master key.
IDENTITY = "gocryptfs.diriv"
# What gocryptfs keeps beside the encrypted files of the top directory.
OWN_FILES = frozenset((CONFIG, IDENTITY))
# A costly KDF slows down the guessing of a password.  A random key of 256 bits is not guessed, and more than the
# smallest cost that gocryptfs takes would only delay each opening; a person's password gets gocryptfs's own default.
LOG_N_OF_KEY, LOG_N_OF_PASSWORD = 10, 16
# The most that cordon-vault@.service has the memory for: 18 takes 256 MiB, and 19 all of its MemoryMax=512M.
LOG_N_LEAST, LOG_N_MOST = 10, 18
# cipher: (option of -init, feature flag, its name for people)
CIPHERS = {
    "aes-gcm": ("", "GCMIV128", "AES-GCM"),
    "aes-siv": ("-aessiv", "AESSIV", "AES-SIV"),
    "xchacha": ("-xchacha", "XChaCha20Poly1305", "XChaCha20-Poly1305"),
}

# code: (what it means, what to do)
_EXITS = {
    6: ("the encrypted directory is missing, not empty, or no directory", "look at it; nothing was changed"),
    7: ("the new vault could not be written", "check the free space and the file system"),
    8: (
        "gocryptfs.conf cannot be read or is damaged",
        "restore gocryptfs.conf from a backup; the key cannot be had without it",
    ),
    9: ("no password arrived", "check that the sealed key can be unsealed on this host"),
    10: (
        "the mount point is missing, not empty, or already mounted",
        "look at it; files in it lie there in the clear",
    ),
    12: (
        "the key does not open this vault",
        "put back the sealed key that belongs to it, or the matching gocryptfs.conf",
    ),
    19: ("FUSE refused the mount", "install fuse3, and check that /dev/fuse exists and mounting is allowed"),
    22: ("the password is empty", "check that the sealed key can be unsealed on this host"),
    23: ("gocryptfs.conf cannot be opened", "restore it from a backup, or correct its owner and mode"),
    24: ("gocryptfs.conf cannot be written", "check the free space and the file system"),
    15: ("gocryptfs was interrupted", "run it again"),
    26: ("the check found damaged files", "restore the files that it names from a backup"),
    27: ("the vault has a format that this gocryptfs no longer opens", "copy it with an older gocryptfs"),
}


class Config(NamedTuple):
    """What gocryptfs.conf says about a vault, without its secrets."""

    creator: str
    flags: List[str]
    scrypt_log_n: int


def failure(what: str, code: int, output: str) -> str:
    """Say in one line what failed, why, and what to do; output is gocryptfs's own."""
    meaning, remedy = _EXITS.get(code, ("gocryptfs failed", "its own message says why"))
    said = " ".join(output.split())
    return f"{what}: {meaning} (gocryptfs exit code {code}): {remedy}. gocryptfs said: {said or 'nothing'}"


def parse_config(text: str) -> Config:
    """Read gocryptfs.conf (JSON); ValueError when it is not what gocryptfs writes."""
    data: Any = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    try:
        flags, cost, creator = data["FeatureFlags"], data["ScryptObject"]["N"], data.get("Creator", "")
        if not data["EncryptedKey"] or cost < 2:
            raise ValueError("no encrypted key")
        return Config(str(creator), sorted(flags), cost.bit_length() - 1)
    except (KeyError, TypeError, AttributeError) as problem:
        raise ValueError(f"{problem} is missing or wrong") from problem


def cipher(config: Config) -> str:
    """Which of CIPHERS encrypts the files; a vault of AES-SIV has the flag of AES-GCM too."""
    found = [name for name in ("xchacha", "aes-siv", "aes-gcm") if CIPHERS[name][1] in config.flags]
    return found[0] if found else "aes-gcm"


def facts(config: Config) -> Dict[str, Any]:
    """Return a config as a module result."""
    return {
        "creator": config.creator,
        "cipher": CIPHERS[cipher(config)][2],
        "feature_flags": config.flags,
        "scrypt_log_n": config.scrypt_log_n,
    }


def wrong_password(code: int, output: str) -> bool:
    """Whether a password does not belong to a vault; gocryptfs-xray has no exit code for it."""
    return code == 12 or (code != 0 and "Password incorrect" in output)


def init_argv(directory: str, log_n: int, with_cipher: str) -> List[str]:
    """Create a vault in an empty directory; the password comes by standard input."""
    option = CIPHERS[with_cipher][0]
    return ["gocryptfs", "-init", "-q", "-scryptn", str(log_n), *([option] if option else []), "--", directory]


def passwd_argv(directory: str, log_n: int, by_master_key: bool) -> List[str]:
    """Wrap the master key anew; standard input has the old password, or the master key, and then the new password."""
    option = ["-masterkey=stdin"] if by_master_key else []
    return ["gocryptfs", "-passwd", "-q", "-scryptn", str(log_n), *option, "--", directory]


def master_key_argv(config: str) -> List[str]:
    """Print the master key that a config holds; the password comes by standard input."""
    return ["gocryptfs-xray", "-dumpmasterkey", config]


def mount_argv(
    directory: str, point: str, source: str, read_only: bool, idle: str, shared: bool = True, master: str = ""
) -> List[str]:
    """Mount a vault for root alone; it closes by itself after `idle` without use.

    shared: a session may have the same vault open; neither then trusts what it remembers, and hard links are not seen.
    master: the cipher, where standard input has the master key and no config is read.
    """
    options = ["-q", "-nosyslog", *(["-sharedstorage"] if shared else []), "-i", idle, "-fsname", source]
    if master:
        options += ["-masterkey=stdin", *([CIPHERS[master][0]] if CIPHERS[master][0] else [])]
    options += ["-ko", "noexec,nosuid,nodev"] + (["-ro"] if read_only else [])
    return ["gocryptfs", *options, "--", directory, point]


def fsck_argv(directory: str, master: str = "") -> List[str]:
    """Read every file of a vault; the password comes by standard input, or the master key where its cipher is given."""
    options = ["-masterkey=stdin", *([CIPHERS[master][0]] if CIPHERS[master][0] else [])] if master else []
    return ["gocryptfs", "-fsck", "-q", *options, "--", directory]
