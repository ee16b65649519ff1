# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of the machine: system, kernel, memory and disk, sysctls, and who may write our files.

os      {id, version_id, pretty_name}
kernel  {release, boot_id}       boot_id changes with every boot and with nothing else
swap, memory   ways on which memory reaches a disk: see _facts_memory.py; memory is left out in a preflight
sysctl  {name: str|null}
files   {records, code, logs: [metadata of _facts_source]|null}   left out in a preflight
"""

from __future__ import annotations

import os
from typing import Any, Dict, List, Optional

from . import _facts_memory
from ._facts_source import Source

SYSCTLS = ("kernel.yama.ptrace_scope", "dev.tty.legacy_tiocsti", "kernel.dmesg_restrict", "fs.suid_dumpable",
           "kernel.unprivileged_bpf_disabled", "fs.protected_symlinks", "fs.protected_hardlinks")
TREES = {"records": "/etc/cordon", "code": "/usr/lib/cordon", "logs": "/var/log/cordon"}
OS_KEYS = {"ID": "id", "VERSION_ID": "version_id", "PRETTY_NAME": "pretty_name"}


def read(source: Source, preflight: bool) -> Dict[str, Any]:
    """Return the facts of this module (shape: module docstring)."""
    areas = _facts_memory.swaps(source)
    facts: Dict[str, Any] = {
        "os": parse_os_release(source.text("/etc/os-release")),
        "kernel": {"release": source.word("/proc/sys/kernel/osrelease"),
                   "boot_id": source.word("/proc/sys/kernel/random/boot_id")},
        "swap": areas,
        "sysctl": {name: _sysctl(source, name) for name in SYSCTLS},
    }
    if not preflight:
        facts["memory"] = _facts_memory.read(source, areas)
        facts["files"] = {name: tree(source, top) for name, top in TREES.items()}
    return facts


def parse_os_release(text: Optional[str]) -> Dict[str, Optional[str]]:
    """Return id, version_id and pretty_name of os-release(5); null where the file does not say."""
    found: Dict[str, Optional[str]] = dict.fromkeys(OS_KEYS.values())
    for line in (text or "").splitlines():
        key, separator, value = line.partition("=")
        if separator and key in OS_KEYS:
            found[OS_KEYS[key]] = value.strip().strip("\"'")
    return found


def tree(source: Source, top: str) -> Optional[List[Dict[str, Any]]]:
    """Return metadata of a directory and everything below it, null if any part cannot be listed."""
    first = source.metadata(top)
    if first is None:
        return None
    found = [first]
    for name in (source.names(top) if first["kind"] == "directory" else []) or []:
        path = os.path.join(top, name)
        if name == "__pycache__":
            continue
        below = tree(source, path)
        if below is None:
            return None
        found += below
    return found if first["kind"] != "directory" or top not in source.unreadable else None


def _sysctl(source: Source, name: str) -> Optional[str]:
    path = "/proc/sys/" + name.replace(".", "/")
    return source.word(path) if source.exists(path) else None
