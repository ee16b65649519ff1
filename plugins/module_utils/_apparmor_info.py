# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. What the module apparmor_info tells: each part read on its own, so none costs another."""
from __future__ import annotations

import errno
import hashlib
import json
import os
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

from ._apparmor_policy import ABIS
from ._facts_source import Source

SECURITYFS = "/sys/kernel/security/apparmor"
SWITCH = "/sys/module/apparmor/parameters/enabled"
PROMOTIONS = "/etc/cordon/promotions.json"
MANIFEST = "/etc/cordon/manifest.json"
DIRECTORY = "/etc/apparmor.d"
OVERRIDES = ("disable", "force-complain")


class Unusable(Exception):
    """A record that must not be guessed at; the message names it and the remedy."""


def support(source: Source) -> Dict[str, Any]:
    """Whether the kernel's switch is on and its policy can be read: {supported, enabled, abi}, null for unreadable.

    abi: the newest that our profiles are written for and the parser has a file of; null before it is installed.
    """
    enabled = source.word(SWITCH) if source.exists(SWITCH) else "N"
    there = source.exists(SECURITYFS + "/policy/profiles")
    abi = next((abi for abi in reversed(ABIS) if source.exists("%s/abi/%s" % (DIRECTORY, abi))), None)
    return {"enabled": enabled, "supported": None if enabled is None else enabled == "Y" and there, "abi": abi}


def promotions(source: Source) -> Dict[str, Any]:
    """The agents that were promoted from burn-in to enforce: the content of promotions.json, {} when there is none.

    A file that is there and cannot be used is an error: {} would send promoted agents back to burn-in.
    """
    path = source.at(PROMOTIONS)
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except FileNotFoundError:
        return {"promotions": {}}
    except (OSError, ValueError) as problem:
        raise Unusable("%s cannot be used (%s): restore it, or remove it, and promoted agents are in burn-in again"
                       % (PROMOTIONS, problem)) from problem
    if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
        raise Unusable("%s does not map agents to their promotions: restore it, or remove it, and promoted agents are"
                       " in burn-in again" % PROMOTIONS)
    return {"promotions": found}


def kernel(source: Source) -> Dict[str, Any]:
    """Every leaf of securityfs's features, {path: content}, and the number of the policy's last change."""
    return {"features": _leaves(source, SECURITYFS + "/features"), "revision": revision(source)}


def _leaves(source: Source, top: str) -> Optional[Dict[str, str]]:
    if not source.exists(top):
        return None
    found = {}
    for place, _directories, names in os.walk(source.at(top)):
        below = os.path.relpath(place, source.at(top))
        for name in names:
            path = os.path.normpath(os.path.join(below, name))
            found[path] = source.word("%s/%s" % (top, path)) or ""
    return dict(sorted(found.items()))


def revision(source: Source) -> Optional[int]:
    """The policy's revision. One read of the file: the second would wait for the next change of policy."""
    path = SECURITYFS + "/policy/revision"
    try:
        handle = os.open(source.at(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as problem:
        if problem.errno != errno.ENOENT:
            source.note(path, problem)
        return None
    try:
        word = os.read(handle, 64).strip()
        return int(word) if word.isdigit() else None
    except OSError as problem:
        source.note(path, problem)
        return None
    finally:
        os.close(handle)


def parser(source: Source) -> Dict[str, Any]:
    """The version of apparmor_parser, null when it is not installed."""
    if source.program("apparmor_parser") is None:
        return {"parser": None}
    words = (source.output("apparmor_parser", "--version") or "").splitlines()
    return {"parser": words[0].rpartition(" ")[2] if words else None}


def profiles(source: Source) -> Dict[str, Any]:
    """Our profiles as the kernel holds them, as they were recorded, and what differs; all profiles counted by mode."""
    from . import _facts_apparmor

    found = _facts_apparmor.read(source)
    known = _facts_apparmor.recorded(source)
    drift = None if found["profiles"] is None else _facts_apparmor.drift(known or {}, found["profiles"])
    return {"profiles": found["profiles"], "counts": found["counts"], "recorded": known,
            "unenforced": found["unenforced"],
            "drift": None if drift is None else drift + _files_drift(source, known or {})}


def _files_drift(source: Source, known: Mapping[str, Mapping[str, Any]]) -> List[Dict[str, str]]:
    """What the next boot would load otherwise: files that are not as recorded, links that override a mode."""
    found = []
    for name in sorted(known):
        path = "%s/%s" % (DIRECTORY, name)
        text = source.text(path, noted=False)
        if text is None:
            found.append((name, "%s is missing" % path))
        elif hashlib.sha256(text.encode()).hexdigest() != known[name].get("source_sha256"):
            found.append((name, "%s was edited" % path))
        found += [(name, "%s/%s/%s overrides it at boot" % (DIRECTORY, place, name))
                  for place in OVERRIDES if source.exists("%s/%s/%s" % (DIRECTORY, place, name))]
    return [{"profile": name, "problem": problem} for name, problem in found]


def agents(source: Source, names: Optional[Sequence[str]]) -> Dict[str, Any]:
    """Every process of each agent's user with its label: {agents: {NAME: {user, processes, confined, unconfined}}}."""
    from . import _facts_processes, _facts_users

    users = {"agent-" + name: name for name in _names(source, names)}
    uids = _facts_users.Users(source).agent_uids()
    if names is None:
        users.update((user, user[len(_facts_users.PREFIX):]) for user in uids.values() if user not in users)
    found = _facts_processes.read(source, {uid: user for uid, user in uids.items() if user in users})
    return {"agents": {name: _agent(user, name, found) for user, name in sorted(users.items())}}


def _names(source: Source, names: Optional[Sequence[str]]) -> List[str]:
    if names is not None:
        return list(names)
    manifest = source.record(MANIFEST) if source.exists(MANIFEST) else {}
    listed = (manifest.get("agents") or []) if isinstance(manifest, dict) else []
    return [entry["name"] for entry in listed if isinstance(entry, dict) and isinstance(entry.get("name"), str)]


def _agent(user: str, name: str, found: Optional[Sequence[Mapping[str, Any]]]) -> Dict[str, Any]:
    """One agent's processes; confined means: in this agent's cage and in an inner profile of it."""
    if found is None:
        return {"user": user, "processes": None, "modes": None, "confined": None, "unconfined": None}
    own = [{"pid": process["pid"], "program": process["program"], "label": process["label"], "mode": process["mode"],
            "confined": confined(process["profiles"], name)} for process in found if process["user"] == user]
    inside = sum(1 for process in own if process["confined"])
    modes = sorted({process["mode"] or "unconfined" for process in own})
    return {"user": user, "processes": own, "modes": modes, "confined": inside, "unconfined": len(own) - inside}


def confined(layers: Sequence[str], agent: str) -> bool:
    """Whether these are the cage of this agent and one or more of its inner profiles."""
    cage = "cordon." + agent
    return len(layers) > 1 and layers[0] == cage and all(layer.startswith(cage + ".") for layer in layers[1:])


PARTS: Dict[str, Callable[[Source], Dict[str, Any]]] = {
    "support": support, "promotions": promotions, "kernel": kernel, "parser": parser, "profiles": profiles,
}
