# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of an agent's limits, in the units that the manifest's readers think in.

    {source, cpu_percent, memory_bytes, swap_bytes, tasks}
source is `kernel` (the slice's control group, while anything runs in it) or `systemd` (what the
slice will get: no control group exists while the agent is idle). null means no limit or not read.
"""

from __future__ import annotations

import re
import resource
from typing import Any, Dict, Mapping, Optional

from ._facts_source import Source
from ._facts_units import Units, slice_unit, span_us

CGROUPS = "/sys/fs/cgroup"
SUFFIXES = {"": 1, "K": 2 ** 10, "M": 2 ** 20, "G": 2 ** 30, "T": 2 ** 40}


def read(source: Source, units: Units, agent: str) -> Optional[Dict[str, Any]]:
    """Return the limits in force (shape: module docstring); null when systemd gave no answer."""
    unit = (units or {}).get(slice_unit(agent))
    if unit is None:
        return None
    path = CGROUPS + unit.get("ControlGroup", "")
    if unit.get("ActiveState") == "active" and unit.get("ControlGroup"):
        return dict({"source": "kernel"}, **_of_kernel(source, path))
    return dict({"source": "systemd"}, **of_systemd(unit))


def _of_kernel(source: Source, path: str) -> Dict[str, Optional[int]]:
    return {
        "cpu_percent": quota_percent(source.word(path + "/cpu.max")),
        "memory_bytes": whole_pages(number(source.word(path + "/memory.max"))),
        "swap_bytes": number(source.word(path + "/memory.swap.max")),
        "tasks": number(source.word(path + "/pids.max")),
    }


def of_systemd(unit: Mapping[str, str]) -> Dict[str, Optional[int]]:
    """Return the limits that `systemctl show` gives for a slice."""
    quota = span_us(unit.get("CPUQuotaPerSecUSec"))
    return {
        "cpu_percent": None if quota is None else round(quota / 10 ** 4),
        "memory_bytes": whole_pages(number(unit.get("MemoryMax"))),
        "swap_bytes": number(unit.get("MemorySwapMax")),
        "tasks": number(unit.get("TasksMax")),
    }


def wanted(limits: Mapping[str, Any]) -> Dict[str, Optional[int]]:
    """Return the same for a manifest's limits, e.g. {cpu: "200%", memory: "4G", tasks: 512}."""
    return {"cpu_percent": number(str(limits["cpu"]).rstrip("%")),
            "memory_bytes": whole_pages(size(str(limits["memory"]))),
            "swap_bytes": 0, "tasks": int(limits["tasks"])}


def quota_percent(text: Optional[str]) -> Optional[int]:
    """Return the per cent of one CPU in cgroup v2's cpu.max (`QUOTA PERIOD`); null for `max`."""
    words = (text or "").split()
    if len(words) != 2 or not words[0].isdigit() or not words[1].isdigit():
        return None
    return round(100 * int(words[0]) / int(words[1]))


def size(text: str) -> Optional[int]:
    """Return the bytes of systemd's sizes, powers of 1024 (systemd.resource-control(5))."""
    found = re.match(r"^([0-9]+)([KMGT]?)$", text)
    return int(found.group(1)) * SUFFIXES[found.group(2)] if found else None


def number(text: Optional[str]) -> Optional[int]:
    """Return a whole number; null for max, infinity and what is no number."""
    return int(text) if text is not None and text.isdigit() else None


def whole_pages(count: Optional[int]) -> Optional[int]:
    """The kernel rounds memory.max down to whole pages; compare like with like."""
    page = resource.getpagesize()
    return None if count is None else count // page * page
