# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. Rules that no profile of ours may contain, whoever wrote the catalogue.

The renderer cannot write most of them; this is the second look, at the text that is about to be loaded. It reads the
narrow form that the renderer writes (one rule a line), and refuses every line that it does not know.
"""
from __future__ import annotations

import re
from typing import Collection, List, Tuple

FORBIDDEN: List[Tuple[str, str]] = [
    # pattern over one rule; why it may not stand
    (r"\b(?:[pcPC]?[uU]x|[pPcC]x)\b(?! ->)", "an exec that leaves the cage (ux, px, cx): use ix"),
    (r"^change_(?:profile|hat)\b", "change_profile lets the agent choose another profile"),
    (r"^(?:audit )?capability\b", "a capability"),
    (r"^(?:audit )?(?:mount|umount|remount|pivot_root|userns|io_uring|dbus|mqueue)\b", "mounts, namespaces, buses"),
    (r"^ptrace \((?!read, readby\)|read\)|readby\))", "ptrace beyond reading"),
    (r"^ptrace .*peer=(?!\"?cordon\.)", "ptrace of a foreign label"),
    (r"^ptrace(?!.*peer=)", "ptrace of any label"),
    (r"^signal \(.*send.*peer=(?!\"?cordon\.)", "signals to a foreign label"),
    (r"^signal(?!.*peer=)", "signals to any label"),
    (r"^network(?: \w+)? (?:raw|packet|rdm)\b(?<!netlink raw)", "raw sockets"),
    (r"^network(?: \w+)?,", "every kind of socket"),
    (r"^network (?!inet |inet6 |netlink raw,)", "sockets other than inet, inet6 and netlink's for addresses"),
    (r"^deny\b", "a silent denial: write audit deny"),
]
# Places where nothing may be granted for writing: the controls, and what the kernel trusts.
UNWRITABLE = re.compile(
    r"^(?:audit )?(?:owner )?/(?:\*\*|\{?etc|usr|boot|sys|proc/sys|proc/\S*attr|var/lib/cordon|root|home)\S* \S*[wal]"
)
FILE = re.compile(r"^(?:audit )?(?:owner )?/\S* (?=\w)[mrwkl]*(?:ix)?,$")
DENIAL = re.compile(r"^audit deny /\S* [mrwklx]+,$")
ENTRY = re.compile(r"^/usr/lib/cordon/entry pix -> &cordon\.([a-z][a-z0-9_]*)\.main,$")
# Between the inner profiles of one agent; the cage beneath them stays. Into a tool only with a scrubbed environment.
TRANSITION = re.compile(
    r"^(?:audit )?/\S* r(?:px -> cordon\.([a-z][a-z0-9_]*)\.main|Px -> cordon\.([a-z][a-z0-9_]*)\.[a-z0-9-]+),$"
)
OTHER = re.compile(r"^(?:network|signal|ptrace|unix) [a-z0-9 (),=\"./&_*]+,$")
HEAD = re.compile(
    r"^profile cordon\.([a-z0-9_]+)(?:\.[a-z0-9-]+)?(?: flags=\((?:attach_disconnected|complain|, )+\))? \{$"
)


def lint(text: str, excepted: Collection[str] = ()) -> List[str]:
    """Return what is wrong with a rendered profile, [] for nothing, each with its line.

    excepted: lines that the manifest asked for by name (inner_sandbox), to be taken as they are.
    """
    heads = [head[1] for head in map(HEAD.match, text.splitlines()) if head]
    agent = heads[0] if heads else ""
    found = ["line %d: %s: %s" % (number, why, line.strip())
             for number, line in enumerate(text.splitlines(), 1) if line.strip() not in excepted
             for why in _line(line.strip(), agent)]
    if len(heads) != 1:
        found.append("%d profiles in one text: write one" % len(heads))
    return found


def _line(line: str, agent: str) -> List[str]:
    if not line or line.startswith("# ") or line in ("}", "abi <abi/3.0>,", "abi <abi/4.0>,") or HEAD.match(line):
        return [] if line.isprintable() else ["an unprintable character"]
    if DENIAL.match(line):
        return []
    if " -> " in line:
        return _transition(line, agent)
    if FILE.match(line):
        # Its access has no letter for a way out; its path may look like anything, "/Cx" too.
        return ["something that only root may write"] if UNWRITABLE.match(line) else []
    found = [why for pattern, why in FORBIDDEN if re.search(pattern, line)]
    return found or ([] if OTHER.match(line) else ["a line that no rule looks like"])


def _transition(line: str, agent: str) -> List[str]:
    match = ENTRY.match(line) or TRANSITION.match(line)
    if not match:
        return ["a transition other than the entry's, or px to main or Px to a tool"]
    return [] if agent in match.groups() else ["a transition into the profile of another agent"]
