# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When an API that the manifest calls critical fails, who is woken, and what by."""

from __future__ import annotations

import json

import pytest
from cordon_monitoring import config, critical_api
from cordon_monitoring.pipeline import Pipeline

# As squid 5.7 wrote them, with the log format of _egress_proxy.py, in tests/integration/firewall/test_proxy.py.
LINE = {"at": 1795444240.0, "agent": "scout", "address": "127.99.180.165", "method": "GET", "host": "api.example.org",
        "port": "443", "sni": "api.example.org", "url": "https://api.example.org/v1", "outcome": "-", "reason": "-",
        "status": 200, "sent": 83, "received": 300, "ms": 10, "hierarchy": "HIER_DIRECT", "squid": "TCP_MISS", "error": "-",
        "detail": "-", "mode": "bump"}  # fmt: skip
CONNECT = {**LINE, "method": "CONNECT", "url": "api.example.org:443", "outcome": "inspected", "squid": "NONE_NONE"}
BUSY = {**LINE, "status": 503}
UNREACHED = {**CONNECT, "error": "ERR_CONNECT_FAIL", "detail": "WITH_SERVER"}
# What follows it: the request, which squid answers itself.
ECHO = {**LINE, "status": 503, "hierarchy": "HIER_NONE", "squid": "NONE_NONE", "error": "ERR_CONNECT_FAIL",
        "detail": "WITH_SERVER", "mode": "-"}  # fmt: skip
UNTRUSTED = {**UNREACHED, "error": "ERR_SECURE_CONNECT_FAIL", "detail": "X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT+broken_cert"}
UNRESOLVED = {**CONNECT, "outcome": "-", "reason": "unresolved", "status": 403, "squid": "TCP_DENIED",
              "error": "CORDON_UNRESOLVED", "sni": "-", "mode": "-"}  # fmt: skip
# The agent did not trust the proxy's certificate: the API has no part in that.
DISTRUSTED = {**CONNECT, "error": "ERR_SECURE_ACCEPT_FAIL", "detail": "SQUID_TLS_ERR_ACCEPT+TLS_LIB_ERR=A000418+TLS_IO_ERR=1"}
REFUSED = {**UNRESOLVED, "reason": "name", "error": "CORDON_NAME"}

AGENTS = config.Agents({}, frozenset({"scout", "scribe"}), critical={"scout": ["api.example.org", "other.example"], "scribe": []})


class Flow:
    """A pipeline, and what it raised."""

    def __init__(self, **settings):
        self.raised = []
        self.pipeline = Pipeline(config.Settings("web1", None, None, 900, True, [], **settings), self.raised.append)
        self.lines = 0

    def take(self, *lines, start=0.0, step=1.0, agents=AGENTS):
        """The alerts that these lines raised, a second after another, from so many seconds on."""
        before = len(self.raised)
        for number, line in enumerate(lines):
            self.lines += 1
            said = json.dumps({**line, "at": LINE["at"] + start + number * step})
            assert self.pipeline.take_proxy(said, f"7:{self.lines}", agents, 1.0)
        return [(alert["alert"], alert["severity"]) for alert in self.raised[before:]]


FAILING, ANSWERING = ("api-failing", "critical"), ("api-answering", "info")


@pytest.mark.parametrize(("line", "words"), [
    (BUSY, "it answered 503 (3)"),
    ({**LINE, "status": 529}, "it answered 529 (3)"),
    (UNREACHED, "the proxy could not reach it: ERR_CONNECT_FAIL WITH_SERVER (3)"),
    (UNTRUSTED, "the proxy could not reach it: ERR_SECURE_CONNECT_FAIL X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT+broken_cert (3)"),
    (UNRESOLVED, "the proxy could not reach it: its name has no address that the agent may be led to (3)"),
    ({**ECHO, "squid": "TCP_MISS", "error": "ERR_READ_ERROR", "detail": "-"}, "the proxy could not reach it: ERR_READ_ERROR (3)"),
    ({**BUSY, "host": "API.example.org."}, "it answered 503 (3)"),
])  # fmt: skip
def test_three_failed_calls_wake_somebody(line, words):
    flow = Flow()
    assert flow.take(line, line) == []
    assert flow.take(line, start=2.0) == [FAILING]
    (alert,) = flow.raised
    assert alert["summary"] == f"scout: 3 calls of {line['host']} failed within 5 minutes: {words}"
    assert (alert["agent"], alert["host"], alert["repeats"]) == ("scout", "web1", 0)
    assert alert["event"]["name"] == line["host"]
    assert "echo" not in json.dumps([alert, *flow.pipeline.finished(9.0)])


@pytest.mark.parametrize("line", [
    LINE, {**LINE, "status": 404}, {**LINE, "status": 429}, CONNECT, ECHO, DISTRUSTED, REFUSED,
    {**BUSY, "host": "sub.api.example.org"}, {**BUSY, "agent": "scribe"}, {**BUSY, "agent": "stranger"},
])  # fmt: skip
def test_what_is_not_the_apis_fault_or_not_critical_wakes_nobody(line):
    assert Flow().take(*[line] * 20) == []


def test_kinds_of_failures_are_counted_apart():
    flow = Flow()
    assert flow.take(BUSY, UNREACHED, ECHO, BUSY) == [FAILING]
    assert flow.raised[0]["summary"].endswith(
        "it answered 503 (2); the proxy could not reach it: ERR_CONNECT_FAIL WITH_SERVER (1)"
    )


def test_failures_far_apart_wake_nobody_however_many():
    assert Flow().take(*[BUSY, LINE] * 20, step=critical_api.WINDOW / 4) == []


def test_how_many_it_takes_is_a_setting():
    assert Flow(api_failures=1).take(BUSY) == [FAILING]
    flow = Flow(api_failures=10)
    assert flow.take(*[BUSY] * 9) == [] and flow.take(BUSY, start=9.0) == [FAILING]


def test_an_outage_is_told_once_and_so_is_its_end():
    flow, quiet = Flow(), critical_api.WINDOW
    assert flow.take(*[BUSY] * 50) == [FAILING]
    assert flow.take(LINE, start=60.0) == [], "one answer among failures is no end"
    assert flow.take(BUSY, start=200.0) == []
    assert flow.take(LINE, start=199.0 + quiet) == []
    assert flow.take(LINE, LINE, start=201.0 + quiet) == [ANSWERING]
    assert flow.raised[-1]["summary"] == "scout: api.example.org answers again; 51 calls failed"
    # Within the window of other alerts: what was told last must not be wrong.
    assert flow.take(BUSY, BUSY, BUSY, start=210.0 + quiet) == [FAILING]


def test_each_api_and_each_agent_has_an_outage_of_its_own():
    flow = Flow()
    agents = AGENTS._replace(critical={"scout": ["api.example.org", "other.example"], "scribe": ["api.example.org"]})
    other, scribe = {**BUSY, "host": "other.example"}, {**BUSY, "agent": "scribe"}
    assert flow.take(*[BUSY] * 3, *[other] * 3, *[scribe] * 3, agents=agents) == [FAILING] * 3
    assert [alert["summary"].split(" failed")[0] for alert in flow.raised] == [
        "scout: 3 calls of api.example.org", "scout: 3 calls of other.example", "scribe: 3 calls of api.example.org"]  # fmt: skip


def test_an_api_that_is_not_logged_is_watched_all_the_same():
    entry = {"name": "api.example.org", "port": 443, "protocol": "https", "log": False, "inspect": True, "networks": []}
    flow = Flow()
    assert flow.take(BUSY, BUSY, BUSY, agents=AGENTS._replace(named={"scout": [entry]})) == [FAILING]
    assert flow.pipeline.finished(9.0) == []


def test_the_manifest_says_which_are_critical(tmp_path):
    listed = [{"name": "scout", "user": "agent-x", "critical_apis": ["api.example.org"]}, {"name": "old", "user": "agent-y"}]
    (tmp_path / "manifest.json").write_text(json.dumps({"agents": listed}))
    assert config.agents(tmp_path / "manifest.json").critical == {"scout": ["api.example.org"], "old": []}
