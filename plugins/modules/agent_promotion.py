#!/usr/bin/python
# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: agent_promotion
short_description: Promotes agents from burn-in to enforce when the host shows that it is safe
version_added: 0.1.0
description:
  - With O(state=promoted), judges the burn-in of each agent by what the host has recorded and what its kernel says,
    replays its workload, and records the promotion of each agent of which every condition holds.
    Otherwise it says what is missing, with figures and what to do.
  - With O(state=demoted), takes the promotion back. The reason is recorded, and an alert is raised.
  - With O(state=pruned), forgets agents that are not listed.
  - It only decides and records. The roles P(cordon.agent_host.agent#role) and P(cordon.agent_host.apparmor#role) read
    the record and bring the agent into its mode. The playbooks C(promote) and C(demote) do all of it.
  - An agent that O(manifest) has in C(mode=enforce) is neither promoted nor demoted.
extends_documentation_fragment:
  - cordon.agent_host.attributes
attributes:
  check_mode:
    details: In check mode the workload is not replayed, so an agent of which all else holds would be promoted.
author: the cordon.agent_host authors (@cordon)
options:
  agents:
    description: Names of the agents. With O(state=pruned), of those whose promotion is kept.
    type: list
    elements: str
    required: true
  state:
    description: What to bring about.
    type: str
    choices: [promoted, demoted, pruned]
    required: true
  manifest:
    description: The manifest, as P(cordon.agent_host.agents#filter) resolves it without promotions.
    type: list
    elements: dict
    default: []
  profiles:
    description:
      - The SHA-256 of the text of each profile in burn-in, by name, as the manifest gives it now.
      - A profile that was loaded from another text was not burnt in.
    type: dict
    default: {}
  replay:
    description: The commands to replay, by agent. Each is a list of words that no shell reads.
    type: dict
    default: {}
  replay_timeout:
    description: Seconds that one command may take.
    type: int
    default: 600
  partial:
    description: Whether to promote those that are ready and return what the others lack, rather than promote nobody and fail.
    type: bool
    default: false
  by:
    description: Who decides. Recorded. Left out or empty, it is the user who called C(sudo), or the module's own.
    type: str
    default: ""
  reason:
    description: Why an agent is demoted. Recorded, and part of the alert.
    type: str
"""

EXAMPLES = r"""
- name: Promote who is ready
  cordon.agent_host.agent_promotion:
    agents: [scribe]
    state: promoted
    manifest: "{{ manifest }}"
    profiles: "{{ dict(rendered | map(attribute='name') | zip(rendered | map(attribute='text') | map('hash', 'sha256'))) }}"
    replay: "{{ manifest | cordon.agent_host.agent_replay }}"
    partial: true
  vars:
    manifest: "{{ agent_host_agents | cordon.agent_host.agents }}"
    rendered: "{{ manifest | cordon.agent_host.apparmor_profiles }}"

- name: Put an agent back into burn-in
  cordon.agent_host.agent_promotion:
    agents: [scribe]
    state: demoted
    manifest: "{{ agent_host_agents | cordon.agent_host.agents }}"
    reason: the new compiler needs a directory that nobody thought of
"""

RETURN = r"""
agents:
  description: The agents that were, or in check mode would be, promoted, demoted or forgotten.
  returned: success
  type: list
  elements: str
  sample: [scribe]
promoted:
  description: Those of O(agents) that are promoted now, by this run or before.
  returned: success
  type: list
  elements: str
  sample: [scribe]
conditions:
  description: What was judged of each agent, met or not. An agent that was promoted before is not judged.
  returned: with O(state=promoted)
  type: dict
  sample: {scribe: [{id: window, title: The window of 14 days has passed, met: false,
    observed: "9.3 of 14 days since 2026-11-14 00:00 UTC, when cordon.scribe was loaded.",
    remedy: "wait until 2026-11-28 00:00 UTC."}]}
missing:
  description: What each agent lacks. Agents that lack nothing are left out.
  returned: with O(state=promoted)
  type: dict
  sample: {}
report:
  description: The same for people, a line each.
  returned: with O(state=promoted)
  type: list
  elements: str
  sample: ["scribe: ready, all 8 conditions hold"]
"""

import fcntl
import json
import os
import pwd
import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.cordon.agent_host.plugins.module_utils import (
    _apparmor_info,
    _burn_in,
    _burn_in_host,
    _burn_in_seen,
    _facts,
    _files,
    _promotions,
)
from ansible_collections.cordon.agent_host.plugins.module_utils._facts_source import Source

ROOT = ""  # not "" in tests only
CORDONCTL = "/usr/lib/cordon/cordonctl"
# The module's own standard input may be a terminal, which a session must not get.
WITHOUT_INPUT = ["sh", "-c", 'exec "$@" < /dev/null', "sh"]
RECORD_MODE = 0o640
SPOOL_MODE = 0o700
PATIENCE = 120.0  # seconds that cordon-events gets to read on
SETTLED = 2.0  # seconds until auditd has written what the kernel recorded
COARSE = 0.1  # seconds: the kernel stamps records by a coarse clock

Promotions = Dict[str, Any]


class Failed(Exception):
    """What was asked for cannot be done; the message says why and what to do."""


# --- Judging ----------------------------------------------------------------------------------------


class Gate:
    """Judges agents of one host, by reading it and by replaying their work."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._run = _runner(module)
        self._source = Source(self._run, ROOT)
        self._profiles: Mapping[str, str] = module.params["profiles"]
        self.seen: Dict[str, _burn_in.Seen] = {}
        self.replayed: Dict[str, List[Dict[str, Any]]] = {}

    def judge(self, agents: Sequence[Mapping[str, Any]]) -> Dict[str, List[_burn_in.Condition]]:
        """The conditions of each agent. The workload is replayed only where all else holds.

        Otherwise a gate that asks every night would itself be the activity that it asks for.
        """
        if not agents:
            return {}
        found = self._conditions(agents)
        due = [agent for agent in agents if [one["id"] for one in _burn_in.missing(found[agent["name"]])] == ["replay"]]
        if due and not self._module.check_mode:
            self._replay([agent["name"] for agent in due])
            found.update(self._conditions(due))
        return found

    def _conditions(self, agents: Sequence[Mapping[str, Any]]) -> Dict[str, List[_burn_in.Condition]]:
        self._wait(time.time())
        facts = _facts.collect(self._run, agents, root=ROOT)
        for agent in agents:
            self.seen[agent["name"]] = _burn_in_host.look(self._source, agent["name"], facts, time.time())
        return {agent["name"]: _burn_in.conditions(agent, self.seen[agent["name"]], self._profiles,
                                                   self.replayed.get(agent["name"])) for agent in agents}

    def _replay(self, names: Sequence[str]) -> None:
        """Run the work of these agents, then ask what it did, once cordon-events has seen it."""
        replay = self._module.params["replay"]
        runs = {name: [self._one(name, [str(word) for word in argv]) for argv in replay.get(name) or []] for name in names}
        caught_up = self._wait(time.time() + SETTLED)
        for name in names:
            self._attribute(name, runs[name], caught_up)
            self.replayed[name] = [{key: run[key] for key in ("argv", "exit", "seconds", "acts", "said")}
                                   for run in runs[name]]

    def _attribute(self, name: str, runs: Sequence[Dict[str, Any]], caught_up: bool) -> None:
        """Give each command the acts that happened while it ran; None where they are not known yet."""
        if not runs:
            return
        collected = _burn_in_host.collected(self._source, name)
        acts = _burn_in_seen.acts(collected, "allowed", runs[0]["at"])
        # The replay itself started programs: a record that does not know of them is behind.
        last = _burn_in_seen.moment((collected or {}).get("last_exec"))
        known = caught_up and acts is not None and last is not None and last >= runs[-1]["at"]
        for run in runs:
            run["acts"] = [] if known else None
        for act in acts or [] if known else []:
            _during(runs, act)["acts"].append(_burn_in.act(act))

    def _one(self, name: str, argv: List[str]) -> Dict[str, Any]:
        """Run one command in a session, as `cordonctl run` does. INT: cordonctl then ends the session."""
        begun = time.time()
        limit = str(self._module.params["replay_timeout"])
        code, out, err = self._run(
            WITHOUT_INPUT + ["timeout", "--signal=INT", "--kill-after=60", limit, CORDONCTL, "run", name, "--"] + argv)
        # Only of what failed, and only as text: the record and the evidence are no place for what the agent prints.
        said = (err.strip() or out.strip()).splitlines() if code else []
        return {"argv": argv, "exit": code, "at": begun - COARSE, "seconds": round(time.time() - begun, 1),
                "said": "".join(one for one in said[-1][:300] if one.isprintable()) if said else ""}

    def _wait(self, at: float) -> bool:
        """Give cordon-events the time to read what happened until then; whether it did."""
        end = time.monotonic() + PATIENCE
        while not _burn_in_host.caught_up(self._source, at):
            if time.monotonic() > end:
                return False
            time.sleep(1)
        return True


def _during(runs: Sequence[Dict[str, Any]], act: Mapping[str, Any]) -> Dict[str, Any]:
    """The command that ran when an act was last seen."""
    last = _burn_in_seen.moment(act.get("last")) or 0.0
    return next((run for run in reversed(runs) if run["at"] <= last), runs[0])


def _runner(module: AnsibleModule) -> Callable[..., Tuple[int, str, str]]:
    def run(argv: List[str], data: Optional[str] = None) -> Tuple[int, str, str]:
        rc, out, err = module.run_command(argv, data=data)
        return rc, out, err

    return run


# --- Deciding ---------------------------------------------------------------------------------------


def _named(module: AnsibleModule) -> List[Mapping[str, Any]]:
    """The agents asked for, from the manifest."""
    manifest = {agent["name"]: agent for agent in module.params["manifest"]}
    unknown = [name for name in module.params["agents"] if name not in manifest]
    if unknown:
        raise Failed("the manifest has no agent %s; it has: %s" % (", ".join(unknown), ", ".join(sorted(manifest)) or "none"))
    return [manifest[name] for name in dict.fromkeys(module.params["agents"])]


def _promote(module: AnsibleModule, before: Promotions, by: str) -> Dict[str, Any]:
    agents = [agent for agent in _named(module) if agent["mode"] == "burn_in" and agent["name"] not in before]
    gate = Gate(module)
    found = gate.judge(agents)
    lacking = {name: _lacking(module, found[name]) for name in found}
    missing = {name: conditions for name, conditions in lacking.items() if conditions}
    report = [line for name in found for line in _burn_in.lines(name, found[name])]
    if missing and not module.params["partial"]:
        raise Failed("\n".join(["nobody was promoted:"] + report))
    ready = [agent for agent in agents if agent["name"] not in missing]
    entries = {agent["name"]: _promotions.entry(agent, gate.seen[agent["name"]], found[agent["name"]],
                                                gate.replayed.get(agent["name"], []), by) for agent in ready}
    history = [_promotions.event("promoted", name, by, entry["promoted_at"], of=entry) for name, entry in entries.items()]
    if ready and not module.check_mode:
        _record(history, {**before, **entries})
    return dict(_result(module, before, {**before, **entries}), conditions=found, missing=missing, report=report)


def _lacking(module: AnsibleModule, found: List[_burn_in.Condition]) -> List[_burn_in.Condition]:
    """What is missing; in check mode without the replay, which only a real run has."""
    return [one for one in _burn_in.missing(found) if not (module.check_mode and one["id"] == "replay")]


def _demote(module: AnsibleModule, before: Promotions, by: str) -> Dict[str, Any]:
    reason = (module.params["reason"] or "").strip()
    if not reason:
        raise Failed("a demotion needs a reason: write why the agent has to leave enforce, for the record")
    ordered = [agent["name"] for agent in _named(module) if agent["mode"] == "enforce"]
    if ordered:
        raise Failed("the manifest itself has %s in enforce: write mode: burn_in there, and run the playbook"
                     " cordon.agent_host.site" % ", ".join(ordered))
    names, now = [name for name in module.params["agents"] if name in before], time.time()
    after = {name: entry for name, entry in before.items() if name not in names}
    if names and not module.check_mode:
        # What loosens is recorded and told before it is done.
        for name in names:
            _tell(_promotions.alert(name, by, reason, now))
        _record([_promotions.event("demoted", name, by, now, reason, before[name]) for name in names], after)
    return _result(module, before, after)


def _prune(module: AnsibleModule, before: Promotions, by: str) -> Dict[str, Any]:
    after = {name: entry for name, entry in before.items() if name in module.params["agents"]}
    gone = [name for name in before if name not in after]
    if gone and not module.check_mode:
        why = "the manifest no longer lists it"
        _record([_promotions.event("forgotten", name, by, time.time(), why, before[name]) for name in gone], after)
    return _result(module, before, after)


def _result(module: AnsibleModule, before: Promotions, after: Promotions) -> Dict[str, Any]:
    changed = sorted(set(before) ^ set(after))
    shown = ["".join("%s: %s\n" % (name, "enforce" if name in side else "burn_in") for name in changed)
             for side in (before, after)]
    return {"changed": bool(changed), "agents": changed, "diff": {"before": shown[0], "after": shown[1]},
            "promoted": [name for name in module.params["agents"] if name in after]}


# --- Recording --------------------------------------------------------------------------------------


def _record(history: Sequence[Mapping[str, Any]], after: Promotions) -> None:
    """History first: an act that is in force and not in the history would be worse than the reverse."""
    _append(ROOT + _promotions.HISTORY, "".join(json.dumps(line, sort_keys=True) + "\n" for line in history))
    _write(ROOT + _apparmor_info.PROMOTIONS, json.dumps(after, indent=2, sort_keys=True) + "\n")


def _append(path: str, text: str) -> None:
    parent = _files.open_parent(path)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(os.path.basename(path), flags, RECORD_MODE, dir_fd=parent), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    finally:
        os.close(parent)


def _write(path: str, text: str) -> None:
    parent = _files.open_parent(path)
    try:
        wanted = _files.Entry("file", RECORD_MODE, os.geteuid(), os.getegid(), text)
        _files.write_file(parent, os.path.basename(path), wanted)
    finally:
        os.close(parent)


def _tell(alert: Mapping[str, Any]) -> None:
    """Leave an alert for cordon-events, which sends it even if it comes back only later."""
    parent = _files.open_parent(ROOT + _promotions.SPOOL)
    try:
        wanted = _files.Entry("directory", SPOOL_MODE, os.geteuid(), os.getegid())
        _files.make_directory(parent, os.path.basename(_promotions.SPOOL), wanted)
    finally:
        os.close(parent)
    name = "%020d-%s-%s.json" % (time.time_ns(), alert["alert"], alert["agent"])
    _write("%s%s/%s" % (ROOT, _promotions.SPOOL, name), json.dumps(alert) + "\n")


@contextmanager
def _alone() -> Iterator[None]:
    """Hold the directory of the record: a second run at the same time waits for this one."""
    parent = _files.open_parent(ROOT + _apparmor_info.PROMOTIONS)
    try:
        fcntl.flock(parent, fcntl.LOCK_EX)
        yield
    finally:
        os.close(parent)


def _who(module: AnsibleModule) -> str:
    return module.params["by"].strip() or os.environ.get("SUDO_USER") or pwd.getpwuid(os.geteuid()).pw_name


ACTS = {"promoted": _promote, "demoted": _demote, "pruned": _prune}


def run_module(module: AnsibleModule) -> Dict[str, Any]:
    """Read who is promoted, decide, and record it unless this is a check."""
    with _alone():
        before = _apparmor_info.promotions(Source(_runner(module), ROOT))["promotions"]
        return ACTS[module.params["state"]](module, before, _who(module))


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleModule(
        argument_spec={
            "agents": {"type": "list", "elements": "str", "required": True},
            "state": {"type": "str", "choices": ["promoted", "demoted", "pruned"], "required": True},
            "manifest": {"type": "list", "elements": "dict", "default": []},
            "profiles": {"type": "dict", "default": {}},
            "replay": {"type": "dict", "default": {}},
            "replay_timeout": {"type": "int", "default": 600},
            "partial": {"type": "bool", "default": False},
            "by": {"type": "str", "default": ""},
            "reason": {"type": "str"},
        },
        required_if=[("state", "demoted", ["reason"])],
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LANG": "C", "LC_ALL": "C", "LC_MESSAGES": "C", "LC_CTYPE": "C"}
    try:
        module.exit_json(**run_module(module))
    except (Failed, _apparmor_info.Unusable, _files.UnsafePath) as problem:
        module.fail_json(msg="agent_promotion: %s" % problem)
    except FileNotFoundError as problem:
        module.fail_json(msg="agent_promotion: %s is missing: run the playbook cordon.agent_host.site" % problem.filename)
    except OSError as problem:
        module.fail_json(msg="agent_promotion: %s: %s" % (problem.filename or "the host", problem.strerror or problem))
    except KeyError as missing:
        module.fail_json(msg="agent_promotion: manifest: the key %s is missing: pass it through the filter"
                             " cordon.agent_host.agents first" % missing)


if __name__ == "__main__":
    main()
