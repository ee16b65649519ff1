# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deliver alerts to a webhook from a queue on disk, apart from the thread that reads events.

An alert is a file until the webhook has accepted it (2xx), so a restart or an outage loses none. The
queue is bounded: when it is full the oldest goes, and the count of those is in the state and the log.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from . import saved
from .alert_rules import Alert

QUEUE = Path("/var/lib/cordon/alerts")
_CAPACITY = 500
_TIMEOUT = 10.0  # seconds
_NEVER = (400, 413, 422)  # HTTP: malformed, too large, not understood
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 300.0  # seconds between tries

log = logging.getLogger("cordon-events")


class Refused(Exception):
    """The receiver did not take it; the message says why and never holds the address, which may hold a token.

    permanent: the receiver will never take this body, so that it must not hold up the others.
    """

    def __init__(self, message: str, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


def post(url: str, body: Any) -> None:
    """POST JSON; Refused unless the answer is 2xx."""
    data = json.dumps(body, ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "cordon-agent-host"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=_TIMEOUT):
            return
    except urllib.error.HTTPError as error:
        raise Refused(f"HTTP status {error.code}", error.code in _NEVER) from None
    except urllib.error.URLError as error:
        raise Refused(str(error.reason)) from None
    except (OSError, ValueError) as error:
        raise Refused(type(error).__name__) from None


class AlertQueue:
    """put() from any thread; one thread of its own delivers, oldest first."""

    def __init__(self, url: str | None, directory: Path = QUEUE, capacity: int = _CAPACITY) -> None:
        self._url = url
        self._directory = directory
        self._capacity = capacity
        self._wake = threading.Event()
        self._number = 0
        self.delivered = 0
        self.dropped = 0
        self.error: str | None = None

    def start(self) -> None:
        """Begin to deliver what is queued and what comes."""
        if self._url:
            threading.Thread(target=self._deliver, name="alerts", daemon=True).start()

    def put(self, found: Alert) -> None:
        """Queue an alert; where the operator chose no webhook it is only logged."""
        log.warning("alert %s: %s", found["alert"], found["summary"])
        if not self._url:
            return
        self._number += 1
        saved.save(self._directory / f"{time.time_ns():020d}-{self._number}.json", found, durable=True)
        for path in self.queued()[: -self._capacity]:
            path.unlink(missing_ok=True)
            self.dropped += 1
            log.error("alert queue is full: dropped %s", path.name)
        self._wake.set()

    def queued(self) -> list[Path]:
        """Files that wait, oldest first."""
        return sorted(self._directory.glob("[0-9]*.json"))

    def _deliver(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            self._wake.clear()
            try:
                for path in self.queued():
                    self._send(path)
                self.error, pause = None, _FIRST_PAUSE
                self._wake.wait()
            except (Refused, OSError) as error:
                self.error = str(error)
                log.error("webhook: %s; %d alerts wait, next try in %d s", error, len(self.queued()), pause)
                time.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    def _send(self, path: Path) -> None:
        assert self._url
        body = saved.load(path)
        try:
            if body:
                post(self._url, body)
                self.delivered += 1
        except Refused as error:
            if not error.permanent:
                raise
            self.dropped += 1
            log.error("webhook will not take alert %s: %s; dropped", body.get("alert"), error)
        # What is not whole JSON was cut by a crash while it was written: nothing to send.
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
