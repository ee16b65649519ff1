# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of processes: under which label does each process of an agent's user really run?

A list of
    {pid, user, program, label, mode, profiles, no_new_privs, seccomp, capabilities, cgroup}
for every process whose real, effective, saved or filesystem uid is an agent's. `mode` is the
kernel's word for the whole label: enforce, complain, kill, or mixed when the layers differ; null
for an unconfined process. `profiles` are the layers without the kernel's //null- children.
Arguments are left out: they hold what people type, passwords included.
"""

from __future__ import annotations

import time
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ._facts_source import Source

# Between systemd's setting of the user and its exec, and between the first exec (the cage) and the second
# (the inner profile), a starting process is rightly not yet where it belongs: it is looked at twice.
SETTLE_SECONDS = 0.3
ENDED = ("Z", "X")
STATUS_KEYS = {"NoNewPrivs": "no_new_privs", "Seccomp": "seccomp", "CapBnd": "capabilities"}


def read(source: Source, uids: Mapping[int, str]) -> Optional[List[Dict[str, Any]]]:
    """Return the processes of these uids, sorted by pid; null when /proc cannot be read."""
    names = source.names("/proc")
    if names is None:
        return None
    pids = sorted(int(name) for name in names if name.isdigit())
    found = {pid: _process(source, pid, uids) for pid in pids} if uids else {}
    arriving = [pid for pid, process in found.items() if process and len(process["profiles"]) < 2]
    if arriving:
        time.sleep(SETTLE_SECONDS)
        found.update((pid, _process(source, pid, uids)) for pid in arriving)
    return [process for process in found.values() if process is not None]


def _process(source: Source, pid: int, uids: Mapping[int, str]) -> Optional[Dict[str, Any]]:
    """Return one process; None when it is not an agent's, has ended, or ended while it was read."""
    status = source.text("/proc/%d/status" % pid, noted=False) or ""
    # A host has hundreds of processes that are nobody's business here: take apart only those that are.
    user = next((uids[uid] for uid in owners(status) if uid in uids), None)
    if user is None:
        return None
    fields = parse_status(status)
    if ended(status):
        return None
    label, mode = split_label(label_of(source, pid))
    if label is None and not source.exists("/proc/%d/status" % pid):
        return None
    return {
        "pid": pid, "user": user, "program": source.link("/proc/%d/exe" % pid) or fields["name"],
        "label": label, "mode": mode, "profiles": profiles(label),
        "no_new_privs": fields["no_new_privs"], "seccomp": fields["seccomp"], "capabilities": fields["capabilities"],
        "cgroup": _cgroup(source.text("/proc/%d/cgroup" % pid, noted=False)),
    }


def label_of(source: Source, pid: int) -> Optional[str]:
    """attr/current belongs to whichever module is first; attr/apparmor/ is AppArmor's own (5.8+)."""
    for path in ("/proc/%d/attr/apparmor/current" % pid, "/proc/%d/attr/current" % pid):
        text = source.text(path, noted=False)
        if text:
            return text.strip().strip("\0")
    return None


def owners(text: str) -> List[int]:
    """Return the real, effective, saved and filesystem uid in a process's status."""
    line = text.partition("\nUid:")[2].partition("\n")[0]
    return [int(word) for word in line.split()]


def ended(text: str) -> bool:
    """Tell by its status whether nothing of a process runs any more.

    A process whose first thread alone has ended is called a zombie as well, and its other threads run on.
    """
    rows = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return rows.get("State", "").strip()[:1] in ENDED and int(rows.get("Threads", 1)) <= 1


def parse_status(text: str) -> Dict[str, Any]:
    """Return name, state and the security fields of a process's status."""
    rows = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    fields: Dict[str, Any] = {
        "name": rows.get("Name", "").strip(), "state": rows.get("State", "").strip()[:1],
    }
    for key, name in STATUS_KEYS.items():
        fields[name] = rows[key].strip() if key in rows else None
    for name in ("no_new_privs", "seccomp"):
        fields[name] = int(fields[name]) if fields[name] is not None else None
    return fields


def split_label(text: Optional[str]) -> Tuple[Optional[str], Optional[str]]:
    """Return (label, mode) of `cordon.a//&cordon.a.main (mixed)`; unconfined has no mode."""
    if not text:
        return None, None
    label, separator, rest = text.rpartition(" (")
    return (label, rest.rstrip(")")) if separator and rest.endswith(")") else (text, None)


def profiles(label: Optional[str]) -> List[str]:
    """Return the layers of a stacked label.

    In complain mode a program without a rule runs in a child named PROFILE//null-PATH; it is
    counted as PROFILE, whose complaint it is.
    """
    return [] if label is None else [part.partition("//null-")[0] for part in label.split("//&")]


def _cgroup(text: Optional[str]) -> Optional[str]:
    for line in (text or "").splitlines():
        if line.startswith("0::"):
            return line[3:]
    return None
