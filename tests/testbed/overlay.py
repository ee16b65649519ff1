# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of rootfs/ as one tar file, the same bytes for the same content."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

TREE = Path(__file__).parent / "rootfs"


def owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = "root"
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry


def pack(tree: Path = TREE) -> bytes:
    """Files below `tree` with names relative to it. Directories are left out: the guest's own keep their modes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(tree.rglob("*")):
            if not path.is_dir():
                archive.add(path, f"./{path.relative_to(tree)}", recursive=False, filter=owned_by_root)
    return buffer.getvalue()
