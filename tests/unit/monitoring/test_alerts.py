# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is woken, by what, how often, and what becomes of an alert that nobody takes."""

from __future__ import annotations

import http.server
import json
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
from cordon_monitoring import alert_queue, alert_rules, heartbeat
from cordon_monitoring import event as events
from cordon_monitoring.act import AuditEvent
from cordon_monitoring.alert_queue import AlertQueue
from cordon_monitoring.audit_status import AuditStatus
from cordon_monitoring.config import Agents, Settings
from cordon_monitoring.firewall_line import KernelLine
from cordon_monitoring.pipeline import Pipeline

SENSITIVE = ["/etc/shadow*", "*/.ssh/*", "/etc/cron*"]


def event(**changes: Any) -> events.Event:
    made = events.new("1", 0.0, "host", "probe", "audit")
    made.update(kind="file", outcome="denied", operation="open", path="/etc/shadow", reason="EACCES")
    made.update(changes)
    return made


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({}, alert_rules.SENSITIVE),
        ({"path": "/home/x/.ssh/id_ed25519"}, alert_rules.SENSITIVE),
        ({"path": "/etc/cron.d/"}, alert_rules.SENSITIVE),
        ({"path": "/srv/agents/other/.vault/token"}, alert_rules.SENSITIVE),
        ({"path": "/srv/agents/probe/venv/x"}, None),
        ({"path": "/usr/bin/x"}, None),
        ({"path": None}, None),
        ({"outcome": "allowed", "reason": "complain"}, None),
        ({"kind": "connection", "reason": "metadata", "address": "169.254.169.254"}, alert_rules.METADATA),
        ({"kind": "connection", "reason": "nftables", "path": None}, None),
        ({"agent": None, "outcome": "allowed", "reason": "tamper", "path": "/etc/cordon/x"}, alert_rules.TAMPER),
    ],
)
def test_which_events_wake_somebody(changes: dict[str, Any], rule: str | None) -> None:
    assert alert_rules.rule_of(event(**changes), SENSITIVE) == rule


@pytest.mark.parametrize(("login", "severity"), [(1000, "warning"), (None, "critical")])
def test_a_change_by_a_person_is_a_warning_and_by_a_service_critical(login: int | None, severity: str) -> None:
    found = event(reason="tamper", outcome="allowed", user={"uid": 0, "login_uid": login}, program="/usr/bin/vi")
    made = alert_rules.alert(found, alert_rules.TAMPER)
    assert made["severity"] == severity
    assert made["summary"] == "/etc/shadow, which holds agents in, was changed by /usr/bin/vi"


def test_the_same_alert_is_sent_once_in_a_window_and_the_rest_counted() -> None:
    window = alert_rules.Window(60)
    made = alert_rules.alert(event(), alert_rules.SENSITIVE)
    seen = [window.admit(made, now) for now in (0, 1, 59, 60)]
    assert [found and found["repeats"] for found in seen] == [0, None, None, 2]
    assert window.admit({**made, "agent": "other"}, 1) is not None


def test_what_a_window_remembers_ends_with_it() -> None:
    window = alert_rules.Window(60)
    for number in range(100):
        window.admit({**alert_rules.alert(event(), alert_rules.SENSITIVE), "agent": f"a{number}"}, number)
    assert len(window._since) == 60


def settings(**changes: Any) -> Settings:
    return Settings("host", None, None, 900, True, SENSITIVE)._replace(**changes)


def test_a_flood_that_is_only_counted_still_wakes_somebody() -> None:
    raised: list[alert_rules.Alert] = []
    pipeline = Pipeline(settings(), raised.append)
    for number in range(50):
        line = f"cordon:probe:denied DST=192.0.2.1 PROTO=TCP SPT={number} DPT=80 "
        pipeline.take_kernel(KernelLine(0.0, f"b:{number}", line), 0.0)
    pipeline.take_kernel(
        KernelLine(0.0, "b:x", "cordon:probe:metadata DST=169.254.169.254 PROTO=TCP SPT=1 DPT=80 "), 0.0
    )
    written = pipeline.finished(10.0)
    assert [found["alert"] for found in raised] == [alert_rules.METADATA]
    assert len(written) == 11
    assert "source_port" not in written[0]


def test_lost_audit_records_wake_somebody_once_the_count_grows() -> None:
    raised: list[alert_rules.Alert] = []
    pipeline = Pipeline(settings(), raised.append)
    for now, lost in enumerate((5, 5, 8)):
        pipeline.take_lost(lost, float(now), float(now))
    assert [found["summary"] for found in raised] == [
        "3 audit records were lost: acts of agents may be missing from the log"
    ]


def test_an_audited_act_of_nobody_known_is_left_out() -> None:
    pipeline = Pipeline(settings(), lambda _alert: pytest.fail("no alert is due"))
    agents = Agents({}, frozenset())
    pipeline.take_audit(AuditEvent(0.0, "0.000:1", [{"type": "USER_LOGIN", "uid": "0"}]), agents, 0.0)
    assert pipeline.finished(10.0) == []


class Receiver(http.server.BaseHTTPRequestHandler):
    """Answers with the statuses that a test lists, then 200."""

    statuses: list[int] = []
    bodies: list[Any] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 200:
            self.bodies.append(body)
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Quiet."""


@pytest.fixture
def receiver() -> Iterator[str]:
    Receiver.statuses, Receiver.bodies = [], []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook"
    server.shutdown()
    server.server_close()


def wait_until(true: Any) -> None:
    end = time.monotonic() + 10
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    assert true()


def test_an_alert_is_kept_until_the_webhook_takes_it(
    receiver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alert_queue, "_FIRST_PAUSE", 0.05)
    Receiver.statuses = [500, 503]
    earlier = AlertQueue(receiver, tmp_path)
    earlier.put({"alert": "first", "summary": ""})  # not started: as after a crash
    queue = AlertQueue(receiver, tmp_path)
    queue.start()
    queue.put({"alert": "second", "summary": ""})
    wait_until(lambda: queue.delivered == 2)
    assert [body["alert"] for body in Receiver.bodies] == ["first", "second"]
    wait_until(lambda: queue.error is None)
    assert queue.queued() == []


def test_an_alert_that_the_webhook_will_never_take_does_not_hold_up_the_next(receiver: str, tmp_path: Path) -> None:
    Receiver.statuses = [400]
    queue = AlertQueue(receiver, tmp_path)
    queue.put({"alert": "bad", "summary": ""})
    queue.put({"alert": "good", "summary": ""})
    queue.start()
    wait_until(lambda: queue.delivered == 1)
    assert queue.dropped == 1


def test_a_full_queue_drops_the_oldest_and_counts(tmp_path: Path) -> None:
    queue = AlertQueue("http://127.0.0.1:9/x", tmp_path, capacity=2)
    for name in "abc":
        queue.put({"alert": name, "summary": ""})
    assert [json.loads(path.read_text())["alert"] for path in queue.queued()] == ["b", "c"]
    assert queue.dropped == 1


def test_a_refusal_never_shows_the_address() -> None:
    with pytest.raises(alert_queue.Refused) as refusal:
        alert_queue.post("http://127.0.0.1:9/token-SECRET", {})
    assert "SECRET" not in str(refusal.value)


NOW = 1_700_000_000.0
HEALTHY = {
    "time": events.when(NOW - 5),
    "log_writable": True,
    "log_error": None,
    "kernel_log_readable": True,
}
AUDITING = AuditStatus(1, 300, 0, 0)


@pytest.mark.parametrize(
    ("state", "status", "required", "reason"),
    [
        (HEALTHY, AUDITING, True, None),
        (HEALTHY, None, False, None),
        ({}, AUDITING, True, "no state"),
        ({**HEALTHY, "time": events.when(NOW - 31)}, AUDITING, True, "sign of life 31 s ago"),
        ({**HEALTHY, "log_writable": False}, AUDITING, True, "event log cannot be written"),
        ({**HEALTHY, "kernel_log_readable": False}, AUDITING, True, "kernel's log cannot be read"),
        (HEALTHY, AUDITING._replace(enabled=0), True, "does not audit"),
        (HEALTHY, AUDITING._replace(pid=0), True, "auditd is not running"),
        (HEALTHY, None, True, "does not audit"),
    ],
)
def test_the_heartbeat_is_sent_only_when_all_holds(
    state: dict[str, Any], status: AuditStatus | None, required: bool, reason: str | None
) -> None:
    found = heartbeat.reasons(state, status, required, NOW)
    assert (found == []) if reason is None else any(reason in text for text in found)
