# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. What has to be done so that files and kernel hold the wanted profiles: decisions only.

The record ties the three together without a compiler: it says which text (SHA-256 of the file) gave which policy (the
kernel's own hash of the compiled profile). Text as recorded and kernel as recorded means that nothing has to be
started. Whatever differs is loaded anew; loading what was already there is harmless.
"""
from __future__ import annotations

import hashlib
import re
from typing import Any, Dict, Iterable, List, Mapping, Match, NamedTuple, Optional

PREFIX = "cordon."
NAME = re.compile(r"cordon\.[a-z0-9_]+(?:\.[a-z0-9_-]+)*")
MODES = ("enforce", "complain")
HEAD = re.compile(r"\nprofile (\S+)(?: flags=\(([^)]*)\))? \{\n")
ERROR = re.compile(
    r"parser error for (?P<file>\S+?)(?: in (?:profile )?(?P<where>\S+))? at line (?P<line>\d+): (?P<what>.*)"
)

Kernel = Mapping[str, Mapping[str, Optional[str]]]  # name -> {mode, hash}
Record = Mapping[str, Mapping[str, Any]]  # name -> {mode, hash, source_sha256, since}


class Wanted(NamedTuple):
    """One profile: name is also the file's; mode is enforce or complain, and the text's flags say the same."""

    name: str
    mode: str
    text: str


class Plan(NamedTuple):
    """Names of profiles by what has to be done; reasons says why for each name in load."""

    write: List[str]
    load: List[str]
    remove: List[str]
    reasons: Dict[str, str]

    def anything(self) -> bool:
        """Tell whether this plan changes the host."""
        return bool(self.write or self.load or self.remove)


def digest(text: str) -> str:
    """The SHA-256 of a profile's text, hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def mistakes(wanted: Iterable[Wanted]) -> List[str]:
    """Return what is wrong with the request, before anything is read: names, modes, one profile a text."""
    found: List[str] = []
    seen: Dict[str, int] = {}
    for profile in wanted:
        seen[profile.name] = seen.get(profile.name, 0) + 1
        if not NAME.fullmatch(profile.name):
            found.append("%r is not a name of ours: use cordon., then a-z, 0-9, _ and dots" % profile.name)
            continue
        head = _only_head(profile.text)
        if head is None or head[1] != profile.name:
            found.append("profile %s: its text must open exactly that one profile" % profile.name)
        elif ("complain" in (head[2] or "").split(", ")) != (profile.mode == "complain"):
            shape = (profile.name, profile.mode, head[2] or "")
            found.append("profile %s: mode is %s, but its text has flags=(%s)" % shape)
    return found + ["profile %s is given %d times" % (name, count) for name, count in sorted(seen.items()) if count > 1]


def _only_head(text: str) -> Optional[Match[str]]:
    """The line that opens the profile, if there is exactly one. Found by its word: a slow host reads 74 texts here."""
    text = "\n" + text
    return HEAD.match(text, text.find("\nprofile ")) if text.count("\nprofile ") == 1 else None


def plan(wanted: List[Wanted], files: Mapping[str, Optional[str]], kernel: Optional[Kernel], record: Record) -> Plan:
    """Compare what is wanted with what is there.

    files: text by name for every file that begins with `cordon.`, None for one that has the wrong owner or mode.
    kernel: None where there is no AppArmor to load into; then nothing is loaded or unloaded.
    """
    names = {profile.name for profile in wanted}
    reasons = {} if kernel is None else {profile.name: _differs(profile, kernel, record) for profile in wanted}
    ours = set(files) | {name for name in kernel or {} if name.startswith(PREFIX) and "//" not in name}
    return Plan(
        write=[profile.name for profile in wanted if files.get(profile.name) != profile.text],
        load=[profile.name for profile in wanted if reasons.get(profile.name)],
        remove=sorted(ours - names),
        reasons={name: reason for name, reason in reasons.items() if reason},
    )


def _differs(profile: Wanted, kernel: Kernel, record: Record) -> str:
    """Why this profile has to be loaded, or "" when the kernel has it as it should be."""
    loaded, known = kernel.get(profile.name), record.get(profile.name, {})
    if loaded is None:
        return "the kernel does not have it"
    if loaded.get("mode") != profile.mode:
        return "the kernel has it in %s" % loaded.get("mode")
    if known.get("source_sha256") != digest(profile.text):
        return "its text is new" if known else "it was not recorded when it was loaded"
    # A kernel that does not export its hashes leaves mode and text to compare; the module says so in compared_by.
    return "" if loaded.get("hash") == known.get("hash") else "the kernel has another policy under its name"


def new_record(wanted: List[Wanted], kernel: Optional[Kernel], known: Record, loaded: Iterable[str], now: float,
               unenforced: List[Dict[str, str]]) -> Dict[str, Any]:
    """What /etc/cordon/apparmor.json holds: {enforced, profiles: {name: {mode, hash, source_sha256, since}}, unenforced}.

    known: the last record's profiles; `since` stays while text, policy and mode do. loaded: those loaded just now,
    among them what had drifted: it was not enforced all the time, so its time begins anew.
    """
    fresh = set(loaded)
    profiles = {}
    for profile in wanted:
        if profile.name in (kernel or {}):
            entry: Dict[str, Any] = {"mode": profile.mode, "hash": (kernel or {})[profile.name].get("hash"),
                                     "source_sha256": digest(profile.text)}
            before = known.get(profile.name, {})
            same = profile.name not in fresh and all(before.get(key) == value for key, value in entry.items())
            since = before.get("since") if same else None
            profiles[profile.name] = dict(entry, since=since if isinstance(since, float) else now)
    return {"enforced": kernel is not None, "profiles": profiles, "unenforced": unenforced}


def explain(output: str, texts: Mapping[str, str]) -> str:
    """Turn the parser's complaint into one that names profile and line, and shows the line; texts by profile."""
    found = []
    for match in ERROR.finditer(output):
        name = (match["where"] or match["file"]).rpartition("/")[2]
        number = int(match["line"])
        rows = texts.get(name, "").splitlines()
        shown = " (%s)" % rows[number - 1].strip() if 0 < number <= len(rows) else ""
        found.append("profile %s, line %d: %s%s" % (name, number, match["what"].strip(), shown))
    return "; ".join(found) or output.strip() or "it gave no reason"
