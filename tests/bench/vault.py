# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make bench`: what opening a vault costs beside a bare gocryptfs mount of the same vault, in turns in one run.

Both derive the key from the password alike, so the difference is ours: unsealing, checks, systemd. On this machine it is
vault-session alone, in a mount namespace of its own (needs root), and there LIMIT holds. On the booted guest it is the whole
unit as systemd opens it; an emulated processor takes ten times as long for everything, so its figures are for comparison.
Exit code 1 when LIMIT is missed. `vault.py here` leaves the guest out.
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
ROOT = HERE.parents[1]
BUILD = ROOT / "build"
TESTBED = Path(os.environ.get("TESTBED_DIR") or BUILD / "testbed").resolve()
TURNS = 15
LIMIT = 300  # milliseconds

Turns = list[tuple[int, ...]]  # (bare mount, opening of the vault, start of a process) in milliseconds


def turns(text: str) -> Turns:
    """What the scripts print."""
    return [tuple(map(int, line.split())) for line in text.splitlines()]


def here() -> Turns:
    """On this machine."""
    session = ROOT / "roles" / "vault" / "files" / "vault-session"
    with tempfile.TemporaryDirectory() as place:
        installed = Path(place) / "vault-session"
        installed.write_bytes(session.read_bytes())
        installed.chmod(0o755)
        argv = ["unshare", "--mount", "bash", str(HERE / "vault_here.sh"), str(installed), str(TURNS)]
        return turns(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout)


def on_the_guest() -> Turns:
    """On the guest of TESTBED_DIR, provisioned with one agent and its vault."""
    with tempfile.TemporaryDirectory() as place:
        log = Path(place) / "log"
        subprocess.run(
            [str(BUILD / "venv" / "bin" / "ansible-playbook"), "-i", str(TESTBED / "inventory.yml"),
             "-e", f"bench_turns={TURNS}", str(HERE / "vault.yml")],
            check=True, stdout=sys.stderr, env={
                **os.environ, "BENCH_LOG": str(log), "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "callback_plugins"),
                "ANSIBLE_CALLBACKS_ENABLED": "durations", "ANSIBLE_COLLECTIONS_PATH": str(BUILD / "dev")})
        tasks = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return turns(next(task["stdout"] for task in tasks if task["name"] == "vault"))


def show(where: str, found: Turns) -> float:
    """Print the figures of one machine, and return the milliseconds that opening takes more than the bare mount."""
    bare, opened, process = zip(*found, strict=True)
    # Pair by pair: on a busy machine the load changes between the first and the last.
    more = statistics.median(one - other for one, other in zip(opened, bare, strict=True))
    ratio = statistics.median(one / other for one, other in zip(opened, bare, strict=True))
    print(f"{where}, medians of {len(found)} turns")
    for name, figure in (("bare gocryptfs mount", f"{statistics.median(bare):.0f} ms"),
                         ("opening of the vault", f"{statistics.median(opened):.0f} ms"),
                         ("  it takes", f"{ratio:.1f} times as long"),
                         ("  more than the bare mount", f"{more:.0f} ms"),
                         ("start of one process", f"{statistics.median(process):.0f} ms")):
        print(f"  {name:36} {figure}")
    return more


def main() -> None:
    """Print the table."""
    more = show("on this machine, vault-session", here())
    print(f"  {'  at most':36} {f'{LIMIT} ms':28} {'ok' if more <= LIMIT else 'MISSED'}")
    if "here" not in sys.argv:
        show("on the guest, cordon-vault@.service", on_the_guest())
    sys.exit(0 if more <= LIMIT else 1)


if __name__ == "__main__":
    main()
