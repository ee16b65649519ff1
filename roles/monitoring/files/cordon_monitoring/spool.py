# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Alerts that others on this host leave to be sent: cordon-watch, promotions, checks of the confinement.

A file below SPOOL is one alert. Its writer renames it into place and need not wait for anybody: it is picked up even
if this service is down at the time. Only root can write there.
"""

from __future__ import annotations

import json
import logging
import os
import re
import stat
from pathlib import Path
from typing import Any, Iterator

from . import event as events
from .alert_rules import Alert

SPOOL = Path("/var/lib/cordon/spool")
_LARGEST = 1 << 16  # bytes
_RULE = re.compile(r"[a-z][a-z0-9-]{0,63}")
_SEVERITIES = ("critical", "warning", "info")

log = logging.getLogger("cordon-events")


class Spool:
    """alerts() hands out what waits, oldest first; a file is deleted once its alert was taken."""

    def __init__(self, host: str, directory: Path = SPOOL) -> None:
        self._host = host
        self._directory = directory
        self._stuck: set[str] = set()  # could not be deleted: handed out once all the same

    def alerts(self) -> Iterator[Alert]:
        """Read the spool. The caller has put an alert into its queue by the time it asks for the next."""
        for path in self._waiting():
            try:
                yield parse(_read(path), self._host)
            except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
                log.error("spool: %s is no alert (%s): deleted", path.name, error)
            self._delete(path)

    def _waiting(self) -> list[Path]:
        try:
            names = [name for name in os.listdir(self._directory) if name.endswith(".json") and not name.startswith(".")]
        except FileNotFoundError:
            return []
        self._stuck.intersection_update(names)
        return [self._directory / name for name in sorted(set(names) - self._stuck)]

    def _delete(self, path: Path) -> None:
        try:
            os.unlink(path)
        except OSError as error:
            log.error("spool: %s cannot be deleted: %s", path.name, error)
            self._stuck.add(path.name)


def parse(data: bytes, host: str) -> Alert:
    """The alert of a spooled file, in the shape of docs/monitoring.md; ValueError, KeyError or TypeError if it is none."""
    body: dict[str, Any] = json.loads(data)
    rule, severity, agent, summary = body["alert"], body["severity"], body.get("agent"), body["summary"]
    if not _RULE.fullmatch(rule) or severity not in _SEVERITIES:
        raise ValueError(f"alert {rule!r} of severity {severity!r}")
    if not isinstance(summary, str) or not isinstance(agent, (str, type(None))):
        raise ValueError("agent and summary are text")
    when = events.when(float(body["time"]))
    return {"alert": rule, "severity": severity, "agent": agent, "host": host, "time": when, "summary": summary, "event": None}


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a plain file")
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError(f"more than {_LARGEST} bytes")
    return data
