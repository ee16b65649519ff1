# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. What a kernel will not enforce of the profiles, and what stands in for it. Decisions only.

A class of rules is enforced when the kernel has the feature (a name below securityfs's `features`) and the policy's
`abi` can speak of it: the parser drops the rest without a word unless it is asked. So each class that the cage needs
is listed with its control outside AppArmor. A class without one is no gap to live with: such a kernel is refused.
"""
from __future__ import annotations

import re
from typing import Dict, Iterable, List, NamedTuple, Set, Tuple

# Without these there are no two layers: stacking, under NoNewPrivileges, entered by systemd's AppArmorProfile=.
REQUIRED = (
    ("domain/stack", "stacked profiles"),
    ("domain/post_nnp_subset", "stacking under NoNewPrivileges"),
    ("domain/change_onexec", "entering a profile at exec, as systemd does"),
    ("file/mask", "rules for files"),
)
# What each ABI added (upstream's files in profiles/apparmor.d/abi); an older one does not speak of a later class.
ABIS = ("3.0", "4.0", "4.0-ip", "5.0", "5.0-interface")
ABI_LINE = re.compile(r"^abi <abi/([^>]+)>,$", re.MULTILINE)


class Kind(NamedTuple):
    """A class of rules. features: any one is enough. control: what stands in for it. remains: what nothing stops."""

    name: str
    features: Tuple[str, ...]
    abi: str
    control: str
    remains: str = ""


# The controls are lines of the agent's unit (module_utils/_units.py) or the packet filter; `verify` checks those too.
KINDS = (
    Kind("capability", ("caps/mask",), "3.0", "CapabilityBoundingSet= with nothing, NoNewPrivileges=yes"),
    Kind("network", ("network_v8/af_mask", "network_v9/af_mask", "network/af_mask"), "3.0",
         "RestrictAddressFamilies= and nftables"),
    # Seen on Linux 6.1 and 6.12: connect(2) to a socket that has a path asks AppArmor for nothing.
    Kind("unix", ("network_v9/af_unix", "network/af_unix"), "3.0",
         "InaccessiblePaths= over the sockets of daemons, and the permissions of each socket's file",
         "abstract sockets of other users stay reachable"),
    Kind("inet", ("network_v8/af_inet", "network_v9/af_inet"), "4.0-ip",
         "nftables: addresses and ports by the agent's user"),
    Kind("signal", ("signal/mask",), "3.0", "the agent's own user: kill(2) reaches no other"),
    Kind("ptrace", ("ptrace/mask",), "3.0", "SystemCallFilter=@system-service has no ptrace; ProtectProc=invisible"),
    Kind("mount", ("mount/mask",), "3.0", "SystemCallFilter=@system-service has no mount; CapabilityBoundingSet="),
    Kind("userns", ("namespaces/mask",), "4.0", "RestrictNamespaces= (inner_sandbox: allow lifts it for that agent)"),
    Kind("mqueue", ("ipc/posix_mqueue",), "4.0", "PrivateIPC=yes"),
    Kind("io_uring", ("io_uring/mask",), "5.0", "SystemCallFilter=~io_uring_setup io_uring_enter io_uring_register"),
    Kind("dbus", ("dbus/mask",), "3.0", "InaccessiblePaths=/run/dbus"),
)
FEATURES = tuple(path for path, _what in REQUIRED) + tuple(path for kind in KINDS for path in kind.features)

# The parser's own words, with --warn=rule-not-enforced --warn=rule-downgraded; 3.0.8 writes "not enforce" for mounts.
WARNING = re.compile(r"(?:\): |profile \S+ )([a-z_ ]+) rules not enforce|downgrading ([a-z_ ]+?) rule")


def refusals(features: Iterable[str]) -> List[str]:
    """Why this kernel cannot hold the cage at all, [] when it can."""
    have = set(features)
    return ["%s (features/%s)" % (what, path) for path, what in REQUIRED if path not in have]


def unenforced(features: Iterable[str], texts: Iterable[str]) -> List[Dict[str, str]]:
    """Each class that this kernel does not enforce for these profiles, [{class, why, control, remains}]."""
    have, oldest = set(features), _oldest(texts)
    found = []
    for kind in KINDS:
        why = _why(kind, have, oldest)
        if why:
            found.append({"class": kind.name, "why": why, "control": kind.control, "remains": kind.remains})
    return found


def nothing_enforced(because: str) -> List[Dict[str, str]]:
    """The same for a host that has no AppArmor, where the operator accepted that."""
    return [{"class": "everything", "why": because, "control": "the other controls alone",
             "remains": "whatever only the profiles forbid"}]


def _why(kind: Kind, have: Set[str], abi: str) -> str:
    if not have & set(kind.features):
        return "this kernel does not have it (features/%s)" % kind.features[0]
    if ABIS.index(abi) < ABIS.index(kind.abi):
        return "the profiles are written for abi %s, which does not speak of it" % abi
    return ""


def _oldest(texts: Iterable[str]) -> str:
    """The oldest ABI that a text names; a text without one, or with an unknown one, counts as the oldest."""
    named = [ABI_LINE.search(text) for text in texts]
    ranks = [ABIS.index(found[1]) if found and found[1] in ABIS else 0 for found in named]
    return ABIS[min(ranks)] if ranks else ABIS[0]


def unexpected(output: str, known: Iterable[str]) -> List[str]:
    """What the parser says it leaves out and the table above does not: nothing may be dropped without a word.

    output: the parser's messages. known: the classes that unenforced() named.
    """
    listed = set(known)
    said = sorted({(match[1] or match[2]).strip() for match in WARNING.finditer(output)})
    return [words for words in said if not listed & set(words.split())]
