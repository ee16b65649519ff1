# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""cordon-events.service: write what agents do to the event log, as it happens.

    python3 -m cordon_monitoring.writer

One loop reads both sources, writes one batch, then saves where to read on. While the log cannot be
written nothing more is read: both sources keep, so nothing is lost, and the state file says so.
"""

from __future__ import annotations

import logging
import signal
import time
from pathlib import Path
from typing import Any

from . import alert_rules, audit_status, config, kernel_audit, saved, service
from .act import AuditEvent
from .alert_queue import AlertQueue
from .audit_sessions import AuditSessions
from .audit_stream import AuditStream
from .burn_in import Collector
from .correlate import HOLD
from .event import Event, when
from .event_log import EventLog
from .kernel_stream import KernelStream
from .log_tail import Cursor, LogTail
from .pipeline import Pipeline
from .served import Served
from .spool import Spool

_PAUSE = 0.5  # seconds between looks at the sources
PROXY_LOG = Path("/var/log/cordon/proxy.log")
_LINGER = 10.0  # seconds for which squid may write to a log that was renamed; logrotate tells it at once
_SLICE = 500  # acts after which a long backlog is written and systemd's watchdog told
_REPORT = 5.0  # seconds between state files
# An event may be held for its twin, so the place to go on from is one from before that.
_SETTLED = HOLD + 1.0

log = logging.getLogger("cordon-events")


class Writer:
    """The loop and what it knows."""

    def __init__(self, settings: config.Settings) -> None:
        place = saved.load(saved.CURSOR)
        self._settings = settings
        self._agents = config.LiveAgents()
        self._audit = AuditStream(cursor=Cursor(*place["audit"]) if place.get("audit") else None)
        self._kernel = KernelStream(place.get("kernel"))
        self._proxy = LogTail(PROXY_LOG, Cursor(*place["proxy"]) if place.get("proxy") else None, _LINGER)
        self._log = EventLog()
        self._alerts = AlertQueue(settings.webhook_url)
        self._pipeline = Pipeline(settings, self._raise)
        self._burn_in = Collector(continued=bool(place))
        self._sessions = AuditSessions()
        self._spool = Spool(settings.host)
        self._served = Served()
        self._batch: list[Event] = []
        self._places: list[tuple[float, dict[str, Any]]] = []
        self._saved: dict[str, Any] = {}
        self._last_event: str | None = None
        self._log_error: str | None = None
        self._reported = 0.0
        self._gaps = self._lost_acts = 0
        self._malformed = 0
        self._malformed_lines = 0  # of the proxy's log
        self._collected_until: float | None = None
        self._stopping = False

    def stop(self, *_signal: object) -> None:
        """End after this round."""
        self._stopping = True

    def run(self) -> None:
        """Until stop()."""
        self._alerts.start()
        self._report()
        service.notify("READY=1")
        while not self._stopping:
            self._round()
            time.sleep(_PAUSE)
        self._batch += self._pipeline.finished(time.monotonic(), end=True)
        if self._write() and self._burn_in.save(time.monotonic(), at_once=True) and self._sessions.save():
            self._save(self._place())
        self._kernel.close()
        self._report()

    def _round(self) -> None:
        now, read_until = time.monotonic(), time.time()
        if self._write():
            self._read(now)
            self._missed(now)
            self._batch += self._pipeline.finished(now)
            if self._write() and self._burn_in.save(now) and self._sessions.save():
                self._collected_until = read_until - self._audit.waiting()
                self._settle(now)
        self._watch(now)
        for found in self._spool.alerts():
            self._pipeline.take_alert(found, now)
        service.notify("WATCHDOG=1")

    def _read(self, now: float) -> None:
        agents = self._agents.current()
        self._burn_in.follow(agents, time.time())
        for number, found in enumerate(self._audit.poll(), 1):
            self._take(found, agents, now)
            if number % _SLICE == 0:
                self._batch += self._pipeline.finished(time.monotonic())
                self._write()
                service.notify("WATCHDOG=1")
        self._read_proxy(agents)
        for line in self._kernel.poll():
            if line.unit:
                self._pipeline.take_resolver(line, agents, now)
                continue
            printed, loss = kernel_audit.avc(line), kernel_audit.loss(line)
            if printed:
                self._take(printed, agents, now)
            elif loss:
                self._burn_in.lose(loss, line.seconds)
            else:
                self._pipeline.take_kernel(line, now)

    def _read_proxy(self, agents: config.Agents) -> None:
        for number, line in enumerate(self._proxy.lines(), 1):
            identity = f"{line.start.inode}:{line.start.offset}"
            if not self._pipeline.take_proxy(line.text, identity, agents, time.monotonic()):
                self._malformed_lines += bool(line.text)
            if number % _SLICE == 0:
                self._batch += self._pipeline.finished(time.monotonic())
                self._write()
                service.notify("WATCHDOG=1")

    def _take(self, found: AuditEvent, agents: config.Agents, now: float) -> None:
        # Before anything is counted away or left out: burn-in needs every verdict.
        self._burn_in.take(found, agents)
        self._sessions.take(found, agents.by_uid)
        self._pipeline.take_audit(found, agents, now, self._sessions.unit(found))

    def _write(self) -> bool:
        """Write the batch; False while the log does not take it."""
        try:
            self._log.append(self._batch)
        except OSError as error:
            if self._log_error is None:
                log.error("cannot write the event log: %s; waiting, nothing is lost", error)
            self._log_error = str(error)
            return False
        self._log_error = None
        if self._batch:
            self._last_event = self._batch[-1]["time"]
        self._batch = []
        return True

    def _place(self) -> dict[str, Any]:
        return {"audit": self._audit.safe_cursor(), "kernel": self._kernel.cursor, "proxy": self._proxy.position()}

    def _settle(self, now: float) -> None:
        """Save the newest place of which every event is written, and every verdict collected and on disk."""
        self._places.append((now, self._place()))
        settled = [entry for entry in self._places if entry[0] <= now - _SETTLED]
        self._places = settled[-1:] + self._places[len(settled) :]
        if settled:
            self._save(settled[-1][1])
            self._log.forget()

    def _save(self, place: dict[str, Any]) -> None:
        if place != self._saved:
            saved.save(saved.CURSOR, place, durable=True)
            self._saved = place

    def _watch(self, now: float) -> None:
        """What concerns the monitoring itself and the services of the agents: records lost, audit off, proxy down."""
        if now - self._reported < _REPORT:
            return
        self._reported = now
        status = audit_status.read()
        self._burn_in.take_status(status, time.time())
        if status:
            self._pipeline.take_lost(status.lost, now, time.time())
        if self._settings.audit_required and not (status and status.enabled):
            self._host_alert(alert_rules.AUDIT_OFF, "the kernel does not audit: acts of agents are not recorded", now)
        for change in self._served.changes(now):
            self._host_alert(change.rule, change.summary, now, change.severity)
        self._report(status)

    def _missed(self, now: float) -> None:
        """Say what could not be read, before the place behind it is saved."""
        acts, malformed = self._audit.tail.gaps + self._kernel.gaps, self._audit.malformed
        gaps = acts + self._proxy.gaps
        if gaps > self._gaps:
            self._host_alert(alert_rules.GAP, "a log was rotated away before it was read: acts of agents are missing", now)
        if acts > self._lost_acts:
            self._burn_in.lose("a log was rotated away before it was read", time.time())
        if malformed > self._malformed:
            self._burn_in.lose("records of the audit log could not be read", time.time())
        self._gaps, self._lost_acts, self._malformed = gaps, acts, malformed

    def _host_alert(self, rule: str, summary: str, now: float, severity: str = "critical") -> None:
        found = alert_rules.host_alert(rule, self._settings.host, time.time(), summary, severity)
        self._pipeline.take_alert(found, now)

    def _raise(self, found: alert_rules.Alert) -> None:
        try:
            self._alerts.put(found)
        except OSError as error:
            log.error("alert %s could not be queued: %s", found["alert"], error)

    def _report(self, status: audit_status.AuditStatus | None = None) -> None:
        """The state file; its keys: docs/monitoring.md."""
        state = {
            "time": when(time.time()),
            "events": self._log.written,
            "last_event": self._last_event,
            "suppressed": self._pipeline.limiter.suppressed,
            "cursor_lag": self._audit.tail.lag() + self._proxy.lag(),
            "gaps": self._audit.tail.gaps + self._kernel.gaps + self._proxy.gaps,
            "malformed": self._audit.malformed + self._malformed_lines,
            "collected_until": self._collected_until and when(self._collected_until),
            "log_writable": self._log_error is None and self._log.writable(),
            "log_error": self._log_error,
            "kernel_log_readable": self._kernel.readable,
            "audit_required": self._settings.audit_required,
            "audit_enabled": bool(status and status.enabled),
            "audit_lost": status.lost if status else None,
            "audit_backlog": status.backlog if status else None,
            "audit_daemon": bool(status and status.pid),
            "webhook": self._settings.webhook_url is not None,
            "alerts_queued": len(self._alerts.queued()),
            "alerts_delivered": self._alerts.delivered,
            "alerts_dropped": self._alerts.dropped,
            "alert_error": self._alerts.error,
        }
        try:
            saved.save(saved.STATE, state)
        except OSError as error:
            log.error("cannot write the state file: %s", error)


def main() -> None:
    """Run until SIGTERM."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    writer = Writer(config.settings())
    signal.signal(signal.SIGTERM, writer.stop)
    signal.signal(signal.SIGINT, writer.stop)
    writer.run()


if __name__ == "__main__":
    main()
