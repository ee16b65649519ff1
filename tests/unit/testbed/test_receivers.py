# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The services answer, and what arrived is on record."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request

import pytest

from testbed import receivers, run, services, tls
from testbed.show import Failure


@pytest.mark.parametrize(("service", "path", "name"), [
    ("https", "/webhook", "https.jsonl"), ("off_allowlist", "/", "off_allowlist.jsonl"),
    ("receiver", "/webhook?x=1", "webhook.jsonl"), ("receiver", "/heartbeat/", "heartbeat.jsonl"),
    ("receiver", "/webhooks", "receiver.jsonl"), ("receiver", "/../../etc/passwd", "receiver.jsonl"),
])
def test_log_of_a_request(service, path, name):
    assert receivers.log_name(service, path) == name


@pytest.mark.parametrize(("path", "status"), [
    ("/", 200), ("/status/503", 503), ("/status/42", 200),
    ("/status/999", 200), ("/status/x", 200), ("/a/status/503", 200),
])
def test_wanted_status(path, status):
    assert receivers.wanted_status(path) == status


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    directory = tmp_path_factory.mktemp("testbed")
    tls.make(directory / "services", ["127.0.0.1"])
    servers = {name: receivers.serve(name, 0, directory, directory / "services") for name in receivers.NAMES}
    yield directory, {name: server.server_address[1] for name, server in servers.items()}
    for server in servers.values():
        server.shutdown()
        server.server_close()


def test_https_is_trusted_by_its_authority_only(served):
    directory, ports = served
    address = f"https://127.0.0.1:{ports['https']}/v1?a=b"
    trust = ssl.create_default_context(cafile=directory / "services" / "ca.crt")
    with urllib.request.urlopen(address, data=b'{"q": 1}', context=trust, timeout=10) as answer:
        assert json.load(answer)["bytes"] == 8
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(address, timeout=10)
    line = json.loads((directory / "https.jsonl").read_text().splitlines()[-1])
    assert (line["method"], line["path"], line["body"]) == ("POST", "/v1?a=b", {"q": 1})


def test_webhooks_and_heartbeats_are_appended_with_their_time(served):
    directory, ports = served
    for path in ("webhook", "heartbeat", "webhook"):
        urllib.request.urlopen(f"http://127.0.0.1:{ports['receiver']}/{path}", data=path.encode(), timeout=10).close()
    lines = [json.loads(line) for line in (directory / "webhook.jsonl").read_text().splitlines()]
    assert [line["body"] for line in lines] == ["webhook", "webhook"]
    assert lines[0]["time"].endswith("Z") and lines[0]["time"] <= lines[1]["time"]
    assert len((directory / "heartbeat.jsonl").read_text().splitlines()) == 1


def test_the_authority_cannot_sign_again(served):
    assert not (served[0] / "services" / "ca.key").exists()


def test_facts_name_every_service_at_the_guests_address(tmp_path):
    facts = services.facts(tmp_path, {"https": 1, "off_allowlist": 2, "receiver": 3}, 4, "me")
    assert facts["https"]["url"] == "https://10.0.2.2:1/"
    assert facts["webhook"]["url"] == "http://10.0.2.2:3/webhook"
    assert facts["heartbeat"]["log"] == str(tmp_path / "heartbeat.jsonl")
    assert (facts["tunnel"]["port"], facts["tunnel"]["user"]) == (4, "me")


def test_a_full_disk_is_named_as_such():
    assert "the disk is full" in run.explain("building", "x\ntar: No space left on device\nmore")
    assert run.explain("building", "one\ntwo", lines=1) == "building failed; the end of its output:\n  two"


def test_an_unreachable_archive_is_named_with_the_variable():
    message = run.explain("building", "Ign:1 x\nE: Failed to fetch http://a.example/x  Could not connect\nE: more")
    assert "a.example" in message and "TESTBED_MIRROR" in message and "\n" not in message


def test_a_missing_program_is_named_by_its_package():
    with pytest.raises(Failure, match="apt-get install one two"):
        run.need_programs({"no-such-program-1": "two", "no-such-program-2": "one", "sh": "dash"})
