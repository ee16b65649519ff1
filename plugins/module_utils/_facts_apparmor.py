# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of AppArmor, from the kernel's own files: what is loaded, not what lies in /etc/apparmor.d.

    supported  bool: the kernel's switch is on and its policy can be read here
    enabled    str|null: /sys/module/apparmor/parameters/enabled, Y or N
    features   [str]|null: those the cage rests on, e.g. domain/stack
    counts     {mode: number}|null: profiles of the whole host by mode
    profiles   {name: {mode, hash, hash_kind}}|null: ours (cordon.*), as the kernel holds them
    unenforced [{class, why, control, remains}]|null: what the kernel left to other controls when the profiles were
               loaded; null when that was never recorded

hash is the kernel's digest of the compiled policy (raw_sha256 since Linux 6.8, raw_sha1 before):
equal to that of `apparmor_parser -S`, it changes with every rule and with nothing else.
"""

from __future__ import annotations

import os
from typing import Any, Dict, List, Mapping, Optional

from ._facts_processes import split_label
from ._facts_source import Source

SECURITYFS = "/sys/kernel/security/apparmor"
POLICY = SECURITYFS + "/policy/profiles"
SWITCH = "/sys/module/apparmor/parameters/enabled"
RECORD = "/etc/cordon/apparmor.json"
FEATURES = ("domain/stack", "domain/post_nnp_subset", "domain/change_onexec", "file/mask", "network_v8/af_mask")
HASHES = ("raw_sha256", "raw_sha1")
PREFIX = "cordon."


def read(source: Source) -> Dict[str, Any]:
    """Return the facts of this module (shape: module docstring)."""
    enabled = source.word(SWITCH) if source.exists(SWITCH) else "N"
    supported = None if enabled is None else enabled == "Y" and source.exists(SECURITYFS + "/policy/profiles")
    if not supported:
        return {"supported": supported, "enabled": enabled, "features": None, "counts": None, "profiles": None,
                "unenforced": None}
    return {
        "supported": True, "enabled": enabled,
        "features": [name for name in FEATURES if source.exists("%s/features/%s" % (SECURITYFS, name))],
        "counts": count_modes(source.text(SECURITYFS + "/profiles")),
        "profiles": loaded(source),
        "unenforced": _record(source).get("unenforced"),
    }


def _record(source: Source) -> Dict[str, Any]:
    found = source.record(RECORD) if source.exists(RECORD) else None
    return found if isinstance(found, dict) else {}


def recorded(source: Source) -> Optional[Dict[str, Any]]:
    """Return {profile: {mode, hash}} as recorded when it was loaded; null when there is no record."""
    if not source.exists(RECORD):
        return None
    found = source.record(RECORD)
    return found.get("profiles") if isinstance(found, dict) else None


def count_modes(text: Optional[str]) -> Optional[Dict[str, int]]:
    """Count the lines `NAME (MODE)` of securityfs's list of profiles."""
    if text is None:
        return None
    counts: Dict[str, int] = {}
    for line in text.splitlines():
        mode = split_label(line.strip())[1] or "unknown"
        counts[mode] = counts.get(mode, 0) + 1
    return dict(sorted(counts.items()))


def loaded(source: Source) -> Optional[Dict[str, Dict[str, Any]]]:
    """Return {name: {mode, hash, hash_kind}} of our profiles in the kernel; null when that cannot be listed."""
    names = source.names(POLICY)
    if names is None:
        return None
    found: Dict[str, Dict[str, Any]] = {}
    for entry in (name for name in names if name.startswith(PREFIX)):
        path = "%s/%s" % (POLICY, entry)
        name = source.word(path + "/name")
        if name is not None:
            kind = next((kind for kind in HASHES if source.exists("%s/%s" % (path, kind))), None)
            found[name] = {"mode": source.word(path + "/mode"), "hash_kind": kind,
                           "hash": source.word("%s/%s" % (path, kind)) if kind else None}
    return found


def directories() -> Dict[str, str]:
    """Where the kernel shows each of our profiles: {name: path}."""
    found = {}
    # A directory is named PROFILE.NUMBER, the number rising with each load: only `name` is stable.
    for entry in (name for name in os.listdir(POLICY) if name.startswith(PREFIX)):
        try:
            with open("%s/%s/name" % (POLICY, entry), encoding="utf-8") as file:
                found[file.read().strip()] = "%s/%s" % (POLICY, entry)
        except FileNotFoundError:  # replaced just now
            continue
    return found


def drift(record: Mapping[str, Mapping[str, Any]], kernel: Mapping[str, Mapping[str, Any]]) -> List[Dict[str, str]]:
    """Name every profile that the kernel does not hold as recorded when it was loaded: [{profile, problem}]."""
    found = {name: _differs(record.get(name), kernel.get(name)) for name in sorted(set(record) | set(kernel))}
    return [{"profile": name, "problem": problem} for name, problem in found.items() if problem]


def _differs(known: Optional[Mapping[str, Any]], loaded_as: Optional[Mapping[str, Any]]) -> str:
    if loaded_as is None:
        return "the kernel does not have it"
    if known is None:
        return "it is loaded, but no run recorded it"
    if loaded_as["mode"] != known.get("mode"):
        return "the kernel has it in %s, recorded was %s" % (loaded_as["mode"], known.get("mode"))
    return "" if loaded_as["hash"] == known.get("hash") else "the kernel has another policy under its name"


def of_agent(apparmor: Dict[str, Any], record: Optional[Dict[str, Any]], agent: str) -> Dict[str, Any]:
    """Return {cage, main, others} of one agent, and the same as recorded.

    cage, main: {name, mode, hash, recorded_hash}, with nulls where not loaded or not recorded.
    others: [the same], the further inner profiles.
    """
    loaded, known = apparmor["profiles"] or {}, record or {}
    cage, main = PREFIX + agent, PREFIX + agent + ".main"
    others = sorted(name for name in set(loaded) | set(known) if name.startswith(cage + ".") and name != main)

    def both(name: str) -> Dict[str, Any]:
        kernel = loaded.get(name) or {}
        return {"name": name, "mode": kernel.get("mode"), "hash": kernel.get("hash"),
                "recorded_hash": (known.get(name) or {}).get("hash")}

    return {"cage": both(cage), "main": both(main), "others": [both(name) for name in others]}


def expected_modes(mode: str) -> Dict[str, str]:
    """Return the modes that a manifest's `mode` asks of the inner profile and of the whole label.

    The cage always enforces; with the inner profile in complain the kernel calls the label mixed.
    """
    enforcing = mode == "enforce"
    return {"main": "enforce" if enforcing else "complain", "label": "enforce" if enforcing else "mixed"}


def labels_out_of_place(processes: Optional[List[Dict[str, Any]]], agent: str, mode: str) -> Optional[List[str]]:
    """Name every process that is not in its agent's cage and one of its inner profiles, in that mode."""
    if processes is None:
        return None
    cage, wanted = PREFIX + agent, expected_modes(mode)["label"]
    return ["pid %d (%s): %s (%s)" % (p["pid"], p["program"], p["label"], p["mode"]) for p in processes
            if not (len(p["profiles"]) == 2 and p["profiles"][0] == cage
                    and p["profiles"][1].startswith(cage + ".") and p["mode"] == wanted)]
