# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tour: each act tried by an ordinary user and by the agent, and the line it left in the event log."""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from acts import AGENT, Act, Event, acts

USER = "alice"
PATIENCE = 30  # seconds for the last event to reach the log
WIDEST = 90  # characters of a log line in the table
KEYS = {
    "user": {"KEY": f"/home/{USER}/.ssh/tunnel_key", "CA": "/srv/testbed/ca.crt"},
    "agent": {"KEY": "/srv/scout/tunnel_key", "CA": "/srv/scout/ca.crt"},
}


class Guest:
    """One guest, reached by ssh."""

    def __init__(self, testbed: Path, name: str = "agenthost-1") -> None:
        self.testbed, self.name = testbed, name

    def ssh(self, command: str, user: str = "root") -> subprocess.CompletedProcess[str]:
        """Run a command in the guest; exit code and output."""
        argv = ["ssh", "-F", str(self.testbed / "ssh_config"), "-l", user, self.name, command]
        return subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=120, check=False)

    def clock(self) -> str:
        """The guest's time, UTC, as events have it."""
        return self.ssh("date -u +%Y-%m-%dT%H:%M:%S").stdout.strip()

    def events(self, since: str) -> list[Event]:
        """The agent's events since a guest's time."""
        out = self.ssh(f"cordonctl events {AGENT} --since {since} --json").stdout
        return [json.loads(line) for line in out.splitlines()]


def _shell(command: str, who: str) -> str:
    """The command for a shell of one of the two, with the paths that differ between them."""
    given = "".join(f"{name}={value}; " for name, value in KEYS[who].items())
    return f"bash -c {shlex.quote(given + command)}"


def try_out(guest: Guest, act: Act) -> tuple[bool, bool]:
    """Whether the ordinary user and the agent succeeded."""
    user = guest.ssh(_shell(act.command, "user"), USER)
    agent = guest.ssh(f"cordonctl run {AGENT} -- {_shell(act.command, 'agent')}")
    return user.returncode == 0, agent.returncode == 0


def traces(guest: Guest, since: str, wanted: list[Act]) -> dict[str, Event]:
    """The event of each act, by title; waits until all are there or patience ends."""
    deadline = time.monotonic() + PATIENCE
    while True:
        events = guest.events(since)
        found = {act.title: event for act in wanted for event in events if act.trace(event)}
        if len(found) == len(wanted) or time.monotonic() > deadline:
            return found
        time.sleep(2)


def line(event: Event | None) -> str:
    """An event in a few words."""
    if event is None:
        return "NONE SEEN"
    if event["kind"] == "connection":
        what = f"{event['address']} port {event['port']}"
    else:
        what = " ".join(event.get("argv") or []) or event.get("path")
    why = event.get("reason") or event.get("program") or event.get("source")
    text = f"{event['kind']} {event['outcome']}: {what} ({why})"
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def judged(could: bool, should: bool) -> str:
    """One cell of the table."""
    return ("can" if could else "refused") + ("" if could == should else "  <-- WRONG")


def rows(guest: Guest, wanted: list[Act]) -> list[list[str]]:
    """Try everything; a row for each act."""
    since = guest.clock()
    results = {act.title: try_out(guest, act) for act in wanted}
    seen = traces(guest, since, wanted)
    return [
        [
            act.title,
            judged(results[act.title][0], act.user_can),
            judged(results[act.title][1], act.agent_can),
            line(seen.get(act.title)),
        ]
        for act in wanted
    ]


def show(head: list[str], body: list[list[str]]) -> None:
    """Print a table."""
    widths = [max(len(row[column]) for row in [head, *body]) for column in range(len(head))]
    for row in [head, ["-" * width for width in widths], *body]:
        print("  " + "  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip())


def honest_work(guest: Guest, services: dict[str, Any]) -> list[list[str]]:
    """What the sample agent did since it was started: the event of each kind of act, and the service's own log."""
    events = guest.events("1970-01-01")
    kinds = {
        "reads its secret": lambda event: event["kind"] == "secret" and event["outcome"] == "allowed",
        "calls the allowed service": lambda event: event["kind"] == "connection" and event["outcome"] == "allowed",
        "commits to git": lambda event: event["kind"] == "process" and "commit" in (event.get("argv") or []),
    }
    body = [[name, line(next((event for event in events if test(event)), None))] for name, test in kinds.items()]
    answered = Path(services["https"]["log"]).read_text(encoding="utf-8").splitlines()
    return [*body, ["the service's log", f"{len(answered)} requests answered" if answered else "NONE SEEN"]]


def prepare(guest: Guest) -> None:
    """Let the ordinary user log in with the guest's key, so that she has a real session with her own services."""
    done = guest.ssh(
        f"install -m 0600 -o {USER} -g {USER} /root/.ssh/authorized_keys /home/{USER}/.ssh/authorized_keys"
    )
    if done.returncode != 0:
        raise RuntimeError(f"the tour cannot let {USER} log in: {done.stderr.strip()}")


def run(testbed: Path) -> bool:
    """Give the tour; False when anything was not as it should be."""
    services = json.loads((testbed / "services.json").read_text(encoding="utf-8"))
    guest = Guest(testbed)
    prepare(guest)
    print(f"\nWhat an ordinary user can do on this host, and what the agent {AGENT} can ({_now()}):\n")
    attempts = rows(guest, acts(services))
    show(["ACT", "ORDINARY USER", "AGENT", "LOG LINE SEEN"], attempts)
    print(f"\nHonest work of {AGENT} meanwhile, from the event log:\n")
    work = honest_work(guest, services)
    show(["ACT", "LOG LINE SEEN"], work)
    print("\ncordonctl status:\n")
    print(guest.ssh("cordonctl status").stdout)
    return not any(mark in cell for row in attempts + work for cell in row for mark in ("WRONG", "NONE SEEN"))


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
