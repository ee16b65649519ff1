# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""cordonctl denials: each thing that an agent was refused, in words, and what would allow it.

From the event log: what AppArmor, the packet filter, and the permissions and read-only mounts of files refused. Acts
that are alike are one entry.
"""

from __future__ import annotations

import json
import time
from datetime import datetime, timezone
from typing import Any, Dict, List, Mapping, Tuple

from . import events, host, words
from ._apparmor_suggest import suggest

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
}
WRITING = (
    "mkdir", "mknod", "rmdir", "unlink", "rename", "rename_src", "rename_dest", "link", "symlink", "chmod", "fchmod", "chown",
    "fchown", "truncate", "setxattr",
)  # fmt: skip
ALIKE = ("class", "profile", "path", "access", "family", "sock_type", "detail", "program", "address", "port")
EMPTY: Dict[str, Any] = dict.fromkeys(("class", "profile", "layer", "access", "family", "sock_type", "protocol", "detail"))


def tools() -> Dict[str, Any]:
    """The catalogue as the role agent left it."""
    found: Dict[str, Any] = host.load(TOOLS)
    return found


def report(agent: Mapping[str, Any], since: str, log: str = events.LOG) -> List[Dict[str, Any]]:
    """Denials of an agent since an ISO 8601 time, alike ones together, the newest last."""
    catalogue = tools()
    groups: Dict[Tuple[object, ...], Dict[str, Any]] = {}
    for event in events.read(since, agent["name"], denied=True, log=log):
        act, reason = as_act(event), str(event.get("reason"))
        key = (reason, *(act.get(name) for name in ALIKE))
        at = str(event.get("time"))
        group = groups.setdefault(key, {"count": 0, "first": at, "last": at, "reason": reason, "act": act})
        group["count"] += int(event.get("suppressed", 1))
        group["last"] = max(group["last"], at)
    listed = sorted(groups.values(), key=lambda group: group["last"])
    return [_explained(group, agent, catalogue) for group in listed]


def as_act(event: Mapping[str, Any]) -> Dict[str, Any]:
    """An event of the log in the shape of a collected act, as far as it tells."""
    said = {**EMPTY, **(event.get("apparmor") or {})}
    operation = str(event.get("operation") or "?")
    act = {**said, "verdict": "denied", "operation": operation.partition(" ")[0], "path": event.get("path"),
           "program": event.get("program"), "count": int(event.get("suppressed", 1))}
    if event.get("address"):
        family = "inet6" if ":" in str(event["address"]) else "inet"
        act.update({"class": "network", "address": event["address"], "port": event.get("port"),
                    "protocol": event.get("protocol") or "tcp", "family": family, "sock_type": act["sock_type"] or "stream"})
    elif not act["class"]:
        act.update(_guessed(event, act["operation"]))
    return act


def _guessed(event: Mapping[str, Any], operation: str) -> Dict[str, Any]:
    """Class and access of an act that AppArmor said nothing of."""
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


def _remark(act: Mapping[str, Any], reason: str, suggested: bool) -> str:
    """What no change of the manifest can say."""
    if reason == "EACCES":
        return "if the agent is to have it, its user or group needs the permission on the file itself"
    if reason == "EROFS" and not suggested:
        return "write below the workspace, or list the path under workspace.read_write"
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
