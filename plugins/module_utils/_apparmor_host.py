# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. The acts on a host: parser, policy directory, kernel. Decisions are in _apparmor_plan."""
from __future__ import annotations

import glob
import os
import re
from typing import Callable, Dict, Iterable, List, Mapping, Optional, Tuple

from . import _files
from ._apparmor_plan import PREFIX, Wanted, explain
from ._facts_apparmor import SECURITYFS, read
from ._facts_processes import profiles as layers
from ._facts_processes import split_label
from ._facts_source import Source

Run = Callable[..., Tuple[int, str, str]]

CACHE = "/var/cache/apparmor"
# Links in these directories make every parser, Debian's service included, skip a profile or load it in complain.
OVERRIDES = ("disable", "force-complain")
# -T: never from the cache, whose validity rests on times of files; -W: for Debian's apparmor.service at the next boot.
CHECK = ["--skip-kernel-load", "--skip-cache", "--skip-read-cache"]
LOAD = ["--replace", "--skip-read-cache", "--write-cache"]
FILE = _files.Entry("file", 0o644, 0, 0)


class Failed(Exception):
    """Something on this host went wrong; the message names the profile and the remedy."""


def kernel(run: Run) -> Optional[Dict[str, Dict[str, Optional[str]]]]:
    """Our profiles as the kernel holds them, {name: {mode, hash}}; None where it cannot hold any."""
    found = read(Source(run))
    return found["profiles"] if found["supported"] else None


def missing_because() -> str:
    """Why this host has no AppArmor, and what to do about it."""
    try:
        with open("/sys/module/apparmor/parameters/enabled", encoding="ascii") as switch:
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


def check(run: Run, parser: str, scratch: str, profiles: List[Wanted]) -> None:
    """Compile all of them without touching files or kernel; Failed names profile and line."""
    for profile in profiles:
        with open(os.path.join(scratch, profile.name), "w", encoding="utf-8", newline="") as file:
            file.write(profile.text)
    _parse(run, [parser] + CHECK, scratch, profiles, "nothing was changed")


def load(run: Run, parser: str, directory: str, profiles: List[Wanted]) -> None:
    """Load the written files in one call, and leave their compiled form for the next boot."""
    _parse(run, [parser] + LOAD, directory, profiles, "it was not loaded")


def _parse(run: Run, argv: List[str], directory: str, profiles: List[Wanted], outcome: str) -> None:
    code, out, err = run(argv + [os.path.join(directory, profile.name) for profile in profiles])
    # snapd's experience: some releases report a parser error and exit with 0.
    if code or "parser error" in err:
        raise Failed("%s; %s" % (explain(err or out, {profile.name: profile.text for profile in profiles}), outcome))


def write(directory: str, texts: Mapping[str, Optional[str]]) -> None:
    """Replace files by name, each in one rename; None removes one."""
    os.makedirs(directory, mode=0o755, exist_ok=True)
    parent = _files.open_parent(directory + "/x")
    try:
        for name, text in texts.items():
            if text is not None:
                _files.write_file(parent, name, FILE._replace(text=text))
            elif _files.observe(parent, name).kind != "absent":
                _files.remove(parent, name)
    finally:
        os.close(parent)


def unload(names: Iterable[str]) -> None:
    """Take profiles out of the kernel and the cache. Nobody may be running under them: see live()."""
    for name in names:
        handle = os.open(SECURITYFS + "/.remove", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(handle, name.encode("ascii"))
        finally:
            os.close(handle)


def forget(names: Iterable[str]) -> None:
    """Remove compiled forms, so that nothing loads them at boot."""
    for name in names:
        for path in glob.glob("%s/*/%s" % (CACHE, glob.escape(name))):
            os.unlink(path)


def live(names: Iterable[str]) -> List[str]:
    """Processes that run under one of these profiles, as "pid 12 in cordon.x": removal would set them free."""
    wanted, found = set(names), []
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        label = _label(pid)
        if wanted & set(layers(label)):
            found.append("pid %d in %s" % (pid, label))
    return found


def _label(pid: int) -> Optional[str]:
    for path in ("/proc/%d/attr/apparmor/current", "/proc/%d/attr/current"):
        try:
            with open(path % pid, encoding="ascii", errors="replace") as file:
                return split_label(re.sub(r"[\0\n]", "", file.read()))[0]
        except OSError:  # the process ended, or this kernel has only the other file
            continue
    return None
