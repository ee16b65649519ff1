# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the APIs that the manifest calls critical answer: an alert when calls keep failing, and one when they work again.

A call fails when the API answers 5xx, or when the proxy cannot reach it. One that fails alone wakes nobody: programs try
again. Pure; the time is that of the events, so that a log which is read late tells the same.
"""

from __future__ import annotations

from collections import Counter, deque
from datetime import datetime
from typing import Mapping, Sequence

from cordon import _egress

from .alert_rules import API_ANSWERING, API_FAILING, Alert, event_alert
from .event import Event

WINDOW = 300.0  # seconds that are looked at; and without a failure for so long, an answer says that it works again
_MOST = 1000  # failures that are remembered of one API

#: Of squid's names for what went wrong (errors/err_type.h), those that are the server's or the way's to it. The agent's own,
#: a handshake that it broke off or a certificate that it refused, are not among them.
_UNREACHED = frozenset({
    "ERR_CANNOT_FORWARD", "ERR_CONNECT_FAIL", "ERR_DNS_FAIL", "ERR_GATEWAY_FAILURE", "ERR_INVALID_RESP", "ERR_READ_ERROR",
    "ERR_READ_TIMEOUT", "ERR_RELAY_REMOTE", "ERR_SECURE_CONNECT_FAIL", "ERR_SOCKET_FAILURE", "ERR_WRITE_ERROR",
    "ERR_ZERO_SIZE_OBJECT",
})  # fmt: skip


def failure(event: Event) -> str | None:
    """What went wrong with a call, in words; None where nothing did, or where it is not the API's fault."""
    if event.get("echo"):
        return None
    status, reason = event["status"], event["reason"] or ""
    if status is not None:
        return f"it answered {status}" if 500 <= status <= 599 else None
    if event["refusal"] == "unresolved":
        return "the proxy could not reach it: its name has no address that the agent may be led to"
    return f"the proxy could not reach it: {reason}" if reason.split(" ")[0] in _UNREACHED else None


class _Api:
    """What is known of one API, as one agent calls it."""

    def __init__(self) -> None:
        self.failures: deque[tuple[float, str]] = deque(maxlen=_MOST)
        self.told = 0  # failures, of the outage that somebody was told of


class CriticalApis:
    """take() each call of an agent."""

    def __init__(self, failures: int) -> None:
        self._enough = failures
        self._apis: dict[tuple[str, str], _Api] = {}

    def take(self, event: Event, critical: Mapping[str, Sequence[str]]) -> Alert | None:
        """An alert, if this call changes what somebody should know. critical: the APIs of each agent."""
        name = _egress.normal(event["name"] or "")
        if event["kind"] != "api_call" or name not in critical.get(event["agent"], ()):
            return None
        api = self._apis.setdefault((event["agent"], name), _Api())
        at, what = datetime.fromisoformat(event["time"].replace("Z", "+00:00")).timestamp(), failure(event)
        if what is not None:
            return self._failed(api, event, at, what)
        return self._answered(api, event, at) if event["status"] is not None else None

    def _failed(self, api: _Api, event: Event, at: float, what: str) -> Alert | None:
        api.failures.append((at, what))
        if api.told:
            api.told += 1
            return None
        recent = [seen for when, seen in api.failures if at - when < WINDOW]
        if len(recent) < self._enough:
            return None
        api.told = len(recent)
        summary = f"{event['agent']}: {len(recent)} calls of {event['name']} failed within {WINDOW / 60:.0f} minutes: "
        counted = "; ".join(f"{seen} ({number})" for seen, number in Counter(recent).most_common())
        return event_alert(event, API_FAILING, "critical", summary + counted)

    @staticmethod
    def _answered(api: _Api, event: Event, at: float) -> Alert | None:
        if not api.told or at - api.failures[-1][0] < WINDOW:
            return None
        summary = f"{event['agent']}: {event['name']} answers again; {api.told} calls failed"
        api.told = 0
        api.failures.clear()
        return event_alert(event, API_ANSWERING, "info", summary)
