# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Interactive work as an agent: the same confinement as its service, in a unit of its own.

The unit is transient and named cordon-session-NAME-ID.service; systemd gives it the drop-ins of
cordon-session-NAME-.service.d (systemd.unit(5)), and entry refuses to go on without their label.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import Iterator, List

from . import host, unlock

ENTRY = ["/usr/bin/env", "--", "/usr/lib/cordon/entry"]
CLOSES_WITHIN = 60.0  # seconds; TimeoutStopSec= of the vault's unit is 30
# Seconds that a vault is kept open for a session that is about to need it, should nobody be left to end that.
KEPT_FOR = 15


def unit(agent: str) -> str:
    """A fresh unit name for a session."""
    return f"cordon-session-{agent}-{secrets.token_hex(4)}.service"


def argv(agent: str, name: str, command: List[str], terminal: bool) -> List[str]:
    """The systemd-run call of a session; with its own pseudo-terminal where there is a terminal.

    A pty of its own keeps the agent from pushing input into the operator's (TIOCSTI, peers.md S-18).
    """
    return [
        "systemd-run",
        "--quiet",
        "--collect",
        "--wait",
        "--pty" if terminal else "--pipe",
        "--service-type=exec",
        f"--unit={name}",
        f"--description=Session of AI agent {agent}",
        *([f"--setenv=TERM={os.environ.get('TERM', 'dumb')}"] if terminal else []),
        "--",
        *ENTRY,
        f"--unit={name}",
        *command,
    ]


def run(agent: str, command: List[str], terminal: bool) -> int:
    """Run a command in a session and return its exit code; an interrupt ends the session."""
    name = unit(agent)
    if unlock.states().get(agent) == "locked":
        print(f"cordonctl: waiting: the vault of agent {agent} is locked; open it by: cordonctl unlock {agent}", file=sys.stderr)
    try:
        with _vault_needed(agent, name):
            code = subprocess.run(argv(agent, name, command, terminal), check=False).returncode
    except KeyboardInterrupt:
        subprocess.run(["systemctl", "stop", name], check=False)
        return 130
    return code or _not_started(agent)


@contextmanager
def _vault_needed(agent: str, name: str) -> Iterator[None]:
    """Have the vault open, and not close, until the session needs it by itself.

    systemd refuses a transient unit that needs what has just begun to close, and systemd-run asks for no other job mode
    (systemctl(1), --job-mode=): seen for one of twelve sessions that followed each other at once. A unit that does
    nothing can be tried again; the agent's command cannot, for it might have run.
    """
    keeper, vault = name.replace("cordon-session-", "cordon-vault-wait-"), f"cordon-vault@{agent}.service"
    until = time.monotonic() + CLOSES_WITHIN
    while True:
        code, _out, error = host.run(
            ["systemd-run", "--quiet", "--collect", "--no-block", f"--unit={keeper}", "--service-type=exec",
             f"--property=BindsTo={vault}", f"--property=After={vault}", "--", "/bin/sleep", str(KEPT_FOR)])  # fmt: skip
        if code == 0 or "is destructive" not in error or time.monotonic() > until:
            break
        time.sleep(0.1)
    try:
        yield  # refused for another reason, the session is too, and says so
    finally:
        host.run(["systemctl", "stop", "--no-block", keeper])


def _not_started(agent: str) -> int:
    """1, and why, where what the session requires did not start: systemd-run --wait then says success (seen with 252)."""
    vault = f"cordon-vault@{agent}.service"
    if subprocess.run(["systemctl", "--quiet", "is-failed", vault], check=False).returncode == 0:
        print(f"cordonctl: the session did not start, because the vault of agent {agent} could not be opened: see"
              f" 'journalctl -u {vault} -n 20'", file=sys.stderr)
        return 1
    if subprocess.run(["systemctl", "--quiet", "is-active", "cordon-firewall.service"], check=False).returncode != 0:
        print("cordonctl: the session did not start, because the packet filter did not: see"
              " 'journalctl -u cordon-firewall -n 20'", file=sys.stderr)
        return 1
    return 0


def shell(agent: str) -> int:
    """Open a shell as the agent. It reads no start-up files: nothing that the agent wrote runs first."""
    if not sys.stdin.isatty():
        print(
            f"cordonctl: standard input is no terminal; use 'ssh -t', or: cordonctl run {agent} -- COMMAND",
            file=sys.stderr,
        )
        return 2
    return run(agent, ["/bin/bash", "--noprofile", "--norc", "-i"], terminal=True)
