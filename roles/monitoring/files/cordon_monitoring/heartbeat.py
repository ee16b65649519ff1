# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""cordon-heartbeat.service: tell a receiver off this host that its monitoring is alive.

    python3 -m cordon_monitoring.heartbeat

Only the receiver can notice silence (a dead man's switch), so the signal is sent only when everything
that it vouches for holds. Otherwise nothing is sent, and the unit fails with the reasons.
"""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import Any, Mapping

from . import alert_queue, audit_status, config, saved
from .event import when

FRESH = 30.0  # seconds; the writer reports every five


def reasons(state: Mapping[str, Any], status: audit_status.AuditStatus | None, audit_required: bool, now: float) -> list[str]:
    """Why the signal must not be sent; [] when all is well. now: seconds since 1970."""
    if not state:
        return ["cordon-events.service has written no state: systemctl status cordon-events"]
    found = []
    age = now - datetime.fromisoformat(state["time"].replace("Z", "+00:00")).timestamp()
    if age > FRESH:
        found.append(f"cordon-events.service last gave a sign of life {age:.0f} s ago: systemctl status cordon-events")
    if not state["log_writable"]:
        found.append(f"the event log cannot be written: {state['log_error'] or 'disk full'}")
    if not state["kernel_log_readable"]:
        found.append("the kernel's log cannot be read, so refused connections go unseen")
    if audit_required and not (status and status.enabled):
        found.append("the kernel does not audit: auditctl -s")
    if audit_required and status and not status.pid:
        found.append("auditd is not running: systemctl status auditd")
    return found


def body(host: str, agents: list[str], state: Mapping[str, Any], now: float) -> dict[str, Any]:
    """What the receiver gets."""
    return {
        "host": host,
        "time": when(now),
        "agents": agents,
        "events": {name: state[name] for name in ("events", "last_event", "cursor_lag", "suppressed", "gaps")},
        "audit_enforced": state["audit_enabled"],
        "audit_lost": state["audit_lost"],
        "alerts_queued": state["alerts_queued"],
    }


def main() -> int:
    """Exit status 0: sent, or the operator chose no receiver."""
    settings = config.settings()
    if settings.heartbeat_url is None:
        print("no heartbeat: monitoring_heartbeat_url is 'none'")
        return 0
    now = time.time()
    state = saved.load(saved.STATE)
    found = reasons(state, audit_status.read(), settings.audit_required, now)
    for reason in found:
        print(f"no heartbeat sent: {reason}", file=sys.stderr)
    if found:
        return 1
    try:
        alert_queue.post(settings.heartbeat_url, body(settings.host, sorted(config.agents().names), state, now))
    except alert_queue.Refused as error:
        print(f"the heartbeat's receiver did not take it: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
