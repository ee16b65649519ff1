# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Alerts of our other tools: left as files, which cordon-events sends and removes. They wait while it is down."""

from __future__ import annotations

import json
import os
import time
from typing import Any, Optional

DIRECTORY = "/var/lib/cordon/spool"
MOST = 500  # beyond that nobody is reading; the journal has every line


def replace(path: str, value: Any) -> None:
    """Put JSON in place of a file by one rename; readers see the old one or the new one."""
    top, name = os.path.split(path)
    temporary = os.path.join(top, f".{name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(temporary, flags, 0o600), "w", encoding="utf-8") as file:
        json.dump(value, file)
    os.rename(temporary, path)


def put(rule: str, severity: str, agent: Optional[str], summary: str, directory: str = DIRECTORY) -> bool:
    """Leave an alert (docs/monitoring.md); False where too many wait. Raises OSError."""
    if len(os.listdir(directory)) >= MOST:
        return False
    body = {"alert": rule, "severity": severity, "agent": agent, "summary": summary, "time": time.time()}
    replace(os.path.join(directory, f"{time.time_ns()}-{rule}.json"), body)
    return True
