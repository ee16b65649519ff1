# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The resolver on the agents' host of network.py, and a DNS server of the tests' in a namespace of its own.

The server stands on 10.30.0.2, apart from the world: what reaches it is nothing but questions.
"""
from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from typing import Any

import dns.message

from ansible_collections.cordon.agent_host.plugins.module_utils import _egress, _egress_resolver

from .network import AGENT, HERE, ORDINARY, OTHER_AGENT, SERVICE_USERS, Network, agent

REPOSITORY = HERE.parents[2]
SERVER = "10.30.0.2"
PYTHON = "/usr/bin/python3"
RESOLVER_USER = SERVICE_USERS["cordon-resolver"]


def direct(name: str, port: int = 22, protocol: str = "tcp", networks: tuple[str, ...] = ()) -> dict[str, Any]:
    """One resolved entry of a name that the agent resolves itself."""
    return {"name": name, "port": port, "protocol": protocol, "log": True, "inspect": False, "networks": list(networks)}


GIT = agent("git", AGENT, direct("git.example.org"), direct("*.wild.example.org", 8080),
            direct("db.example.org", 5432, networks=("10.20.0.0/24",)), direct("time.example.org", 123, "udp"))
OTHER = agent("other", OTHER_AGENT, direct("other.example.org"))


def without_dns(built: Network) -> None:
    """End the host's own server: it listens on port 53 of all addresses, and no host of agents does."""
    host = built.children.pop(0)
    host.kill()
    host.communicate()


class World:
    """Both servers, and how to ask them."""

    def __init__(self, network: Network) -> None:
        self.network, self.name = network, f"cordon-dns-{os.getpid()}"
        self.directory = network.directory / "resolver"
        self.zone, self.record, self.settings = (self.directory / name for name in ("zone.json", "record", "resolver.json"))
        self.children: list[subprocess.Popen[str]] = []
        self.process: subprocess.Popen[str] | None = None
        self.upstream: subprocess.Popen[str] | None = None
        self.agents = [GIT, OTHER]
        self.addresses = _egress.addresses(self.agents)

    # --- coming and going ---

    def build(self) -> None:
        """The namespace, the table, and both servers."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self._install()
        self._lay_cable()
        self.answer({})
        self.apply()
        self.write_settings()
        self.start_upstream()
        self.start_resolver()

    def close(self) -> None:
        """End what was started."""
        for child in self.children:
            child.kill()
            child.communicate()
        # The cable by itself: a namespace goes some time after it was deleted.
        for command in (["-n", self.network.host, "link", "delete", "dns"], ["netns", "delete", self.name]):
            subprocess.run(["ip", *command], check=False, capture_output=True)

    def _install(self) -> None:
        """The packages as they lie on a host: /usr/lib/cordon/cordon_firewall and /usr/lib/cordon/cordon."""
        library = self.directory / "lib"
        shutil.copytree(REPOSITORY / "roles/firewall/files/cordon_firewall", library / "cordon_firewall",
                        ignore=shutil.ignore_patterns("__pycache__"))
        (library / "cordon").mkdir()
        for name in ("_egress", "_metadata"):
            shutil.copy(REPOSITORY / "plugins/module_utils" / f"{name}.py", library / "cordon")
        (library / "cordon" / "__init__.py").touch()
        shutil.copy(HERE / "resolver_programs.py", self.directory)
        subprocess.run(["chmod", "-R", "a+rX", self.directory], check=True)

    def _lay_cable(self) -> None:
        host = self.network.host
        for command in (
            f"netns add {self.name}",
            f"-n {self.name} link set lo up",
            f"link add dns netns {host} type veth peer name dns netns {self.name}",
            f"-n {host} address add 10.30.0.1/24 dev dns",
            f"-n {self.name} address add {SERVER}/24 dev dns",
            f"-n {host} link set dns up",
            f"-n {self.name} link set dns up",
        ):
            subprocess.run(["ip", *command.split()], check=True, capture_output=True)

    def apply(self) -> None:
        """Load the table for the agents as they are now."""
        result = self.network.apply(*self.agents, services={"upstream_proxy": None, "dns_servers": [SERVER]})
        assert not result.get("failed"), result

    def write_settings(self) -> None:
        """What the role writes."""
        self.settings.write_text(_egress_resolver.text(self.agents, [SERVER]))
        self.settings.chmod(0o644)

    def start_upstream(self) -> None:
        """Have a DNS server that knows the zone."""
        self.record.touch()
        self.upstream = self._start(["ip", "netns", "exec", self.name, PYTHON, str(self.directory / "resolver_programs.py"),
                                     "upstream", SERVER, str(self.zone), str(self.record)])
        assert self.upstream.stdout is not None
        assert self.upstream.stdout.readline() == "ready\n"

    def start_resolver(self, *start: str) -> None:
        """Start it as its unit does: its user, two capabilities; until it says that it is ready."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.settimeout(10)
            path = self.directory / "notify"
            path.unlink(missing_ok=True)
            channel.bind(str(path))
            path.chmod(0o777)
            rights = "+net_admin,+net_bind_service"
            self.log = (self.directory / "journal").open("a+")
            what = start or ("-m", "cordon_firewall.service")
            command = (
                ["ip", "netns", "exec", self.network.host, "setpriv", f"--reuid={RESOLVER_USER}", f"--regid={RESOLVER_USER}",
                 "--clear-groups", "--no-new-privs", f"--inh-caps=-all,{rights}", f"--ambient-caps=-all,{rights}",
                 f"--bounding-set=-all,{rights}", "--", PYTHON, "-B", "-E", *what, str(self.settings)]
            )
            complaints = (self.directory / "complaints").open("a")
            self.process = self._start(command, cwd=self.directory / "lib", stdout=self.log, stderr=complaints,
                                       env={**os.environ, "NOTIFY_SOCKET": str(path)})
            assert channel.recv(100) == b"READY=1"

    def end_resolver(self, number: int = signal.SIGTERM) -> None:
        """End it and wait."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(5)

    def reload(self) -> None:
        """systemctl reload."""
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)
        time.sleep(0.3)

    def _start(self, command: list[str], **more: Any) -> subprocess.Popen[str]:
        child = subprocess.Popen(command, text=True, **{"stdout": subprocess.PIPE, **more})
        self.children.append(child)
        return child

    # --- asking ---

    def exchange(self, user: str, *wanted: dict[str, Any], program: str = "ask") -> list[dict[str, Any]]:
        """Send each {"to", "by", "wire"} as this user."""
        done = subprocess.run(self.command(user, program), input=json.dumps(wanted), check=True, capture_output=True, text=True)
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def command(self, user: str, *arguments: str) -> list[str]:
        """A program of resolver_programs.py on the host, as this user."""
        person = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"]
        program = [PYTHON, str(self.directory / "resolver_programs.py")]
        return ["ip", "netns", "exec", self.network.host, *person, *program, *arguments]

    def ask(self, user: str, to: str, *queries: dns.message.Message, by: str = "udp", **more: Any) -> list[Any]:
        """The answer to each, or the name of an errno."""
        wanted = [{"to": to, "by": by, "wire": query.to_wire().hex(), **more} for query in queries]
        return [dns.message.from_wire(bytes.fromhex(one["wire"])) if one.get("wire") else one.get("error", "closed")
                for one in self.exchange(user, *wanted)]

    def directly(self, *queries: dns.message.Message, by: str = "udp") -> list[Any]:
        """An ordinary user's questions to the DNS server itself."""
        return self.ask(ORDINARY, SERVER, *queries, by=by)

    def agent(self, *queries: dns.message.Message, by: str = "udp", **more: Any) -> list[Any]:
        """The agent's questions, where its resolv.conf sends them."""
        return self.ask(AGENT, self.addresses["git"], *queries, by=by, **more)

    # --- looking ---

    def answer(self, zone: dict[str, Any]) -> None:
        """What the DNS server tells from now on."""
        self.zone.write_text(json.dumps(zone))

    def asked(self) -> list[tuple[str, dns.message.Message]]:
        """(udp or tcp, question) of everything that reached the DNS server since the last call."""
        lines = self.record.read_text().splitlines()
        self.record.write_text("")
        rows = [json.loads(line) for line in lines]
        return [(row["by"], dns.message.from_wire(bytes.fromhex(row["wire"]))) for row in rows]

    def questions(self) -> list[str]:
        """The same as text: "git.example.org. IN A"."""
        return [query.question[0].to_text() for _by, query in self.asked()]

    def elements(self, name: str = "git") -> dict[str, float]:
        """What is open to an agent, and for how many seconds: {"203.0.113.9 . tcp . 22": 119}."""
        found: dict[str, float] = {}
        for version in (4, 6):
            data = json.loads(self.network.nft("-j", "list", "set", "inet", "cordon", f"named{version}_{name}"))
            for item in next(part["set"] for part in data["nftables"] if "set" in part).get("elem", []):
                key = " . ".join(str(part) for part in item["elem"]["val"]["concat"])
                found[key] = item["elem"]["expires"]
        return found

    def lines(self) -> list[dict[str, Any]]:
        """What the resolver wrote for the journal."""
        return [json.loads(line) for line in (self.directory / "journal").read_text().splitlines()]

    def complaints(self) -> str:
        """What it wrote for people so far."""
        return (self.directory / "complaints").read_text()
