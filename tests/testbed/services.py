# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start and stop the services that guests meet, and write down where they are.

They listen on the host's loopback, which QEMU's user network shows to guests as 10.0.2.2.
"""

from __future__ import annotations

import getpass
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from testbed import guest, process, run, tls, tunnel
from testbed.files import write_atomically
from testbed.show import Failure

ADDRESS = "10.0.2.2"
METADATA = ("http://169.254.169.254/", "http://[fd00:ec2::254]/")
PACKAGES = {"openssl": "openssl", "sshd": "openssh-server"}
_PROCESSES = ("receivers", "tunnel")


def _pid(directory: Path, name: str) -> Path:
    return directory / "services" / f"{name}.pid"


def running(directory: Path) -> bool:
    return all(process.alive(process.load(_pid(directory, name))) for name in _PROCESSES)


def _launch(directory: Path, name: str, argv: list[str], ready: Callable[[], bool]) -> None:
    """Start one service, and wait until it is ready. Raises Failure with its log."""
    home = directory / "services"
    log = home / f"{name}.log"
    record = process.launch(argv, home, log, _pid(directory, name))
    deadline = time.monotonic() + 20
    while not ready():
        if not process.alive(record) or time.monotonic() > deadline:
            raise Failure(run.explain(f"starting the test bed's {name}", log.read_text(errors="replace")))
        time.sleep(0.05)


def _receivers(directory: Path) -> dict[str, int]:
    ports = directory / "services" / "ports.json"
    package = Path(__file__).parent.parent
    argv = ["env", f"PYTHONPATH={package}", sys.executable, "-B", "-m", "testbed.receivers", str(directory)]
    before = ports.stat().st_mtime_ns if ports.exists() else 0
    _launch(directory, "receivers", argv, lambda: ports.exists() and ports.stat().st_mtime_ns != before)
    return dict(json.loads(ports.read_text()))


def _tunnel(directory: Path) -> int:
    port = guest.free_port()
    _launch(directory, "tunnel", tunnel.prepare(directory / "services", port), lambda: guest.answers(port))
    return port


def facts(directory: Path, ports: dict[str, int], tunnel_port: int, user: str) -> dict[str, Any]:
    """The content of services.json. `log` paths are on the host; `guest` says what guests were given."""
    receiver = f"http://{ADDRESS}:{ports['receiver']}"
    return {
        "address": ADDRESS,
        "ca_file": str(directory / "services" / "ca.crt"),
        "https": {"url": f"https://{ADDRESS}:{ports['https']}/", "port": ports["https"],
                  "log": str(directory / "https.jsonl")},
        "off_allowlist": {"url": f"http://{ADDRESS}:{ports['off_allowlist']}/", "port": ports["off_allowlist"],
                          "log": str(directory / "off_allowlist.jsonl")},
        "tunnel": {"port": tunnel_port, "user": user, "key_file": str(directory / "services" / "tunnel_key"),
                   "log": str(directory / "services" / "tunnel.log")},
        "webhook": {"url": f"{receiver}/webhook", "port": ports["receiver"], "log": str(directory / "webhook.jsonl")},
        "heartbeat": {"url": f"{receiver}/heartbeat", "port": ports["receiver"],
                      "log": str(directory / "heartbeat.jsonl")},
        "guest": {"user": "alice", "ca_file": "/srv/testbed/ca.crt", "tunnel_key": "/srv/testbed/tunnel_key",
                  "facts": "/srv/testbed/services.json", "metadata": list(METADATA)},
    }


def start(directory: Path) -> None:
    """Bring the services up unless they are, and write services.json."""
    if running(directory):
        return
    stop(directory)
    tls.make(directory / "services", [ADDRESS, "127.0.0.1"])
    for log in ("https", "off_allowlist", "webhook", "heartbeat"):
        (directory / f"{log}.jsonl").touch()
    ports = _receivers(directory)
    known = facts(directory, ports, _tunnel(directory), getpass.getuser())
    write_atomically(directory / "services.json", json.dumps(known, indent=2) + "\n")


def stop(directory: Path) -> bool:
    """End the services. True if any ran."""
    return sum(process.end(process.load(_pid(directory, name))) for name in _PROCESSES) > 0
