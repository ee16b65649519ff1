# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the firewall logged and what the audit system saw of one connection become one event."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cordon_monitoring import normalise
from cordon_monitoring.act import AuditEvent
from cordon_monitoring.correlate import HOLD, Correlator
from cordon_monitoring.event import Event
from cordon_monitoring.firewall_line import KernelLine, firewall_event
from cordon_monitoring.kernel_stream import _line

SAMPLES = Path(__file__).parent / "samples"


def recorded() -> list[Event]:
    lines = (SAMPLES / "bookworm.kernel.jsonl").read_text().splitlines()
    return [event for line in lines if (event := firewall_event(_line(json.loads(line)), "host"))]


def test_recorded_lines_become_events() -> None:
    seen = [(e["reason"], e["outcome"], e["address"], e["port"], e["protocol"]) for e in recorded()]
    assert seen[0] == ("metadata", "denied", "169.254.169.254", 80, "tcp")
    assert seen[4] == ("nftables", "denied", "192.0.2.7", 443, "tcp")
    assert seen[6] == ("nftables", "denied", "192.0.2.8", 53, "udp")
    assert seen[7] == (None, "allowed", "10.0.2.2", 1, "tcp")
    assert seen[8] == ("metadata", "denied", "fd00:ec2::254", 80, "tcp")
    assert {e["agent"] for e in recorded()} == {"probe"}
    assert len({e["id"] for e in recorded()}) == len(recorded()) == 11


@pytest.mark.parametrize(
    "text",
    [
        "",
        "device eth0 entered promiscuous mode",
        "cordon:Probe:denied DST=1.2.3.4",
        "cordon:probe:other ",
        "x cordon:probe:denied ",
    ],
)
def test_other_lines_of_the_kernel_are_left_alone(text: str) -> None:
    assert firewall_event(KernelLine(0.0, "b:1", text), "host") is None


def test_a_flood_is_told_as_one() -> None:
    line = "cordon:probe:flood IN= OUT=lo SRC=127.0.0.1 DST=127.99.3.7 PROTO=TCP SPT=4000 DPT=3128 UID=1001 GID=1001 "
    event = firewall_event(KernelLine(0.0, "b:1", line), "host")
    assert event is not None
    assert (event["agent"], event["outcome"], event["reason"], event["address"]) == ("probe", "denied", "flood", "127.99.3.7")


def test_a_line_without_a_port_or_with_a_bad_address_is_still_an_event() -> None:
    event = firewall_event(KernelLine(0.0, "b:1", "cordon:a:denied IN= OUT=eth0 DST=nonsense PROTO=ICMP "), "host")
    assert event is not None
    assert (event["address"], event["port"], event["protocol"]) == (None, None, "icmp")


def joined(events: list[Event]) -> list[Event]:
    correlator = Correlator()
    passed = [event for offered in events for event in correlator.offer(offered, 0.0)]
    return passed + correlator.due(HOLD)


@pytest.fixture
def refused(acts: dict[int, AuditEvent]) -> Event:
    (event,) = normalise.audit_events(acts[236], {999: "probe"}, "host")
    return event


@pytest.mark.parametrize("firewall_first", [True, False])
def test_both_records_of_one_connection_become_one_event(refused: Event, firewall_first: bool) -> None:
    line = recorded()[0]
    events = joined([line, refused] if firewall_first else [refused, line])
    assert len(events) == 1
    assert events[0]["reason"] == "metadata"
    assert events[0]["outcome"] == "denied"
    assert events[0]["program"] == "/usr/bin/bash"
    assert events[0]["also"] == refused["id"]


def test_a_syn_that_is_sent_again_is_the_same_connection() -> None:
    first, again = recorded()[:2]
    assert [event["id"] for event in joined([first, again])] == [first["id"]]


def test_an_audit_record_that_comes_late_is_no_second_event(refused: Event) -> None:
    correlator = Correlator()
    list(correlator.offer(recorded()[0], 0.0))
    assert len(correlator.due(HOLD)) == 1
    list(correlator.offer(refused, HOLD + 1))
    assert correlator.all() == []


def test_an_ordinary_failure_stays_an_allowed_connection(refused: Event) -> None:
    events = joined([refused])
    assert [(event["outcome"], event["reason"]) for event in events] == [("allowed", "EHOSTUNREACH")]


def test_a_connection_waits_no_longer_than_the_hold(refused: Event) -> None:
    correlator = Correlator()
    list(correlator.offer(refused, 10.0))
    assert correlator.due(10.0 + HOLD - 0.01) == []
    assert len(correlator.due(10.0 + HOLD)) == 1


def test_other_kinds_do_not_wait(acts: dict[int, AuditEvent]) -> None:
    (event,) = normalise.audit_events(acts[216], {999: "probe"}, "host")
    assert list(Correlator().offer(event, 0.0)) == [event]
