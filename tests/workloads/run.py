# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""On the guest: run each agent's script in a session of its own, and tell what came of it and what the kernel refused.

Usage: run.py AGENT...   Prints one JSON object: {"sessions": {AGENT: {"code", "seconds", "output"}}, "records": [...]},
records being the AppArmor records of our profiles since the start, {"time", "verdict", "profile", "operation", "name", "line"}.
Standard library only.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

LOGS = Path("/var/log/audit")
RECORD = re.compile(r'^type=AVC msg=audit\((\d+\.\d+):\d+\): apparmor="(\w+)" (.*profile="?cordon\..*)$')
FIELD = re.compile(r'(\w+)=("[^"]*"|\S+)')


def session(agent: str) -> dict[str, object]:
    """One session. Its script runs all of the agent's steps and goes on after one that fails."""
    begun = time.monotonic()
    argv = ["cordonctl", "run", agent, "--", "/usr/bin/bash", f"/opt/agents/{agent}/work.sh"]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return {
        "code": done.returncode, "seconds": round(time.monotonic() - begun, 1),
        "output": done.stdout.decode(errors="replace"),
    }


def flushed() -> None:
    """Wait until auditd wrote what happened before now: a mark of ours comes after it."""
    mark = f"workloads-{time.time_ns()}"
    subprocess.run(["auditctl", "-m", mark], check=True)
    for _ in range(60):
        if any(mark in path.read_text(errors="replace") for path in LOGS.glob("audit.log*")):
            return
        time.sleep(0.5)
    raise SystemExit("auditd did not write our mark within 30 s: is it running?")


def records(since: float) -> list[dict[str, object]]:
    """AppArmor's records of our profiles, oldest first; the log may have been rotated meanwhile."""
    found = []
    for path in LOGS.glob("audit.log*"):
        for line in path.read_text(errors="replace").splitlines():
            match = RECORD.match(line)
            if match and float(match[1]) >= since:
                fields = {name: value.strip('"') for name, value in FIELD.findall(match[3])}
                found.append({
                    "time": float(match[1]), "verdict": match[2], "profile": fields["profile"],
                    "operation": fields.get("operation", ""), "name": _plain(fields.get("name", "")), "line": line,
                })
    return sorted(found, key=lambda record: record["time"])


def _plain(name: str) -> str:
    """A path; audit writes one with unusual characters in hexadecimal."""
    return bytes.fromhex(name).decode(errors="replace") if re.fullmatch(r"(?:[0-9A-F]{2})+", name) else name


def main(agents: list[str]) -> None:
    """Run the sessions one after the other."""
    begun = time.time()
    sessions = {}
    for agent in agents:
        sessions[agent] = session(agent)
        print(f"{agent}: {sessions[agent]['seconds']} s", file=sys.stderr, flush=True)
    flushed()
    print(json.dumps({"sessions": sessions, "records": records(begun)}))


if __name__ == "__main__":
    main(sys.argv[1:])
