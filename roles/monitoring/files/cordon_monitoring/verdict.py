# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What AppArmor said of one act: each thing that some layer lacked a rule for. Pure.

A process of an agent runs in two layers, the cage `cordon.NAME` and one inner profile `cordon.NAME.main` or
`cordon.NAME.TOOL`, and each layer that lacks a rule leaves an AVC record of its own. One system call may also be about
several things (a rename has two paths, the start of a script has the script and its interpreter).
"""

from __future__ import annotations

import re
from typing import Any, Mapping

from .act import Act

Verdict = dict[str, Any]
ALLOWED, DENIED = "allowed", "denied"

_PROFILE = re.compile(r"cordon\.([a-z][a-z0-9_]*)(\.[^/]+)?")
# A profile in complain makes one up for a program that it has no rule to start: all of them are their parent.
_MADE_UP = "//null-"
_LETTERS = "mrwklx"
# The kernel's letters for creating, deleting and appending; a policy grants them together as w.
_WRITES = str.maketrans("acd", "www")
_MOUNTS = frozenset({"mount", "umount", "remount", "pivotroot"})
_OTHERS = frozenset({"change_profile", "change_onexec", "change_hat", "stack", "stack_onexec", "userns_create", "io_uring"})


def verdicts(act: Act) -> list[Verdict]:
    """The act's verdicts; the keys but `agent` and `layer` are those of docs/burn-in.md.

    `verdict` is one for the whole act: denied if some layer refused some part of it. `layer` says who lacks the rule:
    cage, inner or both.
    """
    found: dict[tuple[object, ...], Verdict] = {}
    for record in act.avcs:
        match = _PROFILE.fullmatch(record.get("profile", "").split(_MADE_UP)[0])
        if match and _says_no(record, inner=bool(match[2])):
            _add(found, _thing(record), record, match)
    outcome = DENIED if any(record["apparmor"] == "DENIED" for record in act.avcs) else ALLOWED
    for verdict in found.values():
        verdict.update(verdict=outcome, program=_program(act, verdict, outcome))
        if verdict["layer"] == "cage":
            verdict["profile"] = _inner_of(act) or verdict["profile"]
    return list(found.values())


def _says_no(record: Mapping[str, str], inner: bool) -> bool:
    """Refused, or let pass in complain only. In burn-in a tool's profile has every start that it lacks as an audited
    rule into main, which shows as AUDIT; another AUDIT record is of an access that a rule grants."""
    return record["apparmor"] in ("DENIED", "ALLOWED") or (
        record["apparmor"] == "AUDIT" and inner and record.get("operation") == "exec"
    )


def _add(found: dict[tuple[object, ...], Verdict], thing: Verdict, record: Mapping[str, str], match: re.Match[str]) -> None:
    inner = bool(match[2])
    key = tuple(thing.values())
    verdict = found.setdefault(
        key, {"agent": match[1], "profile": match[0], "operation": record.get("operation", ""), "access": None, **thing}
    )
    verdict["access"] = _letters(verdict["access"] or "", record)
    layer = "inner" if inner else "cage"
    verdict["layer"] = layer if verdict.setdefault("layer", layer) == layer else "both"
    if inner:
        verdict["profile"] = match[0]


def _letters(known: str, record: Mapping[str, str]) -> str | None:
    """What was asked for and is lacking, over all records of one thing: letters of a file rule, else the kernel's word."""
    mask = record.get("denied_mask") or record.get("requested_mask") or ""
    if "name" not in record:
        return mask or known or None
    asked = set(known) | set(mask.split("::")[0].translate(_WRITES))
    return "".join(letter for letter in _LETTERS if letter in asked) or mask or None


def _thing(record: Mapping[str, str]) -> Verdict:
    """What the record is about."""
    operation = record.get("operation", "")
    thing: Verdict = dict.fromkeys(("class", "path", "family", "sock_type", "protocol", "detail"))
    thing["path"] = record.get("name")
    if operation == "capable":
        thing.update({"class": "capability", "path": None, "detail": record.get("capname")})
    elif operation in ("signal", "ptrace"):
        about = (record.get("signal"), record.get("peer"))
        thing.update({"class": operation, "detail": " ".join(word for word in about if word) or None})
    elif operation in _MOUNTS:
        thing.update({"class": "mount", "detail": record.get("srcname") or record.get("fstype")})
    elif "family" in record:
        names = ("family", "sock_type", "protocol")
        thing.update({"class": "network", **{name: record.get(name) for name in names}, "detail": record.get("peer")})
    elif operation in _OTHERS or "name" not in record:
        thing.update({"class": "other", "detail": record.get("target") or record.get("peer")})
    else:
        thing["class"] = "exec" if operation == "exec" else "file"
    return thing


def _program(act: Act, verdict: Verdict, outcome: str) -> str | None:
    """Who did it. After a start the kernel's `exe` is what was started, so that the caller is known by `comm` only."""
    comm = next((record["comm"] for record in act.avcs if record.get("comm")), None)
    started = verdict["class"] == "exec" and outcome == ALLOWED
    return comm if started else act.syscall.get("exe") or comm


def _inner_of(act: Act) -> str | None:
    """The inner profile of the process, from its whole label."""
    parts = (act.profile() or "").split("//&")
    return next((part.split(_MADE_UP)[0] for part in parts if (m := _PROFILE.match(part)) and m[2]), None)
