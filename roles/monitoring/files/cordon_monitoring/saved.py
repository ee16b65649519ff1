# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small JSON files that are replaced in one rename: where to read on, and what state the writer is in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

STATE = Path("/run/cordon/events.json")  # what the writer says of itself, every five seconds
CURSOR = Path("/var/lib/cordon/events/cursor.json")


def save(path: Path, value: Any, durable: bool = False) -> None:
    """Replace a file. durable: on disk before it is visible."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(value, file)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    os.rename(temporary, path)


def load(path: Path) -> dict[str, Any]:
    """What was saved; {} where there is nothing, or nothing whole."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
