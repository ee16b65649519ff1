# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the proxy and the resolver tell becomes events, and none is lost when the log is rotated."""

from __future__ import annotations

import json

import pytest
from cordon_monitoring import alert_rules, config, resolver_line
from cordon_monitoring.firewall_line import KernelLine, firewall_event
from cordon_monitoring.kernel_stream import _line
from cordon_monitoring.limit import SAME, Limiter
from cordon_monitoring.log_tail import LogTail
from cordon_monitoring.pipeline import Pipeline
from cordon_monitoring.proxy_line import proxy_event
from cordon_monitoring.resolver_line import resolver_event
from cordon_monitoring.served import PATIENCE, Served

# As squid 5.7 wrote it, with the log format of _egress_proxy.py.
TUNNEL = {"at": 1795433085.854, "agent": "scout", "listener": 3129, "method": "CONNECT", "host": "api.example.org", "port": "443",
          "sni": "api.example.org", "url": "api.example.org:443", "outcome": "tunnel", "reason": "-", "status": 200, "sent": 111,
          "received": 0, "ms": 0, "hierarchy": "HIER_NONE", "squid": "NONE_NONE", "error": "-", "detail": "-",
          "mode": "splice"}  # fmt: skip
ENDED = {**TUNNEL, "outcome": "-", "sent": 695, "received": 1514, "ms": 43, "hierarchy": "HIER_DIRECT", "squid": "TCP_TUNNEL"}
WHERE = {"127.99.3.7": "autopilot"}
REQUEST = {**TUNNEL, "method": "POST", "url": "https://api.example.org/v1/%22x?key=secret", "outcome": "-", "sent": 20000156,
           "received": 234, "ms": 53, "squid": "TCP_MISS", "status": 503, "mode": "bump"}
REFUSED = {**TUNNEL, "outcome": "-", "reason": "name", "status": 403, "squid": "TCP_DENIED", "sni": "-", "mode": "-"}


def call(**fields):
    return proxy_event(json.dumps({**TUNNEL, **fields}), "7:0", "web1", WHERE)


@pytest.mark.parametrize(("line", "expected"), [
    (TUNNEL, {"outcome": "allowed", "operation": "open", "reason": None, "name": "api.example.org", "port": 443,
              "sni": "api.example.org", "url_path": None, "status": None, "kind": "api_call", "protocol": "https"}),
    (ENDED, {"operation": "close", "sent": 695, "received": 1514, "milliseconds": 43, "status": None}),
    (REQUEST, {"operation": "POST", "method": "POST", "url_path": '/v1/"x', "status": 503, "sent": 20000156}),
    (REFUSED, {"outcome": "denied", "reason": "proxy", "refusal": "name", "sni": None, "status": None}),
    ({**REFUSED, "reason": "sni", "sni": "evil.example"}, {"refusal": "sni", "sni": "evil.example"}),
    ({**REFUSED, "reason": "metadata"}, {"outcome": "denied", "reason": "metadata"}),
    ({**REFUSED, "host": "-", "port": "-"}, {"name": None, "port": None}),
    ({**ENDED, "error": "ERR_CONNECT_FAIL"}, {"outcome": "allowed", "operation": "open", "reason": "ERR_CONNECT_FAIL"}),
])  # fmt: skip
def test_a_line_of_the_proxy_is_an_event(line, expected):
    found = proxy_event(json.dumps(line), "7:0", "web1", WHERE)
    assert {key: found[key] for key in expected} == expected
    assert (found["host"], found["agent"], found["source"]) == ("web1", "scout", "proxy")
    assert found["time"] == "2026-11-23T11:24:45.854Z"


def test_what_could_not_be_read_as_a_request_is_told_of_the_agent_on_whose_address_it_came():
    line = {**REFUSED, "agent": "-", "address": "127.99.3.7", "url": "error:request-too-large", "host": "-", "port": "-"}
    found = proxy_event(json.dumps(line), "7:0", "web1", WHERE)
    assert (found["agent"], found["outcome"], found["refusal"]) == ("autopilot", "denied", "too large")
    assert proxy_event(json.dumps({**line, "address": "127.99.9.9"}), "7:0", "web1", WHERE) is None


def test_a_query_never_reaches_the_event_log():
    assert "secret" not in json.dumps(proxy_event(json.dumps(REQUEST), "7:0", "web1", WHERE))


@pytest.mark.parametrize("text", [
    "", "x", "[]", "{}", '{"at": "x"}', json.dumps({**TUNNEL, "agent": "../x"}), json.dumps({**TUNNEL, "agent": None}),
])
def test_what_is_no_line_of_the_proxy(text):
    assert proxy_event(text, "7:0", "web1", WHERE) is None


def question(stamp="b:1", **said):
    body = {"at": "2026-11-23T04:30:00.123Z", "agent": "scout", "event": "dns", "name": "git.example.org", "type": "A",
            "outcome": "answered", "addresses": ["203.0.113.9"], **said}  # fmt: skip
    return resolver_event(KernelLine(1.0, stamp, json.dumps(body), resolver_line.UNIT), "web1")


@pytest.mark.parametrize(("said", "expected"), [
    ({}, {"kind": "dns", "outcome": "allowed", "reason": None, "name": "git.example.org", "type": "A", "agent": "scout",
          "addresses": ["203.0.113.9"], "operation": "resolve", "time": "2026-11-23T04:30:00.123Z", "id": "resolver:b:1"}),
    ({"outcome": "refused", "addresses": [], "reason": "the manifest does not allow it"},
     {"outcome": "denied", "reason": "resolver", "refusal": "the manifest does not allow it"}),
    ({"outcome": "refused", "addresses": [], "name": "metadata.google.internal"}, {"outcome": "denied", "reason": "metadata"}),
    ({"outcome": "filtered", "addresses": []}, {"outcome": "denied", "reason": "filtered"}),
    ({"outcome": "filtered"}, {"outcome": "allowed", "reason": "filtered"}),
    ({"outcome": "failed", "addresses": []}, {"outcome": "allowed", "reason": "failed"}),
    ({"suppressed": 90}, {"suppressed": 90}),
    ({"agent": "_proxy"}, {"agent": None, "program": "_proxy"}),
    ({"at": "never"}, {"time": "1970-01-01T00:00:01.000Z"}),
])  # fmt: skip
def test_a_question_is_an_event(said, expected):
    found = question(**said)
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("said", [{"event": "x"}, {"outcome": "?"}, {"agent": "a b"}, {"agent": None}])
def test_what_else_the_resolver_says_is_no_event(said):
    assert question(**said) is None
    assert resolver_event(KernelLine(1.0, "b:1", "serves 2 agents", resolver_line.UNIT), "web1") is None


def test_the_journal_tells_the_resolvers_lines_from_the_kernels():
    entry = {"__CURSOR": "s=1;i=2", "__REALTIME_TIMESTAMP": "1795433085854000", "__MONOTONIC_TIMESTAMP": "5",
             "_BOOT_ID": "b" * 32, "MESSAGE": "cordon:scout:denied SRC=x"}  # fmt: skip
    kernel = _line({**entry, "_TRANSPORT": "kernel"})
    unit = _line({**entry, "_TRANSPORT": "stdout", "_SYSTEMD_UNIT": resolver_line.UNIT})
    other = _line({**entry, "_TRANSPORT": "stdout", "_SYSTEMD_UNIT": resolver_line.UNIT, "__CURSOR": "s=1;i=3"})
    assert (kernel.unit, unit.unit) == ("", resolver_line.UNIT)
    assert unit.stamp != other.stamp  # of one microsecond


@pytest.fixture
def flow():
    """flow(): a pipeline, and the alerts that it raised."""
    raised = []
    settings = config.Settings("web1", None, None, 900, True, [])
    return Pipeline(settings, raised.append), raised


NOBODY = config.Agents({}, frozenset())


def test_both_go_into_the_log_and_metadata_wakes_somebody(flow):
    pipeline, raised = flow
    assert pipeline.take_proxy(json.dumps(TUNNEL), "7:0", NOBODY, 1.0)
    metadata = {**REFUSED, "reason": "metadata", "host": "metadata.google.internal"}
    assert pipeline.take_proxy(json.dumps(metadata), "7:9", NOBODY, 1.0)
    assert not pipeline.take_proxy("squid says hello", "7:99", NOBODY, 1.0)
    said = {"agent": "scout", "event": "dns", "name": "metadata.goog", "type": "A", "outcome": "refused"}
    pipeline.take_resolver(KernelLine(1.0, "b:1", json.dumps(said), resolver_line.UNIT), NOBODY, 1.0)
    assert [event["kind"] for event in pipeline.finished(9.0)] == ["api_call", "api_call", "dns"]
    assert [alert["alert"] for alert in raised] == [alert_rules.METADATA]
    assert "scout tried to reach the cloud metadata endpoint metadata.google.internal" in raised[0]["summary"]


def test_a_line_that_looks_like_the_kernels_is_not_taken_from_the_resolver(flow):
    pipeline, _raised = flow
    pipeline.take_resolver(KernelLine(1.0, "b:1", "cordon:scout:denied OUT=lo DST=203.0.113.9", resolver_line.UNIT), NOBODY, 1.0)
    assert pipeline.finished(9.0) == []


def test_what_the_manifest_wants_unlogged_is_left_out_but_no_refusal_of_it(tmp_path, flow):
    named = {"name": "api.example.org", "port": 443, "protocol": "https", "log": False, "inspect": False, "networks": [],
             "requests": []}
    egress = [named, {**named, "name": "git.example.org", "port": 22, "protocol": "tcp", "log": True}]
    (tmp_path / "manifest.json").write_text(json.dumps({"agents": [{"name": "scout", "user": "agent-x", "egress": egress}]}))
    agents, (pipeline, _raised) = config.agents(tmp_path / "manifest.json"), flow
    for number, line in enumerate([TUNNEL, REFUSED, {**TUNNEL, "agent": "scribe"}, {**TUNNEL, "host": "git.example.org"}]):
        assert pipeline.take_proxy(json.dumps(line), str(number), agents, 1.0)
    told = [(event["agent"], event["name"], event["outcome"]) for event in pipeline.finished(9.0)]
    assert told == [("scout", "api.example.org", "denied"), ("scribe", "api.example.org", "allowed"),
                    ("scout", "git.example.org", "allowed")]  # fmt: skip


@pytest.mark.parametrize("service", ["_proxy", "_resolver", "_others"])
def test_what_our_services_and_others_were_refused_is_the_hosts(service):
    found = firewall_event(KernelLine(1.0, "b:1", f"cordon:{service}:denied OUT=eth0 DST=10.0.0.1 PROTO=TCP DPT=443"), "web1")
    assert (found["agent"], found["program"], found["outcome"]) == (None, service, "denied")


def test_every_call_counts_and_refusals_are_counted():
    limiter = Limiter("web1")
    assert [limiter.allow(call()) for _number in range(SAME + 5)] == [True] * (SAME + 5)
    assert sum(limiter.allow(call(reason="name")) for _number in range(SAME + 5)) == SAME
    assert limiter.allow(call(reason="name", host="other.example.org"))
    (counted,) = limiter.due(61.0)
    assert (counted["suppressed"], counted["name"]) == (5, "api.example.org")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_writer_that_learns_late_of_a_rotation_loses_no_line(tmp_path, monkeypatch):
    """logrotate renames, makes a new file, and only then tells squid, which goes on in the old one so long."""
    log, clock = tmp_path / "proxy.log", Clock()
    log.write_text("1\n")
    tail = LogTail(log, linger=10, clock=clock)
    clock.now = log.stat().st_mtime + 100

    def read():
        return [line.text for line in tail.lines()]

    assert read() == ["1"]
    with open(log, "a", encoding="utf-8") as squid:
        log.rename(tmp_path / "proxy.log.1")
        log.write_text("")
        assert read() == []
        squid.write("2\n")
        squid.flush()
    log.write_text("3\n")
    assert read() == ["2"]
    resumed = LogTail(log, tail.position(), linger=10, clock=clock)
    clock.now += 11
    assert read() == ["3"]
    assert [line.text for line in resumed.lines()] == []
    clock.now += 11
    assert [line.text for line in resumed.lines()] == ["3"]
    assert (tail.gaps, resumed.gaps) == (0, 0)


def state(unserved=(), wanted=True, configured=True):
    return {"proxy": {"wanted": wanted, "configured": configured, "unserved": list(unserved)},
            "resolver": {"wanted": False, "configured": False, "unserved": []}}  # fmt: skip


def test_a_dead_proxy_is_told_once_and_so_is_its_return():
    seen = {"now": state()}
    served = Served(lambda: seen["now"])

    def rules(now):
        return [(change.rule, change.severity) for change in served.changes(now)]

    assert rules(0.0) == []
    seen["now"] = state(["scout", "scribe"])
    assert rules(5.0) == [] and rules(5.0 + PATIENCE - 1) == []
    (change,) = served.changes(5.0 + PATIENCE)
    assert (change.rule, change.severity) == ("proxy-down", "critical")
    assert "scout, scribe" in change.summary and "systemctl status cordon-proxy" in change.summary
    assert rules(99.0) == []
    seen["now"] = state()
    assert rules(100.0) == [("proxy-up", "info")] and rules(105.0) == []


def test_a_restart_wakes_nobody():
    seen = {"now": state(["scout"])}
    served = Served(lambda: seen["now"])
    for now, unserved in ((0.0, ["scout"]), (10.0, []), (12.0, ["scout"]), (12.0 + PATIENCE - 1, ["scout"]), (30.0, [])):
        seen["now"] = state(unserved)
        assert list(served.changes(now)) == []


def test_one_that_ends_again_and_again_is_told_although_it_is_always_back():
    seen = {"now": state()}
    served = Served(lambda: seen["now"])

    def rules(now, unserved=()):
        seen["now"] = state(unserved)
        return [change.rule for change in served.changes(now)]

    # Found down for two looks each time: that is one end, not two.
    for start in (0.0, 100.0):
        assert rules(start, ["scout"]) == rules(start + 5, ["scout"]) == rules(start + 10) == []
    assert rules(700.0, ["scout"]) == rules(705.0) == [], "the first is long ago"
    assert rules(750.0, ["scout"]) == rules(755.0) == []
    assert rules(800.0, ["scout"]) == ["proxy-unsteady"]
    assert rules(805.0) == rules(850.0, ["scout"]) == rules(855.0) == [], "it is told once"
    assert rules(2000.0) == []
    ends = [rules(start + step, unserved) for start in (2100.0, 2200.0, 2300.0) for step, unserved in ((0, ["scout"]), (5, []))]
    assert ends == [[], [], [], [], ["proxy-unsteady"], []]


@pytest.mark.parametrize("given", [{"wanted": False}, {"configured": False}, {"wanted": None, "configured": None}])
def test_what_nobody_needs_or_has_yet_is_not_down(given):
    """The manifest is written before the role firewall has installed the proxy."""
    served = Served(lambda: {"proxy": {**state(["scout"])["proxy"], **given}})
    assert list(served.changes(0.0)) == [] and list(served.changes(1000.0)) == []


def test_a_request_to_which_the_proxy_added_secrets_names_them():
    plain, brokered = (proxy_event(json.dumps({**REQUEST, **more}), "7:0", "web1", WHERE) for more in ({}, {"secret": "key,odd"}))
    assert "secret" not in plain
    assert (brokered["kind"], brokered["secret"], brokered["url_path"]) == ("api_call", "key,odd", plain["url_path"])
    assert "secret" not in proxy_event(json.dumps({**REFUSED, "secret": "-"}), "7:0", "web1", WHERE)
