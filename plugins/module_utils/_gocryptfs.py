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
# The smallest cost that gocryptfs takes.  A costly KDF slows down the guessing of a password; ours is
# a 256-bit random key that nobody guesses, so a higher cost would only delay each opening.
SCRYPT_LOG_N = 10

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


def facts(config: Config) -> Dict[str, Any]:
    """Return a config as a module result."""
    return {"creator": config.creator, "feature_flags": config.flags, "scrypt_log_n": config.scrypt_log_n}


def init_argv(cipher: str) -> List[str]:
    """Create a vault in an empty directory; the password comes by standard input."""
    return ["gocryptfs", "-init", "-q", "-scryptn", str(SCRYPT_LOG_N), "--", cipher]


def mount_argv(cipher: str, point: str, source: str, read_only: bool, idle: str) -> List[str]:
    """Mount a vault for root alone; it closes by itself after `idle` without use.

    -sharedstorage: a session may have the same vault open; neither then trusts what it remembers.
    """
    options = ["-q", "-nosyslog", "-sharedstorage", "-i", idle, "-fsname", source]
    options += ["-ko", "noexec,nosuid,nodev"] + (["-ro"] if read_only else [])
    return ["gocryptfs", *options, "--", cipher, point]
