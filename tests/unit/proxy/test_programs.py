# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proxy's small programs on the host, and what its log says."""
from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

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


BASE = ["visible_hostname cordon-1", "# one", "acl agent.a.443.exact dstdomain -n x", "ssl_bump splice same_name is.tunnel"]


@pytest.mark.parametrize(("after", "narrower"), [
    (BASE, False),
    (["visible_hostname cordon-2", "# two", *BASE[2:]], False),
    ([*BASE, "acl agent.a.443.exact dstdomain -n y"], False),
    ([BASE[0], BASE[3]], True),
    ([*BASE[:2], "acl agent.a.443.exact dstdomain -n y", BASE[3]], True),
    ([*BASE, "acl agent.a.way.0 dstdomain -n x"], True),
    ([*BASE, "ssl_bump bump agent.a.tls agent.a.to.443 agent.a.way.0 same_name is.inspected"], True),
])
def test_which_change_ends_tunnels(after, narrower):
    assert reload.narrower("\n".join(BASE), "\n".join(after)) is narrower


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
