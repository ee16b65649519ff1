# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private: the record of what was rotated, when and by whom: one JSON object a line, never a value.

    {time: float, agent, what: "secret NAME" | "vault key" | "vault password" | "master key" | "vault",
     act: set | changed | removed | renewed | restored, by, reason}
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import time
from typing import Any, Dict, Iterable, List, Optional, Tuple

from . import _files

HISTORY = "/var/lib/cordon/rotations.jsonl"


def entries(what: Iterable[Tuple[str, str, str]], by: str, reason: Optional[str]) -> List[Dict[str, Any]]:
    """Describe acts, each (agent, what, act)."""
    now = round(time.time(), 3)
    return [
        {"time": now, "agent": agent, "what": thing, "act": act, "by": by, "reason": reason or None}
        for agent, thing, act in what
    ]


def who(given: str) -> str:
    """By whom: as given, else who became root, else root."""
    return given.strip() or os.environ.get("SUDO_USER") or pwd.getpwuid(os.geteuid()).pw_name


def append(found: List[Dict[str, Any]]) -> None:
    """Add to the record, on disk when this returns; a line that a power loss cut off is ended first."""
    if not found:
        return
    os.makedirs(os.path.dirname(HISTORY), mode=0o755, exist_ok=True)
    parent = _files.open_parent(HISTORY)
    try:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(os.path.basename(HISTORY), flags, 0o600, dir_fd=parent)
        try:
            size = os.fstat(handle).st_size
            cut_off = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            lines = "".join(json.dumps(entry, sort_keys=True) + "\n" for entry in found)
            data = (("\n" if cut_off else "") + lines).encode()
            if os.write(handle, data) != len(data):  # a disk that is nearly full takes a part of it
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(handle)
        except OSError as problem:
            why = f"{problem.strerror}: what was done is not, or not wholly, recorded in"
            raise OSError(problem.errno, why, HISTORY) from problem
        finally:
            os.close(handle)
        os.fsync(parent)
    finally:
        os.close(parent)
