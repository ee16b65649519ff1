# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which requests an entry grants. That squid asks it for each: tests/integration/firewall/test_proxy.py."""
from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.cordon.agent_host.plugins.module_utils import _egress_proxy, _egress_requests
from ansible_collections.cordon.agent_host.plugins.module_utils._egress_requests import granted, read

from .test_egress_proxy import agent
from .test_egress_proxy import granted as named

FILES = Path(__file__).resolve().parents[3] / "roles" / "firewall" / "files"


def entry(*requests):
    return {"requests": list(requests)}


@pytest.mark.parametrize(("request_", "method", "path", "expected"), [
    ("GET /v1", "GET", "/v1", True),
    ("GET /v1", "POST", "/v1", False),
    ("GET /v1", "GET", "/v1/", False),
    ("GET /v1", "GET", "/v1?q=x", False),
    ("GET /v1?", "GET", "/v1?", True),
    ("GET /v1?q=*", "GET", "/v1?q=", True),
    ("GET /v1?q=*", "GET", "/v1?q=a/b&c=%2F..", True),
    ("GET /v1?q=*&z", "GET", "/v1?q=x", False),
    ("GET,POST /v1", "POST", "/v1", True),
    ("* /v1", "PROPFIND", "/v1", True),
    ("GET /a/*/c", "GET", "/a/b/c", True),
    ("GET /a/*/c", "GET", "/a//c", False),
    ("GET /a/*/c", "GET", "/a/b/b/c", False),
    ("GET /a-*", "GET", "/a-b.c~d", True),
    ("GET /a/**", "GET", "/a/", True),
    ("GET /a/**", "GET", "/a", False),
    ("GET /a/**", "GET", "/a/b/c/", True),
    ("GET /a/**/z", "GET", "/a/b/c/z", True),
    ("GET /**", "GET", "/", True),
    ("GET /.well-known/*", "GET", "/.well-known/x", True),
    ("GET /a%2Fb", "GET", "/a%2Fb", True),
    ("GET /a%2Fb", "GET", "/a/b", False),
    ("GET /a.b", "GET", "/axb", False),
])
def test_what_a_line_grants(request_, method, path, expected):
    assert granted(entry(request_), method, path) is expected


UNCLEAR = ["/a/..", "/a/../b", "/a/./b", "/a/%2e%2e/b", "/a/.%2E/b", "/a//b", "/a/b%2fc", "/a/b%5Cc", "/a/b%252fc", "/a/b%00",
           "/a/b%3fc", "/a/b\\c", "/a/b c", "/a/b\tc", "/a/é", "/a/b#c", "/a/%zz", "/a/%", "", "*", "a/b", "https://x/a/b"]


@pytest.mark.parametrize("path", UNCLEAR)
def test_what_can_be_read_in_two_ways_is_granted_by_no_wildcard(path):
    assert not granted(entry("* /**", "* /a/**", "* /a/*/*"), "GET", path)


@given(st.text(alphabet="ab/.%2eEfF5cC?*", max_size=12))
def test_no_wildcard_leads_out_of_its_place(path):
    """Whatever a server makes of it: decoded once, twice, with "\\" for "/", and with dots obeyed."""
    if granted(entry("GET /a/**"), "GET", "/a/" + path):
        for text in ("/a/" + path, unquote("/a/" + path), unquote(unquote("/a/" + path))):
            segments = text.partition("?")[0].replace("\\", "/").split("/")
            assert segments[:2] == ["", "a"] and ".." not in segments and "." not in segments and "" not in segments[2:-1]


@given(st.text(max_size=30))
def test_what_is_read_is_one_line_of_a_configuration(text):
    for one in (text, f"GET /{text}"):
        if read(one):
            assert one.isprintable() and one.isascii() and "#" not in one and '"' not in one


def test_without_a_list_everything_is_granted():
    assert granted(entry(), "DELETE", "/a/../b", overridden=True)


def test_a_header_for_another_method_is_refused():
    assert not granted(entry("* /**"), "POST", "/a", overridden=True)


def test_a_line_that_is_no_request_is_not_rendered():
    broken = {**named("x.example", inspect=True), "requests": ["GET /a\nhttp_access allow all"]}
    with pytest.raises(ValueError, match="pass the manifest through the filter agents first"):
        _egress_proxy.config([agent("a", broken)])


def test_another_list_is_another_configuration():
    """So that the proxy is told to read it."""
    one, two = ([agent("a", {**named("x.example", inspect=True), "requests": [request]})] for request in ("GET /a", "GET /b"))
    assert _egress_proxy.running(_egress_proxy.config(one)) != _egress_proxy.running(_egress_proxy.config(two))
    assert json.loads(_egress_proxy.requests(one)) == {
        "a": [{"name": "x.example", "port": 443, "protocol": "https", "requests": ["GET /a"]}]}
    assert json.loads(_egress_proxy.requests([agent("b", named("x.example"))])) == {}


@pytest.fixture(scope="module")
def helper(tmp_path_factory):
    """The program, beside the package that the role installs."""
    place = tmp_path_factory.mktemp("library")
    (place / "cordon").symlink_to(Path(_egress_requests.__file__).parent)
    program = place / "proxy_requests.py"
    program.write_text((FILES / "proxy_requests.py").read_text())
    spec = importlib.util.spec_from_file_location("proxy_requests", program)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


AGENTS = {"a": [
    {"name": "x.example", "port": 443, "protocol": "https", "requests": ["GET /a", "POST /p%2Fq"]},
    {"name": "*.example", "port": 443, "protocol": "https", "requests": []},
]}


@pytest.mark.parametrize(("line", "said"), [
    ("7 a x.example 443 GET /a - - -\n", "7 OK"),
    ("7 a X.example. 443 GET /a - - -\n", "7 OK"),
    ("7 a x.example 443 POST /p%2Fq - - -\n", "7 OK"),
    ("7 a x.example 443 POST /p/q - - -\n", "7 ERR"),
    ("7 a x.example 443 GET /b - - -\n", "7 ERR"),
    ("7 a y.example 443 GET /b - - -\n", "7 OK"),
    ("7 a y.elsewhere 443 GET /b - - -\n", "7 ERR"),
    ("7 a x.example 8443 GET /a - - -\n", "7 ERR"),
    ("7 b x.example 443 GET /a - - -\n", "7 ERR"),
    ("7 a x.example 443 GET /a - PUT -\n", "7 ERR"),
    ("7 a x.example https GET /a - - -\n", "7 ERR"),
    ("7 a x.example\n", "7 ERR"),
    ("\n", " ERR"),
])
def test_the_program_grants_what_is_listed_and_all_else_is_an_error(helper, line, said):
    assert helper.answer(line, AGENTS) == said
