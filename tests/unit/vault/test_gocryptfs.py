# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""gocryptfs: its config, its exit codes, its command lines; and the kernel's mount table."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils import _gocryptfs as gocryptfs
from ansible_collections.cordon.agent_host.plugins.module_utils import _mountinfo as mountinfo

# As gocryptfs 2.3 of Debian 12 wrote it; salt and key are of no vault.
WRITTEN: dict[str, Any] = {
    "Creator": "gocryptfs 2.3",
    "EncryptedKey": "AAAA",
    "ScryptObject": {"Salt": "AAAA", "N": 1024, "R": 8, "P": 1, "KeyLen": 32},
    "Version": 2,
    "FeatureFlags": ["HKDF", "GCMIV128", "DirIV", "EMENames", "LongNames", "Raw64"],
}
MOUNTS = r"""27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
42 27 0:39 / /srv/agents/scout/.vault ro,nosuid,nodev,noexec - fuse.gocryptfs cordon-vault-scout ro,allow_other
43 27 0:40 / /mnt/a\040b rw - tmpfs under rw
44 43 0:41 / /mnt/a\040b rw - tmpfs over rw
a line that means nothing
"""


def test_the_config_gives_facts_and_no_key() -> None:
    facts = gocryptfs.facts(gocryptfs.parse_config(json.dumps(WRITTEN)))
    assert facts == {
        "creator": "gocryptfs 2.3",
        "cipher": "AES-GCM",
        "feature_flags": ["DirIV", "EMENames", "GCMIV128", "HKDF", "LongNames", "Raw64"],
        "scrypt_log_n": 10,
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        json.dumps({**WRITTEN, "EncryptedKey": ""}),
        json.dumps({**WRITTEN, "ScryptObject": None}),
        json.dumps({**WRITTEN, "ScryptObject": {"N": "many"}}),
        json.dumps({**WRITTEN, "FeatureFlags": 3}),
    ],
)
def test_a_damaged_config_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        gocryptfs.parse_config(text)


@pytest.mark.parametrize(
    ("code", "says"),
    [(10, "mount point"), (12, "does not open"), (19, "fuse3"), (23, "gocryptfs.conf"), (99, "failed")],
)
def test_an_exit_code_becomes_a_reason_and_a_remedy(code: int, says: str) -> None:
    said = gocryptfs.failure("vault of agent scout", code, "its own\nwords\n")
    assert said.startswith("vault of agent scout: ")
    assert says in said
    assert f"exit code {code}" in said
    assert "its own words" in said


def test_directories_come_after_the_end_of_the_options() -> None:
    argv = gocryptfs.mount_argv("/c", "/m", "cordon-vault-scout", True, "20s")
    assert argv[-3:] == ["--", "/c", "/m"]
    assert "-ro" in argv
    assert "-allow_other" not in argv
    assert "-ro" not in gocryptfs.mount_argv("/c", "/m", "s", False, "20s")
    assert gocryptfs.init_argv("/c", 10, "aes-gcm") == ["gocryptfs", "-init", "-q", "-scryptn", "10", "--", "/c"]
    assert gocryptfs.init_argv("/c", 16, "xchacha")[-4:] == ["16", "-xchacha", "--", "/c"]
    assert gocryptfs.passwd_argv("/c", 16, True)[-4:] == ["16", "-masterkey=stdin", "--", "/c"]
    assert "-masterkey=stdin" not in gocryptfs.passwd_argv("/c", 16, False)
    assert gocryptfs.fsck_argv("/c") == ["gocryptfs", "-fsck", "-q", "--", "/c"]
    assert gocryptfs.fsck_argv("/c", "aes-siv")[3:5] == ["-masterkey=stdin", "-aessiv"]


def test_a_vault_opened_by_its_master_key_is_told_its_cipher() -> None:
    """No config is read then, and the wrong cipher would show garbage (gocryptfs(1), -masterkey)."""
    argv = gocryptfs.mount_argv("/c", "/m", "s", True, "20s", master="xchacha")
    assert {"-masterkey=stdin", "-xchacha"} <= set(argv)
    assert "-masterkey=stdin" not in gocryptfs.mount_argv("/c", "/m", "s", True, "20s")


@pytest.mark.parametrize(
    ("flags", "cipher"),
    [
        (["HKDF", "GCMIV128", "DirIV"], "aes-gcm"),
        (["HKDF", "GCMIV128", "AESSIV"], "aes-siv"),
        (["HKDF", "XChaCha20Poly1305"], "xchacha"),
        ([], "aes-gcm"),
    ],
)
def test_the_cipher_is_told_from_the_flags(flags: list[str], cipher: str) -> None:
    assert gocryptfs.cipher(gocryptfs.Config("", flags, 10)) == cipher


UNIT = (Path(__file__).parents[3] / "roles/vault/files/cordon-vault@.service").read_text()


def test_no_vault_is_made_that_its_unit_has_not_the_memory_to_open() -> None:
    """Scrypt takes 128 * N * r bytes, r = 8 with gocryptfs; the unit's limit must leave as much again for the rest."""
    (limit,) = re.findall(r"^MemoryMax=(\d+)M$", UNIT, re.M)
    assert int(limit) << 20 >= 2 * 128 * 8 * 2**gocryptfs.LOG_N_MOST


def test_the_unit_does_not_count_threads() -> None:
    """gocryptfs has one for each request that waits for the disk, as many as the agent has tasks, and dies without."""
    assert "TasksMax" not in re.findall(r"^(\w+)=", UNIT, re.M)


def test_the_unit_begins_after_its_file_systems_and_ends_before_systemd_unmounts() -> None:
    assert re.findall(r"^RequiresMountsFor=(.*)$", UNIT, re.M) == ["/var/lib/cordon/vault/%i /srv/agents/%i"]
    assert re.findall(r"^After=(.*)$", UNIT, re.M) == ["srv-agents-%i-.vault.mount"]


def test_a_wrong_password_is_told_from_a_fault() -> None:
    assert gocryptfs.wrong_password(12, "")
    assert gocryptfs.wrong_password(8, "failed to unlock master key\nPassword incorrect.\n")
    assert not gocryptfs.wrong_password(8, "Failed to unmarshal config file")
    assert not gocryptfs.wrong_password(0, "Password incorrect.")


def test_hard_links_are_seen_only_where_nobody_shares_the_vault() -> None:
    assert "-sharedstorage" in gocryptfs.mount_argv("/c", "/m", "s", True, "20s")
    assert "-sharedstorage" not in gocryptfs.mount_argv("/c", "/m", "s", True, "20s", shared=False)


def test_the_mount_table_is_read() -> None:
    mount = mountinfo.at(MOUNTS, "/srv/agents/scout/.vault")
    assert mount is not None
    assert (mount.type, mount.source) == ("fuse.gocryptfs", "cordon-vault-scout")
    assert {"ro", "nosuid", "nodev", "noexec", "allow_other"} <= set(mount.options)
    assert mountinfo.at(MOUNTS, "/srv/agents/scribe/.vault") is None


def test_the_topmost_mount_wins_and_escapes_are_undone() -> None:
    mount = mountinfo.at(MOUNTS, "/mnt/a b")
    assert mount is not None
    assert mount.source == "over"
