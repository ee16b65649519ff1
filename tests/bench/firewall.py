# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the packet filter costs: an agent's traffic through our table, as a ratio to the same without it.

Two network namespaces, as in tests/integration/firewall; needs root. The table is that of ten agents with fifty entries
each. Turns with and without it alternate, so that whatever else the machine does falls on both; each figure is the
median of its turns. Our table makes the kernel track connections; where ufw, firewalld or Docker is, it does so anyway,
so there is a second ratio, to a host that tracks and filters nothing. `python -B tests/bench/firewall.py`
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "unit"), str(ROOT)]
import conftest

from tests.integration.firewall.network import AGENT, Network, agent, allow, named

TURNS, SECONDS = 7, 1.0
NOTHING, TRACKED, OURS = "nothing", "tracked", "ours"
TRACKING = "table inet tracking { chain output { type filter hook output priority 0; ct state invalid counter; }; }"
USERS = (AGENT, "news", "daemon", "bin", "sys", "man", "lp", "mail", "uucp", "list")
GRANTED, BY_NAME = "10.20.0.2", "203.0.113.9"
PORT = 7000

# Both ends come by -c: the agent's user cannot read this tree.
SINK = f"""
import socket, threading
def stream():
    server = socket.socket(); server.bind(("", {PORT})); server.listen(5); buffer = bytearray(1 << 20)
    while True:
        connection = server.accept()[0]
        while connection.recv_into(buffer): pass
threading.Thread(target=stream, daemon=True).start()
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); datagrams.bind(("", {PORT}))
print("ready", flush=True)
while True: datagrams.recv(100)
"""
SEND = f"""
import socket, sys, time
how, address = sys.argv[1:]
kind, block = (socket.SOCK_STREAM, bytes(1 << 17)) if how == "tcp" else (socket.SOCK_DGRAM, bytes(64))
sock = socket.socket(socket.AF_INET, kind); sock.connect((address, {PORT}))
sent, end = 0, time.monotonic() + {SECONDS}
while time.monotonic() < end:
    for _ in range(8 if how == "tcp" else 64):
        sent += sock.send(block) if how == "tcp" else bool(sock.send(block))
print(sent / {SECONDS})
"""


def entries(first: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """Fifty entries of one agent."""
    return first + [allow(f"10.{number}.{port}.0/24", 1000 + port) for port in range(25)] + [
        named(f"host{port}.example.org", 22, "tcp") for port in range(25 - len(first))]


def table(network: Network) -> float:
    """Load the table, and stand in for the resolver; the seconds of the load."""
    mine = [allow(f"{GRANTED}/32", PORT), allow(f"{GRANTED}/32", PORT, "udp"), named("sink.example.org", PORT, "tcp")]
    agents = [agent(f"a{number}", user, *entries(mine if user == AGENT else [], number))
              for number, user in enumerate(USERS)]
    started = time.monotonic()
    done = network.apply(*agents)
    seconds = time.monotonic() - started
    assert done.get("changed"), done
    for protocol in ("tcp", "udp"):
        network.nft("add", "element", "inet", "cordon", "named4_a0", f"{{ {BY_NAME} . {protocol} . {PORT} timeout 1h }}")
    return seconds


def rate(network: Network, how: str, address: str) -> float:
    """Bytes (tcp) or datagrams (udp) a second that the agent's user gets rid of."""
    command = ["ip", "netns", "exec", network.host, "setpriv", f"--reuid={AGENT}", f"--regid={AGENT}", "--clear-groups", "--"]
    done = subprocess.run([*command, "/usr/bin/python3", "-c", SEND, how, address], check=True, capture_output=True, text=True)
    return float(done.stdout)


def measure(network: Network) -> None:
    """Print the figures."""
    ways = [(how, address) for how in ("tcp", "udp") for address in (GRANTED, BY_NAME)]
    rates: dict[tuple[str, str, str], list[float]] = {}
    loads = []
    for _turn in range(TURNS):
        for what in (NOTHING, TRACKED, OURS):
            network.forget()
            network.nft("-f", "-", stdin="table inet tracking {}\ndelete table inet tracking\n")
            if what == TRACKED:
                network.nft("-f", "-", stdin=TRACKING)
            if what == OURS:
                loads.append(table(network))
            for how, address in ways:
                rates.setdefault((how, address, what), []).append(rate(network, how, address))
    print(f"500 entries of 10 agents, loaded by one call of the module: {statistics.median(loads):.2f} s")
    for how, address in ways:
        nothing, tracked, ours = (statistics.median(rates[how, address, what]) for what in (NOTHING, TRACKED, OURS))
        unit, scale = ("MB/s", 1e6) if how == "tcp" else ("thousand datagrams of 64 bytes a second", 1e3)
        by = "by address" if address == GRANTED else "by name"
        print(f"{how}, granted {by}: {ours / nothing:.2f} of what it is without any table, {ours / tracked:.2f} of what it is "
              f"with connection tracking alone ({ours / scale:.0f}, {nothing / scale:.0f}, {tracked / scale:.0f} {unit})")


def main() -> None:
    """Build the namespaces, measure, and take them down."""
    with tempfile.TemporaryDirectory(prefix="cordon-bench-") as directory:
        network = Network(Path(directory), conftest.collection_root())
        sink = None
        try:
            network.build()
            sink = subprocess.Popen(["ip", "netns", "exec", network.world, "/usr/bin/python3", "-c", SINK],
                                    stdout=subprocess.PIPE, text=True)
            assert sink.stdout is not None
            sink.stdout.readline()
            measure(network)
        finally:
            if sink is not None:
                sink.kill()
                sink.wait()
            network.close()


if __name__ == "__main__":
    main()
