# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""cordon-idle@NAME.service: what of an agent does nothing for `vault.idle` is ended, and its vault closes with the last.

    python3 -m cordon.idle NAME

Looks once a minute at the agent's service and at each of its sessions. One that has used less than BUSY of processor time
since the last look, and at whose terminal nothing was typed, did nothing.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import sys
import time
from typing import Dict, List, Mapping, NamedTuple, Optional

from . import host
from ._manifest_values import duration_seconds

# The hierarchy in which units are: where the kernel's old control groups are in use too it is beside them.
TREES = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
PERIOD = 60.0  # seconds between looks
# Microseconds of processor time between two looks. The timers of a program that waits, such as the pings of an open
# connection, need a few milliseconds a minute; the start of one program needs more.
BUSY = 100_000
TERMINALS = range(136, 144)  # major numbers of /dev/pts (Linux's admin-guide/devices.txt)


class Seen(NamedTuple):
    """What a unit has done so far: processor time in microseconds, and when its terminal was last read from (ns)."""

    used: int
    typed: int


class Patience:
    """Since when each unit has done nothing."""

    def __init__(self) -> None:
        self._last: Dict[str, Seen] = {}
        self._since: Dict[str, float] = {}

    def spent(self, seen: Mapping[str, Seen], now: float, seconds: float) -> List[str]:
        """The units that have done nothing for so many seconds; now: seconds of a clock that nobody sets."""
        for unit, one in seen.items():
            last = self._last.get(unit)
            # Less than before: it has been started again.
            if last is None or not 0 <= one.used - last.used < BUSY or one.typed != last.typed:
                self._since[unit] = now
        self._last = dict(seen)
        self._since = {unit: self._since[unit] for unit in seen}
        return sorted(unit for unit in seen if now - self._since[unit] >= seconds)


def tree() -> str:
    """Where cgroup v2 is; HostError on a host without, on which a unit's processor time is nowhere that we look."""
    for place in TREES:
        if os.path.exists(f"{place}/cgroup.controllers"):
            return place
    raise host.HostError("without cgroup v2 nothing that rests can be told, and vault.idle ends nothing: boot with"
                         " systemd.unified_cgroup_hierarchy=1")


def units(agent: str, slices: Optional[str] = None) -> Dict[str, Seen]:
    """What runs of an agent, by unit."""
    slices = slices or f"{tree()}/cordon.slice"
    ours = re.compile(rf"cordon-(agent@{agent}|session-{agent}-[0-9a-f]+)\.service")
    found = {}
    for place in glob.glob(f"{slices}/cordon-{agent}.slice/*.service"):
        if ours.fullmatch(os.path.basename(place)):
            try:
                found[os.path.basename(place)] = Seen(_used(place), _typed(place))
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENODEV):
                    raise
                # It ended meanwhile, before or after its file was opened.
    return found


def _used(place: str) -> int:
    with open(f"{place}/cpu.stat", encoding="ascii") as file:
        rows: Dict[str, str] = dict(line.split() for line in file)
    return int(rows["usage_usec"])


def _typed(place: str) -> int:
    """When one of its processes last took input from the terminal that is its standard input; 0 without a terminal."""
    with open(f"{place}/cgroup.procs", encoding="ascii") as file:
        return max((_input(pid) for pid in file.read().split()), default=0)


def _input(pid: str) -> int:
    try:
        found = os.stat(f"/proc/{pid}/fd/0")
    except OSError:
        return 0
    # The kernel dates a terminal by what is read from it, to eight seconds (tty_update_time() in drivers/tty/tty_io.c).
    return found.st_atime_ns if os.major(found.st_rdev) in TERMINALS else 0


def end(unit: str, idle: str) -> None:
    """End a unit; one that systemd will not end stays, and is tried again at the next look."""
    code, _out, error = host.run(["systemctl", "stop", "--no-block", unit])
    print(f"{unit} did nothing for {idle}, as vault.idle says: " + ("ended" if code == 0 else f"not ended: {error.strip()}"),
          flush=True)


def limit(name: str) -> str:
    """The vault.idle of the manifest as it is now, "" where it has none any more."""
    return str(host.require(name).get("vault", {}).get("idle") or "")


def watch(name: str) -> None:
    """Look until nothing of the agent is left, or the manifest no longer limits it."""
    patience = Patience()
    while True:
        time.sleep(PERIOD)
        seen = units(name)
        if not seen:
            return
        idle = limit(name)
        if not idle:
            return
        for unit in patience.spent(seen, time.monotonic(), duration_seconds(idle)):
            end(unit, idle)


def main(arguments: List[str]) -> int:
    """idle NAME; exit code 2 where something runs of an agent that this host's manifest does not have, or has none, and on a
    host without cgroup v2."""
    (name,) = arguments
    try:
        watch(name)
    except host.HostError as error:
        print(f"cordon-idle: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
