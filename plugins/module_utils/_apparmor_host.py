# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. What a host has: kernel, policy files, overrides, record. It changes nothing.

An unchanged run ends here, so this imports little. Decisions are in _apparmor_plan, the acts in _apparmor_load.
"""
from __future__ import annotations

import json
import os
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

from . import _files
from ._apparmor_plan import PREFIX
from ._apparmor_unenforced import FEATURES, refusals
from ._facts_apparmor import SECURITYFS, SWITCH, loaded
from ._facts_source import Source

Run = Callable[..., Tuple[int, str, str]]

CACHE = "/var/cache/apparmor"
# Links in these directories make every parser, Debian's service included, skip a profile or load it in complain.
OVERRIDES = ("disable", "force-complain")
FILE = _files.Entry("file", 0o644, 0, 0)
# A profile that somebody else replaces while we read is under another number the next time.
ATTEMPTS = 5


class Failed(Exception):
    """Something on this host went wrong; the message names the profile and the remedy."""


def kernel() -> Optional[Dict[str, Dict[str, Optional[str]]]]:
    """Our profiles as the kernel holds them, {name: {mode, hash, hash_kind}}; None where it cannot hold any."""
    for _attempt in range(ATTEMPTS):
        source = Source(no_command)
        if source.word(SWITCH) != "Y" or not os.path.isdir(SECURITYFS + "/policy/profiles"):
            return None
        found = loaded(source)
        if not source.unreadable:
            return found
    raise Failed("; ".join("%s: %s" % item for item in sorted(source.unreadable.items())))


def no_command(*_argv: object, **_options: object) -> Tuple[int, str, str]:
    """For a Source that reads files only."""
    raise AssertionError("the kernel's state is files only")


def features() -> List[str]:
    """Those of the kernel's features that the cage asks for. Failed when it lacks one that nothing can stand in for."""
    found = [name for name in FEATURES if os.path.lexists("%s/features/%s" % (SECURITYFS, name))]
    missing = refusals(found)
    if missing:
        raise Failed("this kernel cannot hold the cage, it lacks %s: boot Debian's own kernel, or any from 4.17 on"
                     % ", ".join(missing))
    return found


def missing_because() -> str:
    """Why this host has no AppArmor, and what to do about it."""
    try:
        with open(SWITCH, encoding="ascii") as switch:
            enabled = switch.read().strip()
    except OSError:
        return "this kernel has none (a container sees none either): run on a host whose kernel has AppArmor"
    if enabled != "Y":
        return "the kernel was booted without it: remove apparmor=0 and lsm= from its command line, then reboot"
    if not os.path.isdir(SECURITYFS):
        return "%s is not there: mount -t securityfs securityfs /sys/kernel/security" % SECURITYFS
    return "%s/policy cannot be read: run as root on the host itself, not in a container" % SECURITYFS


def files(directory: str) -> Dict[str, Optional[str]]:
    """Text of every file of ours by name; None for one whose kind, owner or mode has to be mended."""
    if not os.path.isdir(directory):
        return {}
    parent = _files.open_parent(directory + "/x")
    try:
        names = [name for name in os.listdir(parent) if name.startswith(PREFIX)]
        found = {name: _files.observe(parent, name) for name in names}
    finally:
        os.close(parent)
    return {name: entry.text if entry._replace(text=None) == FILE else None for name, entry in found.items()}


def overrides(directory: str, names: Iterable[str]) -> List[str]:
    """Links by which somebody disabled one of our profiles or forced it into complain."""
    wanted = set(names)
    found = [os.path.join(directory, place, name) for place in OVERRIDES
             for name in _listed(os.path.join(directory, place)) if name in wanted]
    return sorted(found)


def _listed(directory: str) -> List[str]:
    return os.listdir(directory) if os.path.isdir(directory) else []


def record(path: str) -> Dict[str, Any]:
    """The last run's record; an unreadable or foreign one counts as none, and is replaced."""
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        return data if isinstance(data["profiles"], dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
