# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two network namespaces joined by a cable: the agents' host, and a world that answers at every address of interest.

Nothing outside the two namespaces is touched; both end with the test. Needs root, iproute2 and nftables.
"""
from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible_collections.cordon.agent_host.plugins.module_utils import _nftables_ruleset

HERE = Path(__file__).parent
MODULE = HERE.parents[2] / "plugins" / "modules" / "nftables_table.py"

# Users that every Debian has. Which of them is an agent is up to the ruleset.
AGENT, OTHER_AGENT, ORDINARY = "games", "news", "backup"
# Who stands in for the users of the two services.
SERVICE_USERS = {"cordon-proxy": "proxy", "cordon-resolver": "www-data"}
SERVICES = {"upstream_proxy": None, "dns_servers": ["10.20.0.2"]}

HOST_ADDRESSES = ("10.20.0.1/24", "2001:db8:20::1/64")
WORLD_ADDRESSES = ("10.20.0.2/24", "10.20.0.3/24", "203.0.113.9/32",
                   "169.254.169.254/32", "168.63.129.16/32", "100.100.100.200/32",
                   "2001:db8:20::2/64", "2001:db8:9::9/128", "fd00:ec2::254/128", "fd20:ce::254/128",
                   "64:ff9b::a9fe:a9fe/128", "2002:a9fe:a9fe::1/128")


def agent(name: str, user: str, *egress: dict[str, Any]) -> dict[str, Any]:
    """What the ruleset needs of a resolved manifest."""
    return {"name": name, "user": user, "egress": list(egress)}


def allow(cidr: str, port: int, protocol: str = "tcp", log: bool = True) -> dict[str, Any]:
    """One resolved entry of an allowlist."""
    return {"cidr": cidr, "port": port, "protocol": protocol, "log": log}


def named(name: str, port: int = 443, protocol: str = "https", log: bool = True) -> dict[str, Any]:
    """One resolved entry by name."""
    return {"name": name, "port": port, "protocol": protocol, "log": log, "inspect": False, "networks": [], "requests": []}


class Network:
    """The namespaces and what runs in them."""

    def __init__(self, directory: Path, collections: Path) -> None:
        self.directory, self.collections = directory, collections
        self.host, self.world = (f"cordon-{side}-{os.getpid()}" for side in ("host", "world"))
        self.children: list[subprocess.Popen[str]] = []

    def build(self) -> None:
        """Lay the cable and start the servers: one in the world, one on the host itself, as root."""
        # The users cannot read this tree, wherever it was checked out.
        self.directory.chmod(0o755)
        (self.directory / "programs.py").write_text((HERE / "programs.py").read_text())
        for name in (self.host, self.world):
            self._ip("netns", "add", name)
            self._ip("-n", name, "link", "set", "lo", "up")
            self._sysctl(name, "net.ipv4.ping_group_range=0 2147483647", "net.ipv4.tcp_fastopen=3",
                         "net.ipv4.ip_unprivileged_port_start=0")
        self._ip("link", "add", "cable", "netns", self.host, "type", "veth",
                 "peer", "name", "cable", "netns", self.world)
        for name, addresses in ((self.host, HOST_ADDRESSES), (self.world, WORLD_ADDRESSES)):
            self._ip("-n", name, "link", "set", "cable", "up")
            for address in addresses:
                nodad = ["nodad"] if ":" in address else []
                self._ip("-n", name, "address", "add", address, "dev", "cable", *nodad)
        for address in ("10.20.0.2", "2001:db8:20::2"):
            self._ip("-n", self.host, "route", "add", "default", "via", address)
        for side in (self.host, self.world):
            self.start("serve", side=side)

    def close(self) -> None:
        """End what was started, then the namespaces."""
        self.end()
        for name in (self.host, self.world):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)

    def end(self, but: int = 0) -> None:
        """End what was started, but for the first so many."""
        for child in self.children[but:]:
            child.kill()
            child.communicate()
        del self.children[but:]

    def start(self, *arguments: str, user: str = "root", side: str | None = None) -> subprocess.Popen[str]:
        """Run a program of programs.py in the background until close(); returns once it said its first word."""
        child = subprocess.Popen(
            self._command(user, side or self.host, *arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.children.append(child)
        assert child.stdout is not None
        child.first = child.stdout.readline().strip()  # type: ignore[attr-defined]
        return child

    def attempts(self, user: str, *wanted: tuple[str, str, int], side: str | None = None) -> list[tuple[str, float]]:
        """Try each (how, address, port) as this user; (outcome, seconds) for each."""
        command = self._command(user, side or self.host, "try", json.dumps(wanted))
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return [(outcome, seconds) for outcome, seconds in json.loads(out)]

    def apply(
        self, *agents: dict[str, Any], check: bool = False, without: str = "", services: dict[str, Any] | None = None,
        metadata_users: list[str] | None = None, environment: dict[str, str] | None = None, **options: Any,
    ) -> dict[str, Any]:
        """Run the module nftables_table on the host, as Ansible would; without a capability of root's if so wished."""
        arguments: dict[str, Any] = {
            "content": _nftables_ruleset.body(agents, services or SERVICES, metadata_users),
            "users": {name: SERVICE_USERS.get(user, user)
                      for name, user in _nftables_ruleset.users(agents, metadata_users).items()},
            "path": str(self.directory / "firewall.nft"),
            "record": str(self.directory / "firewall.json"),
            "pending": str(self.directory / "pending"),
            "_ansible_check_mode": check,
            "_ansible_diff": True,
            **options,
        }
        less = ["setpriv", f"--bounding-set=-{without}", "--"] if without else []
        done = subprocess.run(
            ["ip", "netns", "exec", self.host, *less, sys.executable, str(MODULE)],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}), capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(self.collections), **(environment or {})}, check=False,
        )
        assert done.stdout.strip(), done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def nft(self, *arguments: str, stdin: str | None = None) -> str:
        """Run nft on the host."""
        command = ["ip", "netns", "exec", self.host, "nft", *arguments]
        return subprocess.run(command, input=stdin, check=True, capture_output=True, text=True).stdout

    def forget(self) -> None:
        """Back to a host that was never provisioned, without the module's help."""
        self.nft("-f", "-", stdin="table inet cordon {}\ndelete table inet cordon\n")
        for name in ("firewall.nft", "firewall.json"):
            (self.directory / name).unlink(missing_ok=True)
        shutil.rmtree(self.directory / "pending", ignore_errors=True)

    def counter(self, name: str) -> int:
        """Packets that a counter of our table has seen."""
        data = json.loads(self.nft("-j", "list", "counter", "inet", "cordon", name))
        return int(next(item["counter"]["packets"] for item in data["nftables"] if "counter" in item))

    def _command(self, user: str, side: str, *arguments: str) -> list[str]:
        # Raw sockets too: what the firewall holds must hold without the sandbox's help.
        person = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups",
                  "--inh-caps=+net_raw", "--ambient-caps=+net_raw", "--"] if user != "root" else []
        program = ["/usr/bin/python3", str(self.directory / "programs.py")]
        return ["ip", "netns", "exec", side, *person, *program, *arguments]

    @staticmethod
    def _ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    @staticmethod
    def _sysctl(name: str, *settings: str) -> None:
        subprocess.run(["ip", "netns", "exec", name, "sysctl", "-qw", *settings], check=True, capture_output=True)


@contextlib.contextmanager
def without_rules(network: Network, chain: str, word: str) -> Iterator[None]:
    """The chain without those of its rules that have this word, which must be its last or its first."""
    listed = network.nft("-a", "list", "chain", "inet", "cordon", chain).splitlines()
    rules = [line.strip().split(" # handle ") for line in listed if " # handle " in line and not line.startswith("\tchain")]
    taken = [(rule, handle) for rule, handle in rules if word in rule]
    assert taken
    how = "insert" if word in rules[0][0] else "add"
    for _rule, handle in taken:
        network.nft("delete", "rule", "inet", "cordon", chain, "handle", handle)
    try:
        yield
    finally:
        for rule, _handle in reversed(taken) if how == "insert" else taken:
            network.nft("-f", "-", stdin=f"{how} rule inet cordon {chain} {rule}\n")
