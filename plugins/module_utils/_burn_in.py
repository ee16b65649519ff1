# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. May an agent in burn-in be promoted to enforce? Decisions only; technique.md A5.

conditions() returns one {id, title, met, observed, remedy} for each of IDS. `title` is true when the condition is met,
`observed` has the figures, `remedy` says what to do and is empty when nothing is. What is missing or cannot be read
never counts as met: no evidence is no reason to promote.
"""
from __future__ import annotations

from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence

from . import _apparmor_unenforced
from . import _burn_in_seen as history
from ._burn_in_seen import DAY, Agent, Seen, began, facts_of, moment, recorded, when
from ._facts_monitoring import FRESH_SECONDS

IDS = ("window", "active", "unresolved", "complete", "policy", "kernel", "confined", "replay")
SHOWN = 5  # of a long list, in `observed`

Condition = Dict[str, Any]


def conditions(agent: Agent, seen: Seen, rendered: Optional[Mapping[str, str]],
               replay: Optional[Sequence[Mapping[str, Any]]]) -> List[Condition]:
    """Judge one agent of the resolved manifest.

    rendered: SHA-256 of each of the agent's profiles as the manifest gives them now, in burn-in, by name.
    replay: [{argv, exit, seconds, acts: [text]|None, said}], one for each command; None when it was not run.
    """
    return [
        _window(agent, seen), _active(agent, seen), _unresolved(agent, seen), _complete(agent, seen),
        _policy(agent, seen, rendered), _kernel(agent, seen), _confined(agent, seen), _replay(replay),
    ]


def missing(found: Iterable[Condition]) -> List[Condition]:
    """The conditions that are not met."""
    return [one for one in found if one["met"] is not True]


def lines(name: str, found: Sequence[Condition]) -> List[str]:
    """What one agent lacks, for people; one line when it lacks nothing."""
    lacking = missing(found)
    if not lacking:
        return ["%s: ready, all %d conditions hold" % (name, len(found))]
    head = "%s: not ready, %d of %d conditions do not hold" % (name, len(lacking), len(found))
    return [head] + ["  not true: %s. Observed: %s Remedy: %s" % (one["title"], one["observed"], one["remedy"])
                     for one in lacking]


def commands(agent: Agent, catalogue: Mapping[str, Mapping[str, Any]]) -> List[List[str]]:
    """What to replay: the manifest's own commands, else the proof of each tool that the agent has."""
    if agent["burn_in"]["replay"]:
        return [list(argv) for argv in agent["burn_in"]["replay"]]
    granted = set(agent["tools"]) | {name for name, tool in catalogue.items() if tool.get("implicit")}
    return [list(catalogue[name]["proof"]) for name in sorted(granted)]


def act(found: Mapping[str, Any]) -> str:
    """One collected act in a few words."""
    parts = (found.get("operation"), found.get("access"), found.get("path"), found.get("family"),
             found.get("sock_type"), found.get("detail"))
    told = " ".join(str(part) for part in parts if part)
    return "%s by %s in %s" % (told, found.get("program"), found.get("profile"))


# --- One function for each condition ---------------------------------------------------------------


def _window(agent: Agent, seen: Seen) -> Condition:
    days, begin = agent["burn_in"]["days"], began(agent, seen)
    title = "The window of %d days has passed" % days
    if begin.at is None:
        return _condition("window", title, False, begin.what + ".", _provision(agent))
    passed = (seen.now - begin.at) / DAY
    observed = "%.1f of %d days since %s, when %s." % (passed, days, when(begin.at), begin.what)
    return _condition("window", title, passed >= days, observed, "wait until %s." % when(begin.at + days * DAY))


def _active(agent: Agent, seen: Seen) -> Condition:
    wanted, begin = agent["burn_in"]["active_days"], began(agent, seen)
    title = "The agent was active on %d days of the window, and lately" % wanted
    last = moment((seen.collected or {}).get("last_exec"))
    listed = (seen.collected or {}).get("days")
    if begin.at is None or not isinstance(listed, list):
        return _condition("active", title, False, "no record says when it was active.", _provision(agent))
    days = _active_days(listed, begin.at, last)
    recent = last is not None and last >= seen.now - max(DAY, agent["burn_in"]["days"] * DAY / 2)
    observed = "active on %d days of the window, last %s." % (len(days), when(last) if last is not None else "never")
    return _condition("active", title, len(days) >= wanted and recent, observed,
                      "let it do its ordinary work; what it does not do now enforce may refuse later.")


def _active_days(listed: Sequence[Any], begin: float, last: Optional[float]) -> List[str]:
    """Days after the window's first; of the first only when the last exec was on it, after the beginning."""
    first = history.day(begin)
    found = {one for one in listed if isinstance(one, str) and one > first}
    if last is not None and last >= begin:
        found.add(history.day(last))
    return sorted(found)


def _unresolved(agent: Agent, seen: Seen) -> Condition:
    title = "Nothing that enforce would refuse happened in the window"
    acts = history.acts(seen.collected, "allowed", began(agent, seen).at)
    if acts is None:
        return _condition("unresolved", title, False, "no record says what happened.", _provision(agent))
    observed = "%d acts%s." % (len(acts), ": " + _some([act(one) for one in acts]) if acts else "")
    return _condition("unresolved", title, not acts, observed,
                      "cordonctl burn-in %s suggests a change of the manifest for each; apply it, or list the path "
                      "under `denied`. The window then begins anew." % agent["name"])


def _complete(agent: Agent, seen: Seen) -> Condition:
    title = "Nothing was lost, and the record is up to date"
    wrong = _incomplete(agent, seen)
    observed = "; ".join(wrong) + "." if wrong else "no loss in %d days, all collected until %s." % (
        agent["burn_in"]["days"], when(seen.now))
    return _condition("complete", title, not wrong, observed,
                      "systemctl status cordon-events auditd; mend what they say. After a loss the window begins anew.")


def _incomplete(agent: Agent, seen: Seen) -> List[str]:
    if seen.collected is None:
        return ["no events of the agent have been collected"]
    losses = history.losses(seen.collected)
    if losses is None:
        return ["the list of losses cannot be read"]
    horizon = seen.now - agent["burn_in"]["days"] * DAY
    found = ["%s: %s" % (when(one.at) if one.at is not None else "at a time unknown", one.what)
             for one in losses if one.at is None or one.at > horizon]
    return found + _behind(seen)


def _behind(seen: Seen) -> List[str]:
    """What keeps the collected events from being all there are, up to now."""
    if seen.writer is None:
        return ["cordon-events says nothing of itself"]
    until = history.stamp(seen.writer.get("collected_until"))
    found = []
    if until is None or seen.now - until > FRESH_SECONDS:
        found.append("cordon-events has collected what happened until %s, and nothing since"
                     % (when(until) if until is not None else "nobody knows when"))
    for key, what in (("audit_enabled", "the kernel does not audit"), ("audit_daemon", "no audit daemon runs")):
        if seen.writer.get(key) is not True:
            found.append(what)
    lost, known = (seen.facts.get("audit") or {}).get("lost"), (seen.collected or {}).get("audit_lost")
    if not isinstance(lost, int) or not isinstance(known, int):
        found.append("the kernel's count of lost audit records cannot be read")
    elif lost > known:
        found.append("the kernel lost %d audit records just now" % (lost - known))
    return found


def _policy(agent: Agent, seen: Seen, rendered: Optional[Mapping[str, str]]) -> Condition:
    wrong = _differences(agent, seen, rendered)
    observed = _some(wrong) + "." if wrong else "%d profiles: manifest, record and kernel agree." % len(
        recorded(agent, seen))
    return _condition("policy", "The policy is the one that was burnt in", not wrong, observed,
                      "run the playbook cordon.agent_host.site. A profile that changes is burnt in anew.")


def _differences(agent: Agent, seen: Seen, rendered: Optional[Mapping[str, str]]) -> List[str]:
    """Where manifest, record and kernel do not agree."""
    kernel = (seen.facts.get("apparmor") or {}).get("profiles")
    known = recorded(agent, seen)
    if not isinstance(kernel, Mapping):
        return ["the kernel's profiles cannot be read"]
    if rendered is None:
        return ["the profiles that the manifest gives now are not known"]
    loaded, wanted = history.own(agent, kernel), history.own(agent, rendered)
    found = [] if known and wanted else ["the agent has no profiles"]
    for name in sorted(set(loaded) | set(known) | set(wanted)):
        found += ["%s: %s" % (name, why) for why in [_differs(name, agent, loaded, known, wanted)] if why]
    return found + _unapplied(agent, seen.applied)


def _differs(name: str, agent: Agent, loaded: Mapping[str, Any], known: Mapping[str, Any],
             wanted: Mapping[str, str]) -> str:
    for where, what in ((wanted, "the manifest does not give it"), (known, "it is not recorded as loaded"),
                        (loaded, "the kernel does not have it")):
        if not where.get(name):
            return what
    mode = "enforce" if name == history.cage(agent) else "complain"
    if known[name].get("source_sha256") != wanted[name]:
        return "its text is not the one that was loaded"
    if not loaded[name].get("mode") == known[name].get("mode") == mode:
        return "the kernel has it in %s, burn-in has it in %s" % (loaded[name].get("mode"), mode)
    # A kernel that does not export its hashes leaves mode and text to compare.
    return "" if loaded[name].get("hash") == known[name].get("hash") else "the kernel has another policy under its name"


def _unapplied(agent: Agent, applied: Optional[Mapping[str, Any]]) -> List[str]:
    if applied is None:
        return ["the host does not know this agent"]
    keys = sorted(key for key in set(agent) | set(applied) if key != "mode" and agent.get(key) != applied.get(key))
    return ["the manifest changed and was not applied: %s" % ", ".join(keys)] if keys else []


def _kernel(agent: Agent, seen: Seen) -> Condition:
    title = "The kernel enforces all of it, or another control does"
    apparmor = seen.facts.get("apparmor") or {}
    features, gaps = apparmor.get("features"), apparmor.get("unenforced")
    if (seen.facts.get("support") or {}).get("apparmor") is not True or not isinstance(features, list):
        return _condition("kernel", title, False, "this kernel has no AppArmor, or does not say what it can.",
                          "boot a kernel with AppArmor (apparmor=1 security=apparmor).")
    if not isinstance(gaps, list):
        return _condition("kernel", title, False, "what it does not enforce was not recorded.", _provision(agent))
    wrong = ["the kernel lacks " + what for what in _apparmor_unenforced.refusals(features)]
    wrong += _uncompensated(facts_of(agent, seen)) if gaps else []
    observed = wrong or ["by another control: " + ", ".join(gap["class"] for gap in gaps) if gaps else "every class"]
    return _condition("kernel", title, not wrong, "; ".join(observed) + ".",
                      "cordonctl status names the control that fails, with its remedy.")


def _uncompensated(agent: Mapping[str, Any]) -> List[str]:
    """What is wrong with the controls that stand in for AppArmor: the unit's sandbox, seen on processes, and nftables."""
    weakened, bound = agent.get("weakened"), (agent.get("firewall") or {}).get("bound")
    found = []
    if not isinstance(weakened, list):
        found.append("whether the unit's sandbox holds cannot be told")
    elif weakened:
        found.append("the unit's sandbox does not hold " + _some(weakened))
    if bound is not True:
        found.append("the packet filter does not match the agent's user")
    return found


def _confined(agent: Agent, seen: Seen) -> Condition:
    facts = facts_of(agent, seen)
    processes, misplaced = facts.get("processes"), facts.get("misplaced")
    title = "Every process of the agent carries its label"
    if not isinstance(processes, list) or not isinstance(misplaced, list):
        return _condition("confined", title, False, "its processes cannot be read.", _provision(agent))
    if not processes:
        return _condition("confined", title, False, "nothing of the agent runs.",
                          "systemctl start cordon-agent@%s; journalctl -u cordon-agent@%s says why if it does not start."
                          % (agent["name"], agent["name"]))
    observed = _some(misplaced) if misplaced else "%d processes" % len(processes)
    return _condition("confined", title, not misplaced, observed + ".",
                      "systemctl status PID tells where each came from; systemctl restart cordon-agent@%s."
                      % agent["name"])


def _replay(runs: Optional[Sequence[Mapping[str, Any]]]) -> Condition:
    title = "The workload replay passes"
    if runs is None:
        return _condition("replay", title, False, "not run.",
                          "promote.yml runs it once the other conditions hold.")
    if not runs:
        return _condition("replay", title, False, "there is nothing to replay.", "write commands in burn_in.replay.")
    failed = [_failure(run) for run in runs]
    wrong = [why for why in failed if why]
    observed = _some(wrong) if wrong else "%d commands in %.0f s" % (len(runs), sum(run["seconds"] for run in runs))
    return _condition("replay", title, not wrong, observed + ".",
                      "run it by hand: cordonctl run NAME -- COMMAND; then mend the command or the manifest.")


def _failure(run: Mapping[str, Any]) -> str:
    told = " ".join(str(word) for word in run["argv"])
    if run["exit"] != 0:
        return "%s: exit code %s: %s" % (told, run["exit"], run.get("said") or "it said nothing")
    if run["acts"] is None:
        return "%s: cordon-events did not catch up with it" % told
    return "%s: enforce would refuse %s" % (told, _some(run["acts"])) if run["acts"] else ""


# --- What they share --------------------------------------------------------------------------------


def _condition(name: str, title: str, met: bool, observed: str, remedy: str) -> Condition:
    return {"id": name, "title": title, "met": met, "observed": observed, "remedy": "" if met else remedy}


def _provision(agent: Agent) -> str:
    return ("run the playbook cordon.agent_host.site; then cordonctl status %s and systemctl status cordon-events."
            % agent["name"])


def _some(texts: Sequence[Any]) -> str:
    more = len(texts) - SHOWN
    return "; ".join(str(text) for text in texts[:SHOWN]) + ("; and %d more" % more if more > 0 else "")
