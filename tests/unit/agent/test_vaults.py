# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What cordonctl says about secrets: which there are, whether they can be read, how to open their vault."""

from __future__ import annotations

import json

import pytest

from cordon import control, host, vaults

BROKER = {"host": "api.example.org", "port": 443, "header": "Authorization", "prefix": "", "user": None}
SECRETS = [{"name": "github_token", "tools": ["git"], "broker": None}, {"name": "url", "tools": [], "broker": None},
           {"name": "api_key", "tools": [], "broker": BROKER}]
AGENT = {"name": "scout", "home": "/srv/agents/scout", "user": "agent-scout", "secrets": SECRETS, "vault": {"unlock": "sealed"}}
OPERATORS = {**AGENT, "vault": {"unlock": "operator"}}
STORED = [{"name": name, "owner": "agent-scout", "mode": "0400"} for name in ("github_token", "url")]


def facts(mounted, secrets=None):
    return {"mounted": mounted, "secrets": secrets}


@pytest.mark.parametrize(
    ("seen", "states"),
    [
        (facts(True, STORED), ["open", "open"]),
        (facts(True, STORED[:1]), ["open", "missing"]),
        (facts(False), ["closed", "closed"]),
        (facts(None), ["unknown", "unknown"]),
    ],
)
def test_each_secret_has_a_state(seen, states):
    found = vaults.report(AGENT, seen)
    assert [secret["state"] for secret in found["secrets"]] == states
    assert [secret["readers"] for secret in found["secrets"]] == [["git"], ["every program"]], "the proxy's are not listed"
    assert vaults.readable([found]) is (states == ["open", "open"])


def test_a_closed_vault_says_how_to_open_it():
    text = vaults.text([vaults.report(AGENT, facts(False))])
    assert "To open it: systemctl start cordon-agent@scout, or cordonctl run scout -- COMMAND" in text
    assert "unlock" not in text


def test_a_vault_that_a_person_opens_says_so_first():
    text = vaults.text([vaults.report(OPERATORS, facts(False))])
    assert "a person opens it: cordonctl unlock scout\n" in text and "systemctl start cordon-agent@scout" in text


def test_a_vault_that_is_not_there_is_not_called_closed():
    assert "run the playbook cordon.agent_host.site" in vaults.text([vaults.report(AGENT, facts(None))])


def test_an_open_vault_needs_no_advice():
    assert "vault" not in vaults.text([vaults.report(AGENT, facts(True, STORED))])


def test_the_exit_code_tells_a_script(monkeypatch, capsys):
    monkeypatch.setattr(control.os, "geteuid", lambda: 0)
    monkeypatch.setattr(host, "agents", lambda: [AGENT])
    for mounted, code in ((True, 0), (False, 1)):
        seen = facts(mounted, STORED if mounted else None)
        monkeypatch.setattr(vaults._facts_vault, "read", lambda *_args, seen=seen, **_keys: seen)
        assert control.main(["secrets", "scout", "--json"]) == code
        assert json.loads(capsys.readouterr().out)[0]["vault"] == ("open" if mounted else "closed")
