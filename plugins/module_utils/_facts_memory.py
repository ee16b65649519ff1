# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of the ways on which memory reaches a disk: swap, core dumps, hibernation, the dump of a crashed kernel.

swaps() returns
    [{device, kind, in_the_clear: bool|null}]|null   kind: zram, partition or file; null: not found out
read() returns
    swap_faults         [str]|null: swap areas on a disk in the clear
    core_pattern        str|null: kernel.core_pattern
    core_faults         [str]|null: a core handler that the limits of our units do not bound
    hibernation_faults  [str]|null: the whole memory could be written to a disk in the clear
    kdump_faults        [str]|null: a crash of the kernel would write the memory of programs to disk
"""

from __future__ import annotations

import os
import re
from typing import Any, Dict, List, Optional

from ._facts_source import Source

SWAPS = "/proc/swaps"
POWER = "/sys/power"
PATTERN = "/proc/sys/kernel/core_pattern"
KDUMP_TOOLS = "/etc/default/kdump-tools"
HIBERNATING = ("hibernate.target", "hybrid-sleep.target", "suspend-then-hibernate.target")
# Types that cryptsetup writes into a mapping's uuid; of CRYPT-SUBDEV, CRYPT-VERITY and CRYPT-INTEGRITY none encrypts.
ENCRYPTED = tuple("CRYPT-%s" % kind for kind in ("LUKS1-", "LUKS2-", "PLAIN-", "TCRYPT-", "LOOPAES-", "BITLK-", "FVAULT2-"))
MASKED = "/dev/null"  # what `systemctl mask` links a unit to
# makedumpfile(8), -d: leave out pages of the page cache (2 and 4) and of programs (8).
USER_PAGES = 2 | 4 | 8
MOST_LAYERS = 16  # of device mapper over each other; more is a loop in what we read

Swap = Dict[str, Any]


def swaps(source: Source) -> Optional[List[Swap]]:
    """Return the swap areas in use, and whether what is swapped there lies on a disk in the clear."""
    text = source.text(SWAPS)
    if text is None:
        return None
    rows = [line.split() for line in text.splitlines()[1:] if line.strip()]
    return [_swap(source, row[0].replace("\\040", " "), row[1]) for row in rows]


def in_the_clear(areas: Optional[List[Swap]]) -> List[str]:
    """Name the areas that are not known to be harmless; what could not be read is not."""
    if areas is None:
        return ["%s cannot be read" % SWAPS]
    return [area["device"] for area in areas if area["in_the_clear"] is not False]


def _swap(source: Source, device: str, kind: str) -> Swap:
    name = os.path.basename(os.path.realpath(source.at(device)))
    if kind == "partition" and name.startswith("zram"):
        # zram is memory, unless it writes back to a device (the kernel's blockdev/zram.rst).
        back = _backing(source, name)
        clear = False if back == "none" else _clear(source, _block(source, back))
        return {"device": device, "kind": "zram", "in_the_clear": clear}
    block = _of_file(source, device) if kind == "file" else "/sys/class/block/%s" % name
    return {"device": device, "kind": kind, "in_the_clear": _clear(source, block)}


def _backing(source: Source, name: str) -> str:
    path = "/sys/block/%s/backing_dev" % name
    return (source.word(path) if source.exists(path) else None) or "none"


def _block(source: Source, device: str) -> str:
    return "/sys/class/block/%s" % os.path.basename(os.path.realpath(source.at(device)))


def _of_file(source: Source, path: str) -> Optional[str]:
    """Return the block device of the file system that holds a swap file; btrfs, for one, does not tell."""
    try:
        device = os.stat(source.at(path)).st_dev
    except OSError as problem:
        source.note(path, problem)
        return None
    return "/sys/dev/block/%d:%d" % (os.major(device), os.minor(device))


def _clear(source: Source, block: Optional[str], layers: int = MOST_LAYERS) -> Optional[bool]:
    """Tell whether a block device keeps what is written to it in the clear; None where that cannot be found out.

    dm-crypt says so in its device mapper uuid; other mappings (LVM, say) are as good as all that lies under them.
    """
    if block is None or not source.exists(block) or layers == 0:
        return None
    uuid = source.word(block + "/dm/uuid") if source.exists(block + "/dm/uuid") else ""
    if (uuid or "").startswith(ENCRYPTED):
        return False
    below = source.names(block + "/slaves") if source.exists(block + "/slaves") else []
    if not below:
        return True
    answers = [_clear(source, "/sys/class/block/%s" % name, layers - 1) for name in below]
    return None if None in answers else any(answers)


def read(source: Source, areas: Optional[List[Swap]]) -> Dict[str, Any]:
    """Return the facts of this module (shape: module docstring)."""
    pattern = source.word(PATTERN)
    return {
        "swap_faults": None if areas is None else in_the_clear(areas),
        "core_pattern": pattern,
        "core_faults": None if pattern is None else core_faults(pattern),
        "hibernation_faults": _hibernation(source, areas),
        "kdump_faults": _kdump(source),
    }


def core_faults(pattern: str) -> List[str]:
    """Say what a core handler may have of processes whose limit is 1.

    A file may have nothing, since a core dump needs a page, and the kernel starts no program for it (fs/coredump.c).
    A socket (Linux 6.16) is another matter: nothing says that it heeds the limit.
    """
    return ["kernel.core_pattern is a socket, which need not heed RLIMIT_CORE: %s" % pattern] if pattern.startswith("@") else []


def _hibernation(source: Source, areas: Optional[List[Swap]]) -> Optional[List[str]]:
    """A hibernation writes the whole memory to swap, the memory of units that are never swapped out included."""
    if not source.exists(POWER + "/disk"):
        return []  # this kernel cannot
    modes, states = source.word(POWER + "/disk"), source.word(POWER + "/state")
    if modes is None or states is None:
        return None
    # nohibernate, or lockdown: "[disabled]".
    if "disk" not in states.split() or "[disabled]" in modes:
        return []
    clear = [name for name in in_the_clear(areas) if not name.startswith("/dev/zram")]
    return ["the whole memory could be hibernated to %s, in the clear" % name for name in clear if not _masked(source)]


def _masked(source: Source) -> bool:
    return all(source.link("/etc/systemd/system/%s" % unit) == MASKED for unit in HIBERNATING)


def _kdump(source: Source) -> Optional[List[str]]:
    loaded = "/sys/kernel/kexec_crash_loaded"
    if not source.exists(loaded):
        return []
    state = source.word(loaded)
    if state is None:
        return None
    if state == "0" or kdump_leaves_out_programs(source.optional(KDUMP_TOOLS)):
        return []
    return ["a crash kernel is loaded, and nothing says that its dump leaves out the memory of programs"]


def kdump_leaves_out_programs(settings: Optional[str]) -> bool:
    """Tell whether Debian's kdump-tools, with these settings, writes no page of a program or of the page cache."""
    if not settings:
        return False
    given = re.findall(r"^\s*MAKEDUMP_ARGS=[\"']?(.*?)[\"']?\s*$", settings, re.MULTILINE)
    level = re.search(r"-d\s*(\d+)", given[-1] if given else "-c -d 31")  # kdump-config's own default
    return level is not None and int(level.group(1)) & USER_PAGES == USER_PAGES
