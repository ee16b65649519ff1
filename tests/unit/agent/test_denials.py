# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the person on call reads: who was refused what, by whom, and what to do."""

from __future__ import annotations

import json
import time

import pytest

from ansible_collections.cordon.agent_host.plugins.lookup import tool_catalogue
from ansible_collections.cordon.agent_host.plugins.module_utils._manifest import resolve
from ansible_collections.cordon.agent_host.plugins.plugin_utils._catalogue import known_tools
from cordon import burn_in, control, denials, host

SINCE = "2026-11-23T00:00:00"
RUNS = {"command": ["/usr/bin/sleep", "infinity"]}
(AGENT,) = resolve([{"name": "scout", **RUNS, "tools": ["git"], "mode": "enforce"}], known_tools())
MAIN = {"class": "file", "profile": "cordon.scout.main", "layer": "inner", "access": "r", "family": None, "sock_type": None,
        "protocol": None, "detail": None}


def event(second=0, **keys):
    made = {"time": f"2026-11-23T04:10:{second:02}.000Z", "agent": "scout", "kind": "file", "outcome": "denied",
            "program": "/usr/bin/cat", "operation": "open", "path": "/etc/fstab", "reason": "apparmor"}
    return {**made, **keys}


def by_apparmor(second=0, **keys):
    said = {**MAIN, **{key: keys.pop(key) for key in list(keys) if key in MAIN}}
    return event(second, apparmor=said, **keys)


@pytest.fixture
def on_call(tmp_path, monkeypatch):
    """on_call(*EVENTS): the report and its text."""
    (tmp_path / "tools.json").write_text(json.dumps(tool_catalogue.LookupModule().run([])[0]))
    (tmp_path / "state.json").write_text(json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())}))
    monkeypatch.setattr(denials, "TOOLS", str(tmp_path / "tools.json"))
    monkeypatch.setattr(denials, "STATE", str(tmp_path / "state.json"))

    def run(*listed):
        log = tmp_path / "events.jsonl"
        log.write_text("".join(json.dumps(one) + "\n" for one in listed))
        found = denials.report(AGENT, SINCE, str(log))
        return found, denials.text(AGENT, SINCE, found)

    return run


def test_like_denials_are_one_entry_and_the_newest_is_last(on_call):
    found, text = on_call(
        by_apparmor(1), by_apparmor(5), by_apparmor(9, suppressed=30), by_apparmor(3, path="/etc/crontab"))
    assert [(one["count"], one["act"]["path"]) for one in found] == [(1, "/etc/crontab"), (32, "/etc/fstab")]
    assert text.startswith("scout (enforce): 33 times refused, 2 kinds, newest last. Since 2026-11-23T00:00 UTC.")
    assert "2. /usr/bin/cat may not read /etc/fstab\n    32 times, 04:10:01 to 04:10:09 UTC\n" in text
    assert "refused by: cordon.scout.main, which has no rule for it; the cage lets it pass" in text
    assert "+    workspace: {read_only: [/etc/fstab]}" in text
    assert "INCOMPLETE" not in text


@pytest.mark.parametrize(("said", "parts"), [
    (by_apparmor(path="/usr/bin/psql", operation="exec", kind="process", layer="both", access="x", **{"class": "exec"}),
     ["may not start /usr/bin/psql", "the cage cordon.scout, and cordon.scout.main has no rule for it either"]),
    (by_apparmor(path="/usr/bin/su", operation="exec", kind="process", layer="cage", access="x", **{"class": "exec"}),
     ["may not start /usr/bin/su", "never: it is setuid", "refused by: the cage cordon.scout\n"]),
    (by_apparmor(path=None, operation="capable dac_override", kind="process", detail="dac_override", **{"class": "capability"}),
     ["may not use the capability dac_override", "mistake of ownership"]),
    (by_apparmor(path=None, operation="create", kind="connection", family="inet", sock_type="raw", access="create",
                 **{"class": "network"}),
     ["may not create a socket: inet raw", "never: raw sockets"]),
    (event(path="/etc/shadow", reason="EACCES"),
     ["owner and mode of the file; AppArmor was not asked", "never: no agent may: passw"]),
    (event(path="/srv/in/x", reason="EACCES"), ["permission on the file itself", "read_only: [/srv/in/x]"]),
    (event(path="/srv/out/", reason="EROFS", operation="mkdir"), ["may not write /srv/out/", "read_write: [/srv/out]"]),
    (event(path="/etc/cron.d/", reason="EROFS"), ["the unit's mounts", "never: no agent may: ways to come back"]),
    (event(kind="process", operation="kill systemd", path=None, reason="EPERM"), ["do kill (systemd)", "not one for agents"]),
    (event(kind="connection", operation="connect", path=None, reason="nftables", address="203.0.113.5", port=443, protocol="tcp"),
     ["may not connect to 203.0.113.5 port 443 (tcp)", "the packet filter", "because no line of the agent's egress grants",
      "+      - {cidr: 203.0.113.5/32}"]),
    (event(kind="connection", operation="connect", path=None, reason="metadata", address="169.254.169.254", port=80),
     ["never: 169.254.169.254 is a metadata address"]),
    (event(kind="connection", operation="connect", path=None, reason="flood", address="203.0.113.5", port=443, protocol="tcp"),
     ["the packet filter: what it may reach, it may not reach with so many connections", "have it close what it does not use"]),
    (event(kind="connection", operation="connect", path=None, reason="nftables", address="203.0.113.5", port=None,
           protocol="icmp"), ["never: nothing grants icmp"]),
    (event(kind="api_call", operation="CONNECT", path=None, reason="proxy", refusal="name", name="Pypi.example.org", port=443),
     ["may not connect to Pypi.example.org port 443 (https)", "refused by: the proxy", "+      - {name: pypi.example.org}"]),
    (event(kind="api_call", operation="CONNECT", path=None, reason="proxy", refusal="sni", name="pypi.example.org", port=443),
     ["the TLS handshake named another host than CONNECT"]),
    (event(kind="api_call", operation="GET", path=None, reason="proxy", refusal="method", name="pypi.example.org", port=80),
     ["a plain http request is refused"]),
    (event(kind="api_call", operation="CONNECT", path=None, reason="metadata", name="metadata.google.internal", port=443),
     ["never: metadata.google.internal is a metadata service"]),
    (event(kind="api_call", operation="CONNECT", path=None, reason="proxy", refusal="name", name="-no host-", port=443),
     ["never: ", "is not a host name"]),
    (event(kind="dns", operation="resolve", path=None, reason="resolver", name=None, type=None, refusal="flood"),
     ["may not do dns (flood)", "refused by: the resolver"]),
    (event(kind="dns", operation="resolve", path=None, reason="filtered", name="db.example.org", type="A", refusal="10.0.0.1 is"
           " a private address"), ["the resolver's reason: 10.0.0.1 is a private address"]),
    (event(kind="dns", operation="resolve", path=None, reason="resolver", name="git.example.org", type="A"),
     ["may not look up the name git.example.org", "refused by: the resolver", "+      - {name: git.example.org}",
      "write that port"]),
    (by_apparmor(path="/usr/share/x"), ["the manifest allows it by now"]),
])  # fmt: skip
def test_each_kind_of_denial_in_words(on_call, said, parts):
    _found, text = on_call(said)
    assert [part for part in parts if part not in text] == [], text


WITH_NAMES = resolve([{"name": "scout", **RUNS, "mode": "enforce", "egress": [
    {"name": "api.example.org"}, {"name": "git.example.org", "protocol": "ssh"},
    {"name": "code.example.org", "inspect": True, "requests": ["GET /acme/**"]}]}, {"name": "scribe", **RUNS}], {})
ANSWERED = event(kind="dns", outcome="allowed", reason=None, operation="resolve", path=None, name="git.example.org",
                 addresses=["203.0.113.9", "2001:db8::9"])
CONNECTS = {"kind": "connection", "operation": "connect", "path": None, "reason": "nftables", "protocol": "tcp"}


@pytest.mark.parametrize(("said", "parts"), [
    # A program that does not know of the proxy asks DNS first: nobody answers an agent with https names only.
    ([event(kind="dns", operation="resolve", path=None, reason="resolver", name="api.example.org")],
     ["agents[0].egress[0] grants it through the proxy", "does not use https_proxy"]),
    ([event(kind="dns", operation="resolve", path=None, reason="filtered", name="git.example.org",
            refusal="10.0.0.1 is private")],
     ["the resolver's reason: 10.0.0.1 is private", "agents[0].egress[1] grants the name, but not to lead there"]),
    ([event(kind="dns", operation="resolve", path=None, reason="resolver", name="git.example.org", type="TXT")],
     ["only the types A and AAAA are answered"]),
    ([event(kind="api_call", operation="POST", path=None, reason="proxy", refusal="request", name="code.example.org", port=443,
            method="POST", url_path="/evil/tool")],
     ["but not this request", "add 'POST /evil/tool' to the requests of agents[0].egress[2]"]),
    # The address is the answer to a name: the change names it, not an address that is another's tomorrow.
    ([ANSWERED, event(2, **CONNECTS, address="203.0.113.9", port=8080)],
     ["may not connect to 203.0.113.9 (git.example.org) port 8080", " egress:", "+      - {name: git.example.org, port: 8080}",
      "agents[0].egress[1] allows it on tcp port 22"]),
    ([ANSWERED, event(2, **CONNECTS, address="203.0.113.9", port=22)], ["agents[0].egress[1] grants it by now"]),
    ([event(2, **CONNECTS, address="203.0.113.9", port=22)], ["{cidr: 203.0.113.9/32, port: 22"]),
])
def test_a_refusal_on_the_network_names_the_line(on_call, tmp_path, said, parts):
    on_call(*said)
    found = denials.report(WITH_NAMES[0], SINCE, str(tmp_path / "events.jsonl"), WITH_NAMES)
    text = denials.text(WITH_NAMES[0], SINCE, found)
    assert [part for part in parts if part not in text] == [], text
    json.dumps(found)


@pytest.fixture
def provisioned(tmp_path, monkeypatch):
    """A host with the agents of WITH_NAMES; cordonctl as root."""
    (tmp_path / "manifest.json").write_text(json.dumps({"agents": WITH_NAMES}))
    monkeypatch.setattr(host, "MANIFEST", str(tmp_path / "manifest.json"))
    monkeypatch.setattr(control.os, "geteuid", lambda: 0)


@pytest.mark.parametrize(("arguments", "code", "said"), [
    (["scout", "api.example.org"], 0, [
        "scout may reach api.example.org, port 443 (https)", "    way:         through its proxy",
        "    decided by:  agents[0].egress[0]: {name: api.example.org}"]),
    (["scout", "git.example.org", "--port", "22"], 0, ["agents[0].egress[1]: {name: git.example.org, port: 22}"]),
    (["scout", "https://code.example.org/acme"], 0, ["of its requests these only: GET /acme/**"]),
    (["scout", "pypi.example.org"], 1, [
        "scout may NOT reach pypi.example.org, port 443 (https)", "add to the egress of scout: {name: pypi.example.org}"]),
    (["scout", "2852039166:80"], 1, ["reach 2852039166 (169.254.169.254), port 80", "to allow it: nothing can"]),
    (["scout", "pypi.example.org", "--protocol", "udp"], 1, ["{name: pypi.example.org, protocol: udp}"]),
])
def test_explain_in_words(provisioned, capsys, arguments, code, said):
    assert control.main(["explain", *arguments]) == code
    text = capsys.readouterr().out
    assert [part for part in said if part not in text] == [], text
    assert control.main(["explain", *arguments, "--json"]) == code
    assert json.loads(capsys.readouterr().out)["allowed"] is (code == 0)


@pytest.mark.parametrize(("arguments", "said"), [
    (["nobody", "api.example.org"], "there is no agent 'nobody'"),
    (["scout", "host:http"], "is no port"),
])
def test_explain_says_what_it_cannot_answer(provisioned, capsys, arguments, said):
    assert control.main(["explain", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_names_that_the_agent_chose_cannot_write_to_the_terminal(on_call):
    evil = "/srv/\x1b[2J\n9. all is well"
    _found, text = on_call(by_apparmor(path=evil, program=evil), event(path=evil), by_apparmor(path=evil, access="w"))
    assert "\x1b" not in text
    assert not [line for line in text.splitlines() if line.startswith("9.")]


def test_nothing_refused_is_said_and_a_dead_writer_too(on_call, tmp_path):
    assert on_call()[1] == "scout (enforce): nothing refused. Since 2026-11-23T00:00 UTC."
    (tmp_path / "state.json").write_text(json.dumps({"time": "2020-01-01T00:00:00.000Z"}))
    assert "THE LOG MAY BE INCOMPLETE" in on_call()[1]
    (tmp_path / "state.json").unlink()
    assert "THE LOG MAY BE INCOMPLETE" in on_call()[1]


ACT = {**MAIN, "profile": "cordon.scribe.main", "verdict": "allowed", "operation": "open", "path": "/etc/fstab",
       "program": "/usr/bin/cat", "count": 7, "first": 1763870000.0, "last": 1763870500.0}
REFUSED = {**ACT, "path": "/usr/bin/su", "class": "exec", "access": "x", "verdict": "denied"}
RECORD = {"agent": "scribe", "collecting_since": 1763860000.0, "ended": None, "boot": "b", "audit_lost": 0, "lost": [],
          "days": ["2025-11-23"], "execs": 12, "last_exec": 1763870500.0, "acts": [ACT, REFUSED]}


@pytest.fixture
def burning(on_call, tmp_path, monkeypatch):
    monkeypatch.setattr(burn_in, "COLLECTED", str(tmp_path / "%s.json"))
    monkeypatch.setattr(burn_in.gate, "conditions", lambda _agent: [])
    (agent,) = resolve([{"name": "scribe", **RUNS}], known_tools())

    def run(record):
        (tmp_path / "scribe.json").write_text(json.dumps(record))
        found = burn_in.report(agent)
        return found, burn_in.text(found)

    return run


def test_a_burn_in_reads_from_top_to_bottom(burning):
    found, text = burning(RECORD)
    assert text.startswith("scribe, in burn-in. Collected since 2025-11-23 01:06:40 UTC, ")
    for part in ("12 programs started on 1 day", "Lost: nothing.", "1 that enforce would refuse, 1 that were refused",
                 "let pass", "1. workspace.read_only: [/etc/fstab] (7 times): no line", "/usr/bin/cat may not read /etc/fstab",
                 "2. NEVER (7 times): it is setuid", "/usr/bin/cat may not start /usr/bin/su",
                 "All changes of the manifest together:"):
        assert part in text
    assert json.loads(json.dumps(found))["change"].splitlines()[-1] == "+    workspace: {read_only: [/etc/fstab]}"
    assert found["suggestions"][0]["acts"] == ["/usr/bin/cat may not read /etc/fstab"]


def test_losses_and_silence_are_said(burning):
    lost = [{"at": 1763870000.0, "what": "the kernel lost 3 audit records"}]
    _found, text = burning({**RECORD, "lost": lost, "execs": 0, "last_exec": None, "acts": []})
    assert "2025-11-23 03:53:20 UTC: the kernel lost 3 audit records" in text
    assert "Activity: none." in text
    assert "Suggestions" not in text


def test_the_gate_has_its_place(burning, monkeypatch):
    waiting = {"id": "window", "title": "Enough", "met": False, "observed": "1 of 14 days.", "remedy": "wait."}
    monkeypatch.setattr(burn_in.gate, "conditions", lambda _agent: [waiting])
    found, text = burning(RECORD)
    assert text.endswith("1 of 1 conditions do not hold.\n  NO   Enough. 1 of 14 days.\n       remedy: wait.")
    assert found["gate"] == [waiting]


def test_an_agent_of_which_nothing_was_collected_is_said(on_call, tmp_path, monkeypatch):
    monkeypatch.setattr(burn_in, "COLLECTED", str(tmp_path / "%s.json"))
    with pytest.raises(host.HostError, match="cordon-events"):
        burn_in.report(AGENT)


def test_both_are_commands():
    parser = control._parser()
    assert parser.parse_args(["denials", "scout", "--since", "2026-11-23T04:00"]).since == "2026-11-23T04:00"
    assert parser.parse_args(["burn-in"]).agent is None
