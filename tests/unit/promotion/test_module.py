# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""agent_promotion on a host made of files: what it writes, what it refuses, and that nothing happens twice."""

from __future__ import annotations

import json
import stat
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.cordon.agent_host.plugins.module_utils import _burn_in
from ansible_collections.cordon.agent_host.plugins.modules import agent_promotion

from .conftest import NOW, stamp

RECORD, HISTORY = "etc/cordon/promotions.json", "var/lib/cordon/promotions.jsonl"


class Fake:
    """The host's files, its facts, and a cordonctl that records what it was asked to run."""

    def __init__(self, root: Any, host: Any) -> None:
        self.root, self.host, self.ran, self.now = root, host, [], NOW
        self.exit = 0
        for place in ("etc/cordon", "run/cordon", "var/lib/cordon/burn_in"):
            (root / place).mkdir(parents=True)
        self.write("etc/cordon/manifest.json", {"agents": [host.applied]})
        self.save()

    def write(self, path: str, value: Any) -> None:
        (self.root / path).write_text(json.dumps(value))

    def save(self) -> None:
        """What cordon-events would have written by now."""
        self.write("etc/cordon/apparmor.json", self.host.record)
        self.write("run/cordon/events.json", dict(self.host.writer, collected_until=stamp(self.now + 60)))
        self.write("var/lib/cordon/burn_in/scribe.json", self.host.collected)

    def read(self, path: str) -> Any:
        return json.loads((self.root / path).read_text())

    def history(self) -> list[dict[str, Any]]:
        path = self.root / HISTORY
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def run(self, argv: list[str], data: Any = None) -> tuple[int, str, str]:
        self.ran.append(argv)
        self.now += 10
        self.host.collected.update(last_exec=self.now, execs=self.host.collected["execs"] + 1)
        self.save()
        return self.exit, "said on stdout\n", "said on \x1b[2Jstderr\n" if self.exit else ""

    def contents(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted(self.root.rglob("*")) if path.is_file()}


@pytest.fixture
def fake(tmp_path, host, monkeypatch) -> Fake:
    found = Fake(tmp_path, host)
    monkeypatch.setattr(agent_promotion, "ROOT", str(tmp_path))
    monkeypatch.setattr(agent_promotion, "_runner", lambda module: found.run)
    monkeypatch.setattr(agent_promotion._facts, "collect", lambda *_args, **_options: host.facts)
    monkeypatch.setattr(agent_promotion.time, "time", lambda: found.now)
    monkeypatch.setattr(agent_promotion.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(agent_promotion, "PATIENCE", 0.0)
    return found


@pytest.fixture
def call(fake, capsys, manifest):
    """call(STATE, check=False, **options): the module's result."""

    def run(state: str, check: bool = False, **options: Any) -> dict[str, Any]:
        arguments = {"agents": ["scribe"], "state": state, "manifest": manifest, "profiles": fake.host.rendered,
                     "replay": {"scribe": [["git", "--version"], ["true"]]}, "by": "olga", **options}
        with patch_module_args({"_ansible_check_mode": check, "_ansible_diff": True, **arguments}), pytest.raises(SystemExit):
            agent_promotion.main()
        return json.loads(capsys.readouterr().out)

    return run


def test_four_ways_to_promote(call, fake):
    before = fake.contents()
    check = call("promoted", check=True)
    assert (check["changed"], check["agents"]) == (True, ["scribe"])
    assert check["diff"] == {"before": "scribe: burn_in\n", "after": "scribe: enforce\n"}
    assert fake.contents() == before and fake.ran == []
    real = call("promoted")
    assert (real["changed"], real["missing"], real["report"]) == (True, {}, ["scribe: ready, all 8 conditions hold"])
    after = fake.contents()
    for again in (call("promoted"), call("promoted", check=True)):
        assert (again["changed"], again["agents"], again["conditions"]) == (False, [], {})
    assert fake.contents() == after


def test_the_record_says_why_it_was_safe(call, fake):
    call("promoted")
    entry = fake.read(RECORD)["scribe"]
    assert entry["by"] == "olga"
    assert entry["window"]["until"] - entry["window"]["since"] > 14 * 86400
    assert entry["policy"] == {name: "text-" + name for name in fake.host.record["profiles"]}
    assert [one["met"] for one in entry["conditions"]] == [True] * 8
    assert entry["acts_refused"] == 3
    assert [(run["argv"], run["exit"], run["acts"]) for run in entry["replay"]] == [
        (["git", "--version"], 0, []), (["true"], 0, [])]
    assert {run["said"] for run in entry["replay"]} == {""}, "what the agent prints is not for the record"
    assert stat.S_IMODE((fake.root / RECORD).stat().st_mode) == 0o640
    assert [(line["act"], line["agent"], line["by"], line["entry"]) for line in fake.history()] == [
        ("promoted", "scribe", "olga", entry)]


def test_the_replay_runs_as_cordonctl_run_does(call, fake):
    call("promoted", replay_timeout=7)
    assert [argv[argv.index("timeout"):] for argv in fake.ran] == [
        ["timeout", "--signal=INT", "--kill-after=60", "7", "/usr/lib/cordon/cordonctl", "run", "scribe", "--", *words]
        for words in (["git", "--version"], ["true"])]


def test_a_replay_that_fails_keeps_the_agent_in_burn_in_and_says_what_it_said(call, fake):
    fake.exit = 3
    result = call("promoted")
    assert result["failed"] and "git --version: exit code 3: said on [2Jstderr" in result["msg"]
    assert not (fake.root / RECORD).exists() and fake.history() == []


def test_an_act_of_the_replay_that_enforce_would_refuse_is_found_and_whose_it_was(call, fake, act, monkeypatch):
    plain = fake.run

    def run(argv: list[str], data: Any = None) -> tuple[int, str, str]:
        answer = plain(argv)
        if argv[-1] == "true":
            fake.host.collected["acts"].append(act("allowed", fake.now - 1, 1))
            fake.save()
        return answer

    monkeypatch.setattr(agent_promotion, "_runner", lambda module: run)
    result = call("promoted", partial=True)
    assert [one["id"] for one in result["missing"]["scribe"]] == ["unresolved", "replay"]
    assert "true: enforce would refuse open r /etc/fstab" in "".join(result["report"])
    assert "git" not in next(one for one in result["missing"]["scribe"] if one["id"] == "replay")["observed"]


def test_a_collector_that_does_not_catch_up_with_the_replay_is_no_pass(call, fake, monkeypatch):
    plain = fake.run

    def run(argv: list[str], data: Any = None) -> tuple[int, str, str]:
        answer = plain(argv)
        fake.host.collected["last_exec"] = NOW - 60
        fake.save()
        return answer

    monkeypatch.setattr(agent_promotion, "_runner", lambda module: run)
    result = call("promoted")
    assert result["failed"] and "did not catch up" in result["msg"]


@pytest.mark.parametrize("met", [False, None, "true", 1])
@pytest.mark.parametrize("name", _burn_in.IDS)
def test_one_condition_that_is_not_true_is_enough_to_stay(call, fake, monkeypatch, name, met):
    judged = [{"id": each, "title": each, "met": met if each == name else True, "observed": "", "remedy": ""}
              for each in _burn_in.IDS]
    monkeypatch.setattr(agent_promotion._burn_in, "conditions", lambda *_arguments: judged)
    assert call("promoted")["failed"]
    assert call("promoted", partial=True)["promoted"] == []
    assert not (fake.root / RECORD).exists() and fake.history() == []


def test_nothing_is_replayed_while_something_else_is_missing(call, fake):
    fake.host.collected["lost"] = [{"at": NOW - 86400, "what": "the disk was full"}]
    fake.save()
    result = call("promoted")
    assert result["failed"] and "the disk was full" in result["msg"] and "nobody was promoted" in result["msg"]
    assert fake.ran == []


@pytest.mark.parametrize("check", [True, False])
def test_with_partial_it_returns_what_is_missing(call, fake, check):
    fake.host.facts["agents"]["scribe"]["misplaced"] = ["pid 9 (sh): unconfined (None)"]
    result = call("promoted", partial=True, check=check)
    assert (result["changed"], result["agents"]) == (False, [])
    assert [one["id"] for one in result["missing"]["scribe"]] == ["confined"] + ([] if check else ["replay"])
    assert "not ready" in result["report"][0]


def test_an_agent_that_the_manifest_has_in_enforce_is_left_alone(call, fake):
    assert call("promoted", agents=["scout"])["changed"] is False
    result = call("demoted", agents=["scout"], reason="x")
    assert result["failed"] and "mode: burn_in" in result["msg"]


def test_an_agent_that_is_not_in_the_manifest_is_an_error(call):
    assert "has no agent nobody; it has: scout, scribe" in call("promoted", agents=["nobody"])["msg"]


def test_four_ways_to_demote(call, fake):
    call("promoted")
    before = fake.contents()
    assert call("demoted", check=True, reason="why")["diff"] == {"before": "scribe: enforce\n", "after": "scribe: burn_in\n"}
    assert fake.contents() == before
    assert call("demoted", reason="why")["agents"] == ["scribe"]
    after = fake.contents()
    for again in (call("demoted", reason="why"), call("demoted", check=True, reason="why")):
        assert again["changed"] is False
    assert fake.contents() == after


def test_a_demotion_is_recorded_and_told(call, fake):
    call("promoted")
    call("demoted", reason=" the compiler changed ")
    assert fake.read(RECORD) == {}
    last = fake.history()[-1]
    assert (last["act"], last["reason"], last["by"]) == ("demoted", "the compiler changed", "olga")
    (path,) = (fake.root / "var/lib/cordon/spool").iterdir()
    assert path.suffix == ".json" and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    alert = json.loads(path.read_text())
    assert (alert["alert"], alert["agent"], alert["severity"]) == ("demoted", "scribe", "warning")
    assert "the compiler changed" in alert["summary"] and set(alert) == {"alert", "severity", "agent", "summary", "time"}


@pytest.mark.parametrize("reason", ["", "  \n", None])
def test_a_demotion_without_a_reason_is_refused(call, fake, reason):
    call("promoted")
    before = fake.contents()
    assert call("demoted", reason=reason)["failed"]
    assert fake.contents() == before


def test_agents_that_left_the_manifest_are_forgotten(call, fake):
    call("promoted")
    assert call("pruned")["changed"] is False
    assert call("pruned", agents=["scout"], check=True)["agents"] == ["scribe"]
    assert call("pruned", agents=["scout"])["agents"] == ["scribe"]
    assert fake.read(RECORD) == {} and fake.history()[-1]["act"] == "forgotten"
    assert call("pruned", agents=["scout"])["changed"] is False


@pytest.mark.parametrize("text", ["", "{", "[]", '{"scribe": true}'])
def test_a_damaged_record_is_an_error_not_an_empty_one(call, fake, text):
    (fake.root / RECORD).write_text(text)
    for state in ("promoted", "demoted", "pruned"):
        assert call(state, reason="x")["failed"], state
    assert (fake.root / RECORD).read_text() == text


@pytest.mark.parametrize("path", [RECORD, HISTORY])
def test_a_planted_link_is_not_followed(call, fake, tmp_path, path):
    target = tmp_path / "target"
    target.write_text("{}")
    (fake.root / path).symlink_to(target)
    call("promoted")
    assert target.read_text() == "{}"


def test_a_host_that_was_never_provisioned_says_so(call, fake):
    for path in sorted(fake.root.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    assert "run the playbook cordon.agent_host.site" in call("promoted")["msg"]
