# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the sources to the events to write and the alerts to send. No files, no threads, no sockets."""

from __future__ import annotations

from typing import Callable, Iterable

from . import alert_rules, normalise, secret_reads
from .act import AuditEvent
from .alert_rules import Alert
from .config import Agents, Settings
from .correlate import Correlator
from .critical_api import CriticalApis
from .event import Event
from .firewall_line import KernelLine, firewall_event
from .limit import Limiter
from .proxy_line import proxy_event
from .resolver_line import resolver_event


class Pipeline:
    """take_*() for each input; finished() hands out what is to be written."""

    def __init__(self, settings: Settings, raise_alert: Callable[[Alert], None]) -> None:
        self._settings = settings
        self._raise_alert = raise_alert
        self._correlator = Correlator()
        self.limiter = Limiter(settings.host)
        self._apis = CriticalApis(settings.api_failures)
        self._window = alert_rules.Window(settings.alert_window)
        self._done: list[Event] = []
        self._lost: int | None = None

    def take_audit(self, found: AuditEvent, agents: Agents, now: float, session: str | None = None) -> None:
        """An act from the audit log. session: the unit that it belongs to."""
        for event in normalise.audit_events(found, agents.by_uid, self._settings.host):
            event["session"] = session
            if event["kind"] == "secret":
                event["listed"] = secret_reads.listed(event, agents.secrets.get(event["agent"] or "", {}))
                event["declared"] = secret_reads.declared(event, agents.secrets)
            self._finish(self._correlator.offer(event, now), now)

    def take_kernel(self, line: KernelLine, now: float) -> None:
        """A line from the kernel's log."""
        event = firewall_event(line, self._settings.host)
        if event:
            self._finish(self._correlator.offer(event, now), now)

    def take_resolver(self, line: KernelLine, agents: Agents, now: float) -> None:
        """A line of the resolver."""
        event = resolver_event(line, self._settings.host)
        if event and agents.wants(event):
            self._finish([event], now)

    def take_proxy(self, text: str, identity: str, agents: Agents, now: float) -> bool:
        """A line of the proxy's log; False where it is none."""
        event = proxy_event(text, identity, self._settings.host, agents.by_address)
        if event is None:
            return False
        found = self._apis.take(event, agents.critical)
        event.pop("echo", None)
        if found:
            # Not through the window: each is a change, and one held back would leave the one before it as the last word.
            self._raise_alert({**found, "repeats": 0})
        if agents.wants(event):
            self._finish([event], now)
        return True

    def take_lost(self, lost: int, now: float, wall: float) -> None:
        """The kernel's count of audit records that it lost since boot."""
        if self._lost is not None and lost > self._lost:
            summary = f"{lost - self._lost} audit records were lost: acts of agents may be missing from the log"
            self.take_alert(alert_rules.host_alert(alert_rules.AUDIT_LOST, self._settings.host, wall, summary), now)
        self._lost = lost

    def take_alert(self, found: Alert, now: float) -> None:
        """Send an alert, unless one like it was sent within the window."""
        admitted = self._window.admit(found, now)
        if admitted:
            self._raise_alert(admitted)

    def finished(self, now: float, end: bool = False) -> list[Event]:
        """Events to write now. end: everything, nothing may wait any longer."""
        self._finish(self._correlator.all() if end else self._correlator.due(now), now)
        self._done += self.limiter.due(float("inf") if end else now)
        done, self._done = self._done, []
        return done

    def _finish(self, ready: Iterable[Event], now: float) -> None:
        for event in ready:
            # Alerts first: what is only counted in the log must still wake somebody.
            rule = alert_rules.rule_of(event, self._settings.sensitive_paths)
            if rule:
                self.take_alert(alert_rules.alert(event, rule), now)
            if self.limiter.allow(event):
                event.pop("source_port", None)
                self._done.append(event)
