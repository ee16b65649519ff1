# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""cordonctl denials: each thing that an agent was refused, in words, and what would allow it.

From the event log: what AppArmor, the packet filter, the proxy, the resolver, and the permissions and read-only mounts
of files refused. Acts that are alike are one entry.
"""

from __future__ import annotations

import json
import time
from datetime import datetime, timezone
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple

from . import events, explain, host, words
from ._apparmor_suggest import suggest
from ._apparmor_suggest_text import manifest_diff

TOOLS = "/usr/lib/cordon/tools.json"
STATE = "/run/cordon/events.json"
FRESH = 30  # seconds; cordon-events reports every five

# Errors of the kernel that are a refusal, and who it was.
REFUSERS = {
    "EACCES": "owner and mode of the file; AppArmor was not asked",
    "EPERM": "the kernel: what it asks for is root's, or the unit's system call filter has it",
    "EROFS": "the unit's mounts: everything but the workspace is read-only there",
    "nftables": "the packet filter",
    "metadata": "the packet filter, for every agent",
    "flood": "the packet filter: what it may reach, it may not reach with so many connections",
    "proxy": "the proxy, which connects to the https names of the manifest only",
    "resolver": "the resolver, which answers for the agent's own names only",
    "filtered": "the resolver: the name leads to addresses that are private or a metadata service's",
}
NETWORK = ("connection", "api_call", "dns")
WRITING = (
    "mkdir", "mknod", "rmdir", "unlink", "rename", "rename_src", "rename_dest", "link", "symlink", "chmod", "fchmod", "chown",
    "fchown", "truncate", "setxattr",
)  # fmt: skip
ALIKE = ("class", "profile", "path", "access", "family", "sock_type", "detail", "program", "address", "name", "port",
         "request")
EMPTY: Dict[str, Any] = dict.fromkeys(("class", "profile", "layer", "access", "family", "sock_type", "protocol", "detail"))


def tools() -> Dict[str, Any]:
    """The catalogue as the role agent left it."""
    found: Dict[str, Any] = host.load(TOOLS)
    return found


def report(agent: Mapping[str, Any], since: str, log: str = events.LOG,
           agents: Optional[List[Dict[str, Any]]] = None) -> List[Dict[str, Any]]:
    """Denials of an agent since an ISO 8601 time, alike ones together, the newest last. agents: all of this host."""
    catalogue, listed = tools(), agents or [dict(agent)]
    groups: Dict[Tuple[object, ...], Dict[str, Any]] = {}
    seen = events.read(since, agent["name"], log=log)
    led = names_behind(seen)
    for event in seen:
        if event.get("outcome") != "denied":
            continue
        act, reason = as_act(event, led), str(event.get("reason"))
        key = (reason, *(act.get(name) for name in ALIKE))
        at = str(event.get("time"))
        group = groups.setdefault(key, {"count": 0, "first": at, "last": at, "reason": reason, "act": act})
        group["count"] += int(event.get("suppressed", 1))
        group["last"] = max(group["last"], at)
    found = sorted(groups.values(), key=lambda group: group["last"])
    return [_on_network(group, agent, listed) if group["act"].get("address") or group["act"].get("name")
            else _explained(group, agent, catalogue) for group in found]


def names_behind(seen: Iterable[Mapping[str, Any]]) -> Dict[str, str]:
    """Names by the addresses that the resolver answered the agent with; of several the last."""
    return {address: event["name"] for event in seen
            if event.get("kind") == "dns" and event.get("outcome") == "allowed" for address in event.get("addresses") or []}


def as_act(event: Mapping[str, Any], led: Optional[Mapping[str, str]] = None) -> Dict[str, Any]:
    """An event of the log in the shape of a collected act, as far as it tells. led: names_behind()."""
    said = {**EMPTY, **(event.get("apparmor") or {})}
    operation = str(event.get("operation") or "?")
    act = {**said, "verdict": "denied", "operation": operation.partition(" ")[0], "path": event.get("path"),
           "program": event.get("program"), "count": int(event.get("suppressed", 1))}
    if event.get("kind") in NETWORK and event.get("name"):
        act.update({"class": "network", "name": event["name"], "port": event.get("port"), "detail": event.get("refusal"),
                    "operation": "resolve" if event["kind"] == "dns" else "connect", "request": _request(event),
                    "protocol": "tcp" if event["kind"] == "dns" else "https"})
    elif event.get("address"):
        family = "inet6" if ":" in str(event["address"]) else "inet"
        act.update({"class": "network", "address": event["address"], "port": event.get("port"),
                    "name": (led or {}).get(event["address"]),
                    "protocol": event.get("protocol") or "tcp", "family": family, "sock_type": act["sock_type"] or "stream"})
    elif not act["class"]:
        act.update(_guessed(event, act["operation"]))
    return act


def _request(event: Mapping[str, Any]) -> Optional[str]:
    """What was asked of an inspected host, in the words of the manifest; the log has no query."""
    return f"{event.get('method')} {event.get('url_path') or '/'}" if event.get("refusal") == "request" else None


def _guessed(event: Mapping[str, Any], operation: str) -> Dict[str, Any]:
    """Class and access of an act that AppArmor said nothing of."""
    if event.get("kind") in NETWORK:  # a question, or a request, without a name
        return {"class": "other", "operation": str(event.get("kind")), "detail": event.get("refusal")}
    if event.get("kind") == "process" and operation != "exec":
        return {"class": "other", "detail": str(event.get("operation")).partition(" ")[2] or None}
    if operation == "exec":
        return {"class": "exec", "access": "x"}
    wrote = event.get("reason") == "EROFS" or operation in WRITING
    return {"class": "file", "access": "w" if wrote else "r"}


def _explained(group: Dict[str, Any], agent: Mapping[str, Any], catalogue: Dict[str, Any]) -> Dict[str, Any]:
    act, reason = group["act"], group["reason"]
    by = words.layer(act, "denied") if reason == "apparmor" else REFUSERS.get(reason, reason)
    found = suggest([act], agent, catalogue) if act["class"] in ("file", "exec", "network") or reason == "apparmor" else []
    return {**group, "who": words.who(act), "what": words.what(act), "refused_by": by,
            "suggestion": words.without_acts(found[0]) if found else None,
            "remark": "" if found and found[0]["kind"] == "never" else _remark(act, reason, bool(found))}


def _on_network(group: Dict[str, Any], agent: Mapping[str, Any], agents: List[Dict[str, Any]]) -> Dict[str, Any]:
    """A refusal on the network: what cordonctl explain says of it."""
    act, reason = group["act"], group["reason"]
    shown = {**group, "who": words.who(act), "what": words.what(act), "refused_by": REFUSERS.get(reason, reason)}
    if reason == "apparmor":
        shown["refused_by"] = words.layer(act, "denied")
    if not act.get("port") and act["operation"] != "resolve":
        never = f"nothing grants {words.plain(str(act['protocol']), 20)}: an agent has TCP and UDP only"
        return {**shown, "suggestion": _suggestion(agent, "never", never, None), "remark": ""}
    if reason == "flood":
        return {**shown, "suggestion": None, "remark": "have it close what it does not use, or use one connection again"}
    try:
        found = explain.denied({**act, "reason": reason}, agents, agent)
    except ValueError as error:  # an agent may ask for anything
        return {**shown, "suggestion": _suggestion(agent, "never", str(error), None), "remark": ""}
    suggestion = None
    if found["never"] or found["to_allow"]:
        kind = "never" if found["never"] else "egress"
        suggestion = _suggestion(agent, kind, found["because"], found["to_allow"])
    return {**shown, "suggestion": suggestion, "remark": found["remark"]}


def _suggestion(agent: Mapping[str, Any], kind: str, why: str, entry: Optional[Dict[str, Any]]) -> Dict[str, Any]:
    """In the shape of _apparmor_suggest.suggest(), without the acts."""
    manifest = {"egress": [entry]} if entry else {}
    change = manifest_diff(agent, manifest) if entry else ""
    return {"agent": agent["name"], "kind": kind, "change": change, "why": why, "manifest": manifest, "catalogue": {}}


def _remark(act: Mapping[str, Any], reason: str, suggested: bool) -> str:
    """What no change of the manifest can say."""
    if reason == "EACCES":
        return "if the agent is to have it, its user or group needs the permission on the file itself"
    if reason == "EROFS" and not suggested:
        return "write below the workspace, or list the path under workspace.read_write"
    if reason in ("proxy", "resolver"):
        return "it named no host; see what the program sends"
    if reason == "EPERM":
        return "no agent is to do this; a program that needs it is not one for agents"
    if reason == "apparmor" and not suggested:
        return "the manifest allows it by now: it happened before the last change, or a path in it was a link"
    return ""


def text(agent: Mapping[str, Any], since: str, found: List[Dict[str, Any]]) -> str:
    """The report for a terminal."""
    total = sum(group["count"] for group in found)
    kinds = "1 kind" if len(found) == 1 else f"{len(found)} kinds"
    head = f"{agent['name']} ({agent['mode']}): "
    head += f"{words.times(total)} refused, {kinds}, newest last" if found else "nothing refused"
    lines = [f"{head}. Since {since[:16]} UTC.", *_freshness()]
    for number, group in enumerate(found, 1):
        lines += ["", f"{number}. {group['who']} may not {group['what']}", *words.indented(_details(group))]
    if agent["mode"] == "burn_in":
        lines += ["", f"In burn-in most is let pass: 'cordonctl burn-in {agent['name']}' shows what enforce would refuse."]
    return "\n".join(lines)


def _details(group: Mapping[str, Any]) -> List[str]:
    first, last = group["first"][11:19], group["last"][11:19]
    lines = [f"{words.times(group['count'])}, {last if first == last else f'{first} to {last}'} UTC",
             f"refused by: {words.plain(group['refused_by'], words.LONGEST)}"]
    if group["suggestion"]:
        lines += words.change(group["suggestion"])
    return lines + ([group["remark"]] if group["remark"] else [])


def _freshness() -> List[str]:
    """A warning if the log may be behind: no news is good news only while somebody writes it."""
    warning, remedy = "THE LOG MAY BE INCOMPLETE: cordon-events", "systemctl status cordon-events"
    try:
        with open(STATE, encoding="utf-8") as file:
            said = datetime.strptime(json.load(file)["time"][:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
        age = time.time() - said.timestamp()
    except (OSError, ValueError, KeyError):
        return [f"{warning} says nothing of itself: {remedy}"]
    return [f"{warning} last gave a sign of life {age:.0f} s ago: {remedy}"] if age > FRESH else []
