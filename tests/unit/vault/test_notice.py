# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The notices in a closed vault; what they do on a real one: tests/integration/vault/test_closed_vault.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils import _vault_notice as notice

TEXT = notice.text("scout")


def test_the_text_is_one_name_that_a_file_system_takes() -> None:
    """With a '/' in it, it could lead somewhere; a name of more than 255 bytes would be another error."""
    assert "/" not in TEXT and len(notice.text("a" * 26).encode()) <= 255


@pytest.mark.parametrize(
    ("secrets", "present", "differ"),
    [
        ([], {}, []),
        (["a"], {"a": TEXT}, []),
        (["a", "b"], {"a": TEXT}, ["b"]),
        (["a"], {"a": "an older text"}, ["a"]),
        (["a"], {"a": TEXT, "withdrawn": TEXT}, ["withdrawn"]),
    ],
)
def test_what_differs(secrets: list[str], present: dict[str, str], differ: list[str]) -> None:
    assert notice.differing("scout", secrets, present) == differ


def test_what_is_no_link_stays(tmp_path: Path) -> None:
    """It lies in the clear, and is reported; to remove it could lose a secret."""
    (tmp_path / "plaintext").write_text("x")
    assert notice.converge("scout", str(tmp_path), ["a"], check=False) == ["a"]
    assert (tmp_path / "plaintext").read_text() == "x"


def test_without_a_mount_point_there_is_nothing_to_tell(tmp_path: Path) -> None:
    assert notice.converge("scout", str(tmp_path / "absent"), ["a"], check=True) == []
