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
     ["may not connect to 203.0.113.5 port 443 (tcp)", "the packet filter", "egress: [{cidr: 203.0.113.5/32}]"]),
    (event(kind="connection", operation="connect", path=None, reason="metadata", address="169.254.169.254", port=80),
     ["never: ", "cloud metadata"]),
    (by_apparmor(path="/usr/share/x"), ["the manifest allows it by now"]),
])  # fmt: skip
def test_each_kind_of_denial_in_words(on_call, said, parts):
    _found, text = on_call(said)
    assert [part for part in parts if part not in text] == [], text


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
