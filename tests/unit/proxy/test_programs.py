# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proxy's small programs on the host, and what its log says."""
from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils import _egress
from ansible_collections.cordon.agent_host.plugins.module_utils._egress_proxy import config
from ansible_collections.cordon.agent_host.plugins.module_utils._egress_proxy_log import event

FILES = Path(__file__).resolve().parents[3] / "roles" / "firewall" / "files"


def program(name):
    spec = importlib.util.spec_from_file_location(name, FILES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


same_name, reload, authority = (program(f"proxy_{name}") for name in ("same_name", "reload", "authority"))


@pytest.mark.parametrize(("line", "answer"), [
    ("7 x.example x.example -\n", "7 OK"),
    ("0 X.example x.EXAMPLE. -\n", "0 OK"),
    ("7 x.example y.example -\n", "7 ERR"),
    ("7 x.example - -\n", "7 ERR"),
    ("7 - - -\n", "7 ERR"),
    ("7 x.example xx.example -\n", "7 ERR"),
    ("7 x.example\n", "7 ERR"),
    ("\n", " ERR"),
])
def test_names_are_compared_and_all_else_is_an_error(line, answer):
    assert same_name.answer(line) == answer


def lists(*agents, upstream=None):
    return config([{"name": name, "user": f"agent-{name}", "egress": list(egress)} for name, *egress in agents], upstream)


def granted(name, inspect=False, networks=()):
    return {"name": name, "port": 443, "protocol": "https", "log": True, "inspect": inspect, "networks": list(networks),
            "requests": []}


X, Y, OTHER = granted("agent.x.example"), granted("y.example"), ("other", granted("agent.x.example"))
SEEN = granted("z.example", inspect=True)
LED = granted("y.example", networks=["10.30.0.0/24", "10.40.0.0/24"])


@pytest.mark.parametrize(("before", "after", "narrowed"), [
    ([("one", X), OTHER], [("one", X), OTHER], set()),
    ([("one", X), OTHER], [("one", X, Y), OTHER], set()),
    ([("one", X), OTHER], [("one", X), OTHER, ("third", Y)], set()),
    ([("one", X, Y), OTHER], [("one", X), OTHER], {"one"}),
    ([("one", X, Y), OTHER], [OTHER], {"one"}),
    ([("one", X, Y), OTHER], [("one", X, granted("y.example", inspect=True)), OTHER], {"one"}),
    # Networks: one more ends nothing, neither here nor where it is refused from now on; one less ends what may stand in it.
    ([("one", X, Y), OTHER], [("one", X, LED), OTHER], set()),
    ([("one", X, LED), OTHER], [("one", X, Y), OTHER], {"one"}),
    ([("one", X, LED), OTHER], [("one", X, granted("y.example", networks=["10.30.0.0/24"])), OTHER], {"one"}),
    ([("one", LED), ("other", LED)], [("one", Y), ("other", LED)], {"one"}),
    # Names that look like lists of ours are names.
    ([("one", X, granted("www.foreign.example")), OTHER], [("one", X), OTHER], {"one"}),
    ([("one", X, granted("api.request.example")), OTHER], [("one", X), OTHER], {"one"}),
    # Requests: each is asked for by itself, in a connection that stands too.
    ([("one", SEEN), OTHER], [("one", {**SEEN, "requests": ["GET /a"]}), OTHER], set()),
    ([("one", {**SEEN, "requests": ["GET /a"]}), OTHER], [("one", SEEN), OTHER], set()),
])
def test_a_change_ends_the_tunnels_of_those_from_whom_it_takes(before, after, narrowed):
    assert reload.narrowed(lists(*before), lists(*after)) == narrowed


def test_a_change_that_is_everybodys_ends_all_tunnels():
    before = lists(OTHER)
    assert reload.narrowed(before, lists(OTHER, upstream={"address": "192.0.2.8", "port": 8080})) is None
    assert reload.narrowed(before, before.replace("acl CONNECT method CONNECT", "acl CONNECT method GET")) is None


def test_where_nobody_knows_what_stands_all_tunnels_end():
    assert reload.narrowed("", lists(OTHER)) is None


def test_a_reload_that_broke_off_leaves_its_work_to_the_next(monkeypatch, tmp_path):
    running, wanted = tmp_path / "running.conf", tmp_path / "squid.conf"
    running.write_text(lists(("one", X, Y), OTHER))
    wanted.write_text(lists(("one", X), OTHER))
    monkeypatch.setattr(reload, "RUNNING", str(running))
    monkeypatch.setattr(reload, "WANTED", str(wanted))
    monkeypatch.setattr(reload.os, "kill", lambda *_arguments: None)
    monkeypatch.setattr(reload, "state", lambda: "")
    monkeypatch.setattr(reload, "PATIENCE", 0)
    ended = []
    monkeypatch.setattr(reload, "cut", lambda address: ended.append(address) or True)
    with pytest.raises(SystemExit, match="does not answer"):
        reload.apply(1)
    assert ended == []
    monkeypatch.setattr(reload, "state", wanted.read_text)
    reload.apply(1)
    assert ended == [_egress.addresses([{"name": "one"}, {"name": "other"}])["one"]]
    assert running.read_text() == wanted.read_text()


def test_where_an_agent_is_served_stands_in_the_text():
    assert reload.listeners(lists(("one", X), OTHER)) == _egress.addresses([{"name": "one"}, {"name": "other"}])


def answers(monkeypatch, *outputs):
    """ss, as it answers one call after the other; None: it fails."""
    asked = list(outputs)
    monkeypatch.setattr(reload, "sockets", lambda *_arguments: asked.pop(0))


def test_whether_connections_have_ended_is_looked_at(monkeypatch):
    row = "0 0 127.99.3.7:3128 127.0.0.1:%d\n"
    for outputs, ended in [((row % 5, "", ""), True), ((row % 5, "", row % 6), True), (("", "", ""), True),
                           ((row % 5, "", row % 5), False), ((None, None, None), False)]:
        answers(monkeypatch, *outputs)
        assert reload.cut("127.99.3.7") is ended


def test_a_bundle_has_each_certificate_once_and_nothing_else():
    one = "-----BEGIN CERTIFICATE-----\n" + "A" * 70 + "\n-----END CERTIFICATE-----\n"
    text = authority.bundle(f"# a comment\n{one}", one, "")
    assert text == "-----BEGIN CERTIFICATE-----\n" + "A" * 64 + "\n" + "A" * 6 + "\n-----END CERTIFICATE-----\n"


def test_javas_store_is_the_same_for_the_same_certificates():
    one = "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n"
    store = authority.java_trust_store(one)
    assert store == authority.java_trust_store(one)
    assert store[:12] == bytes.fromhex("feedfeed0000000200000001") and b"X.509\x00\x00\x00\x03ABC" in store


LINE = {"at": 1.5, "agent": "a", "address": "127.99.3.7", "method": "CONNECT", "host": "x.example", "port": "443",
        "sni": "x.example", "url": "x.example:443", "outcome": "-", "reason": "-", "status": 200, "sent": 5, "received": 6,
        "ms": 7, "hierarchy": "HIER_DIRECT", "squid": "TCP_TUNNEL", "error": "-", "detail": "-", "mode": "splice"}
REQUEST = {"method": "GET", "url": "https://x.example/a%2520b?", "squid": "TCP_MISS", "mode": "bump"}


@pytest.mark.parametrize(("change", "expected"), [
    ({}, {"outcome": "closed", "reason": None, "status": None, "inspected": False, "port": 443}),
    ({"outcome": "tunnel", "squid": "NONE_NONE"}, {"outcome": "opened", "inspected": False}),
    ({"squid": "NONE_NONE", "status": 503}, {"outcome": "failed", "reason": "the server could not be reached"}),
    ({"reason": "sni"}, {"outcome": "refused", "reason": "sni", "status": None}),
    ({**REQUEST, "status": 503}, {"outcome": "answered", "status": 503, "path": "/a%20b", "inspected": True}),
    ({**REQUEST, "error": "ERR_X", "detail": "Y"}, {"outcome": "failed", "reason": "ERR_X Y", "status": None}),
    ({"agent": "-", "url": "error:request-too-large", "method": "-", "host": "-", "port": "-"},
     {"outcome": "refused", "reason": "too large", "agent": "a", "host": None, "path": None}),
])
def test_what_a_line_of_the_log_says(change, expected):
    found = event(json.dumps({**LINE, **change}), {"127.99.3.7": "a"})
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("line", ["", "{}", "[]", "x", json.dumps({**LINE, "url": "error:transaction-end-before-headers"})])
def test_a_line_that_says_nothing(line):
    assert event(line) is None
