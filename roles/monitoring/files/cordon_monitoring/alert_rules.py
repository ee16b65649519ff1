# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which events wake somebody. Pure: an event in, an alert or nothing out."""

from __future__ import annotations

import fnmatch
from typing import Any, Sequence

from . import event as events
from .event import Event

Alert = dict[str, Any]

METADATA = "metadata-endpoint"
SENSITIVE = "sensitive-path"
TAMPER = "tampering"
SECRET = "secret-misused"
AUDIT_LOST = "audit-records-lost"
AUDIT_OFF = "audit-off"
GAP = "log-gap"
API_FAILING = "api-failing"
API_ANSWERING = "api-answering"
TEST = "test"

SUMMARIES = {
    METADATA: "{agent} tried to reach the cloud metadata endpoint {endpoint}: it was refused",
    SENSITIVE: "{agent} was refused access to {path}",
    TAMPER: "{path}, which holds agents in, was changed by {program}",
    SECRET: "{program} of {agent} {did} secret {secret}, for which the manifest does not list it",
}


def rule_of(event: Event, sensitive_paths: Sequence[str]) -> str | None:
    """The first rule that an event meets."""
    if event["reason"] == "metadata":
        return METADATA
    if event["reason"] == "tamper":
        return TAMPER
    path = event.get("path") or ""
    if event["outcome"] == "denied" and path and (_sensitive(path, sensitive_paths) or _of_another(event["agent"], path)):
        return SENSITIVE
    return SECRET if event.get("listed") is False else None


def alert(event: Event, rule: str) -> Alert:
    """The alert of an event that meets a rule."""
    endpoint = event.get("address") or event.get("name")
    shown = {"path": None, **event, "endpoint": endpoint, "agent": event["agent"] or event["program"] or "somebody"}
    shown["did"] = "was refused" if event["outcome"] == "denied" else "read"
    return event_alert(event, rule, severity(event, rule), SUMMARIES[rule].format(**shown))


def event_alert(event: Event, rule: str, severity: str, summary: str) -> Alert:
    """An alert with the event behind it; its shape: docs/monitoring.md."""
    return {
        "alert": rule,
        "severity": severity,
        "agent": event["agent"],
        "host": event["host"],
        "time": event["time"],
        "summary": summary,
        "event": event,
    }


def severity(event: Event, rule: str) -> str:
    """A change by a person who logged in is a warning: it is most often the operator's own."""
    by_person = (event.get("user") or {}).get("login_uid") is not None
    return "warning" if rule == TAMPER and by_person else "critical"


def host_alert(rule: str, host: str, seconds: float, summary: str, severity: str = "critical") -> Alert:
    """An alert about the monitoring itself or another service of ours, with no event behind it."""
    return {
        "alert": rule,
        "severity": "info" if rule == TEST else severity,
        "agent": None,
        "host": host,
        "time": events.when(seconds),
        "summary": summary,
        "event": None,
    }


def _sensitive(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _of_another(agent: str | None, path: str) -> bool:
    owner = events.agent_of_path(path)
    return owner is not None and agent is not None and owner != agent


class Window:
    """Lets one alert of a kind through in each window and counts the rest for the next one."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[tuple[str | None, ...], float] = {}
        self._repeats: dict[tuple[str | None, ...], int] = {}

    def admit(self, found: Alert, now: float) -> Alert | None:
        """The alert, with how many like it were held back before it; None to hold it back."""
        self._since = {key: since for key, since in self._since.items() if now - since < self._seconds}
        key = (found["agent"], found["alert"], *_about(found))
        if key in self._since:
            self._repeats[key] = self._repeats.get(key, 0) + 1
            return None
        self._since[key] = now
        return {**found, "repeats": self._repeats.pop(key, 0)}


def _about(found: Alert) -> tuple[str | None, ...]:
    """Each secret that was read has to be changed, so neither another nor a refusal may hide it. What the manifest does
    not have counts as one: an agent may think up names without end, and push other alerts out of the queue."""
    event = found["event"]
    if found["alert"] != SECRET or not event:
        return ()
    return (event["path"] if event.get("declared") else None, event["outcome"])
