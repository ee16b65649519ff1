# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make bench`: what opening a vault costs beside a bare gocryptfs mount of the same vault, in one run on a booted guest.

Both derive the key from the password alike, so the difference is ours: unsealing, checks, systemd. Exit code 1 when it is
more than LIMIT. On an emulated processor everything takes many times as long, so the table has the start of one process too.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build"
TESTBED = Path(os.environ.get("TESTBED_DIR") or BUILD / "testbed").resolve()
TURNS = 15
LIMIT = 300  # milliseconds


def measure() -> list[tuple[int, int, int]]:
    """(bare mount, opening of the vault, start of a process) in milliseconds, one for each turn."""
    with tempfile.TemporaryDirectory() as place:
        log = Path(place) / "log"
        subprocess.run(
            [str(BUILD / "venv" / "bin" / "ansible-playbook"), "-i", str(TESTBED / "inventory.yml"),
             "-e", f"bench_turns={TURNS}", str(HERE / "vault.yml")],
            check=True, stdout=sys.stderr, env={
                **os.environ, "BENCH_LOG": str(log), "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "callback_plugins"),
                "ANSIBLE_CALLBACKS_ENABLED": "durations", "ANSIBLE_COLLECTIONS_PATH": str(BUILD / "dev")})
        tasks = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    said = next(task["stdout"] for task in tasks if task["name"] == "vault")
    return [tuple(map(int, line.split())) for line in said.splitlines()]  # type: ignore[misc]


def main() -> None:
    """Print the table."""
    bare, opened, process = zip(*measure(), strict=True)
    # Pair by pair: on a busy machine the load changes between the first and the last.
    more = statistics.median(one - other for one, other in zip(opened, bare, strict=True))
    ratio = statistics.median(one / other for one, other in zip(opened, bare, strict=True))
    for name, figure in (("bare gocryptfs mount, median", f"{statistics.median(bare):.0f} ms"),
                         ("opening of the vault, median", f"{statistics.median(opened):.0f} ms"),
                         ("  it takes", f"{ratio:.2f} times as long"),
                         ("start of one process, median", f"{statistics.median(process):.0f} ms")):
        print(f"{name:38} {figure}")
    print(f"{'  more than the bare mount':38} {f'{more:.0f} ms, at most {LIMIT}':28} {'ok' if more <= LIMIT else 'MISSED'}")
    sys.exit(0 if more <= LIMIT else 1)


if __name__ == "__main__":
    main()
