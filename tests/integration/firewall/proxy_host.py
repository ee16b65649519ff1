# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""squid as the role would run it, on the host of network.py, behind the packet filter that the manifest makes."""
from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from ansible_collections.cordon.agent_host.plugins.module_utils import (
    _egress,
    _egress_proxy,
    _egress_proxy_log,
)

from .network import SERVICE_USERS, SERVICES, Network

HERE = Path(__file__).parent
FILES = HERE.parents[2] / "roles" / "firewall" / "files"
SHARED = HERE.parents[2] / "plugins" / "module_utils"
USER = SERVICE_USERS["cordon-proxy"]
WORLD, PORT = "203.0.113.9", 8443
# A private address of the same world, and the names that lead there.
INSIDE = "10.20.0.3"
NAMES_INSIDE = ("private.test", "a.inside.test", "b.inside.test")
NAMES = ("allowed.test", "second.test", "denied.test", "seen.test", "twin.test", "untrusted.test", "a.wild.test", *NAMES_INSIDE)


class ProxyHost:
    """The network with a proxy on it, its certificates, and what it logged."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.root = network.directory / "proxy"
        self.config, self.state, self.run = (self.root / name for name in ("config", "state", "run"))
        self.squid: subprocess.Popen[str] | None = None
        self.children: list[subprocess.Popen[str]] = []
        self.places = _egress_proxy.Places(
            runtime=str(self.run), certificate=str(self.state / "authority.pem"), key=str(self.state / "authority.key"),
            internal=str(self.config / "internal-ca.pem"), errors=str(self.config / "errors"),
            same_name=str(self.root / "proxy_same_name.py"), requests=str(self.root / "proxy_requests.py"),
            granted=str(self.config / "requests.json"), log=str(self.run / "proxy.log"),
            brokered=str(self.root / "brokered"),
        )

    # --- what is there -------------------------------------------------------------------------------

    def build(self) -> None:
        """Certificates, names and servers; no proxy yet."""
        for path in (self.config / "errors", self.state, self.run, self.root / "world"):
            path.mkdir(parents=True, exist_ok=True)
        os.chown(self.run, *pwd.getpwnam(USER)[2:4])
        for source in (HERE / "proxy_programs.py", *FILES.glob("proxy_*.py")):
            (self.root / source.name).write_text(source.read_text())
        shutil.copytree(SHARED, self.root / "cordon", dirs_exist_ok=True)
        self._world()
        for name, text in _egress_proxy.errors().items():
            (self.config / "errors" / name).write_text(text)
        addresses = {**dict.fromkeys((*NAMES, "closed.test"), WORLD), **dict.fromkeys(NAMES_INSIDE, INSIDE),
                     "metadata.test": "169.254.169.254", "loop.test": "127.0.0.1"}
        self._start(self.network.host, SERVICE_USERS["cordon-resolver"], "dns", json.dumps(addresses))
        for address in (WORLD, INSIDE):
            self._start(self.network.world, "root", "tls", str(self.root / "world"), address, str(PORT))

    def _world(self) -> None:
        """A company's authority that signs for the world, and one host that nobody signed for."""
        world, ca = self.root / "world", self.config / "internal-ca.pem"
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        self.openssl("req", "-x509", *curve, "-keyout", str(self.root / "ca.key"), "-out", str(ca), "-subj", "/CN=Company")
        for name in NAMES:
            key, request, out = (str(world / f"{name}.{end}") for end in ("key", "csr", "pem"))
            # Two inspected names on one certificate, as behind a big network: the server would answer for either.
            also = ",DNS:twin.test" if name == "seen.test" else ",DNS:seen.test" if name == "twin.test" else ""
            self.openssl("req", *curve, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
            extension = world / "extension"
            extension.write_text(f"subjectAltName=DNS:{name}{also},DNS:elsewhere.example\n")
            signer = ["-signkey", key] if name == "untrusted.test" else ["-CA", str(ca), "-CAkey", str(self.root / "ca.key")]
            self.openssl("x509", "-req", "-in", request, *signer, "-CAcreateserial", "-out", out, "-extfile", str(extension))

    @staticmethod
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)

    def text(self, *agents: dict[str, Any], upstream: dict[str, Any] | None = None) -> str:
        """The configuration, with its messages in a file: a namespace has no journal."""
        rendered = _egress_proxy.config(agents, upstream, True, self.places)
        return rendered.replace("cache_log /dev/null", f"cache_log {self.run}/messages")

    def install(self, *agents: dict[str, Any], upstream: dict[str, Any] | None = None) -> None:
        """What the role does: the table, then the files."""
        result = self.network.apply(*agents, services={**SERVICES, "upstream_proxy": upstream})
        assert not result.get("failed"), result
        if not upstream:
            for address in (WORLD, INSIDE, "169.254.169.254"):
                element = f"{{ {address} . tcp . {PORT} timeout 1h }}"
                self.network.nft("add", "element", "inet", "cordon", "named4__proxy", element)
        (self.config / "squid.conf").write_text(self.text(*agents, upstream=upstream))
        (self.config / "requests.json").write_text(_egress_proxy.requests(agents))
        (self.config / "authority.json").write_text(json.dumps({"names": _egress_proxy.inspected(agents)}))
        subprocess.run(["/usr/bin/python3", str(FILES / "proxy_authority.py"), str(self.config), str(self.state),
                        str(self.config), "/etc/ssl/certs/ca-certificates.crt", USER], check=True)

    # --- the proxy ------------------------------------------------------------------------------------

    def start(self) -> None:
        """As cordon-proxy.service does."""
        subprocess.run(["rm", "-rf", str(self.run / "certificates")], check=True)
        self._as_proxy("/usr/lib/squid/security_file_certgen", "-c", "-s", str(self.run / "certificates"), "-M", "4MB")
        self._reloader("shutil.copyfile(p.WANTED, p.RUNNING)")
        command = self._command(self.network.host, USER, "/usr/sbin/squid", "--foreground", "-f", str(self.config / "squid.conf"))
        self.squid = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
        self.wait()

    def wait(self) -> None:
        """Until the proxy answers with the configuration that is on disk."""
        self._reloader("[time.sleep(0.05) for _ in range(400) if p.digest(p.read(p.WANTED)) not in p.state()]")

    def reload(self, before: str = "") -> None:
        """What ExecReload= does; before: a statement that comes first."""
        assert self.squid
        self._reloader(f"{before}p.apply({self.parent()})")

    def parent(self) -> int:
        """squid's main process: what is started here becomes it by exec."""
        assert self.squid
        return self.squid.pid

    def stop(self) -> None:
        """End squid and all that it started."""
        if self.squid:
            workers = self.family()[1:]
            self.squid.terminate()
            self.squid.wait(20)
            self.squid = None
            # As systemd does (KillMode=mixed): a worker that is still starting outlives its parent.
            for pid in workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def family(self) -> list[int]:
        """squid's main process and its workers."""
        with contextlib.suppress(FileNotFoundError), open(f"/proc/{self.parent()}/task/{self.parent()}/children") as file:
            return [self.parent(), *map(int, file.read().split())]
        return [self.parent()]

    def close(self) -> None:
        """End everything."""
        self.stop()
        for child in self.children:
            child.kill()
            child.communicate()

    def _reloader(self, statement: str) -> None:
        code = (f"import sys, shutil, time; sys.path.insert(0, {str(FILES)!r}); import proxy_reload as p; "
                f"p.WANTED, p.RUNNING = {str(self.config / 'squid.conf')!r}, {str(self.root / 'running.conf')!r}; {statement}")
        subprocess.run(["ip", "netns", "exec", self.network.host, "/usr/bin/python3", "-B", "-c", code], check=True, timeout=40)

    def _as_proxy(self, *command: str) -> None:
        subprocess.run(self._command(self.network.host, USER, *command), check=True, capture_output=True)

    # --- those who use it -----------------------------------------------------------------------------

    def tries(self, user: str, *wanted: dict[str, Any], side: str = "") -> list[dict[str, Any]]:
        """See attempt() of proxy_programs.py."""
        done = subprocess.run(self._program(side or self.network.host, user, "try", json.dumps(wanted)),
                              check=True, capture_output=True, text=True)
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def hold(self, user: str, agent: str, name: str) -> subprocess.Popen[str]:
        """A tunnel that stays open, see say()."""
        return self._start(self.network.host, user, "hold", self.listener(agent), f"{name}:{PORT}", name)

    def run_as(self, user: str, *command: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a usual program."""
        return subprocess.run(self._command(self.network.host, user, *command), capture_output=True, text=True, check=False,
                              timeout=60, cwd="/", env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **(environment or {})})

    def questions(self) -> list[str]:
        """The names that the proxy has asked the resolver for since the last call."""
        time.sleep(0.1)
        assert self.children[0].stdout
        descriptor = self.children[0].stdout.fileno()
        os.set_blocking(descriptor, False)
        try:
            return os.read(descriptor, 1 << 16).decode().split()
        except BlockingIOError:
            return []
        finally:
            os.set_blocking(descriptor, True)

    def outgoing(self, address: str) -> int:
        """How many connections the proxy has to a place."""
        done = subprocess.run(["ip", "netns", "exec", self.network.host, "ss", "-Htn", "state", "established", "dst", address],
                              check=True, capture_output=True, text=True)
        return len(done.stdout.splitlines())

    def listener(self, name: str) -> str:
        """Where an agent asks."""
        return f"{_egress.address(name)}:{_egress.PROXY_PORT}"

    def log(self, since: int = 0) -> list[dict[str, Any]]:
        """What was logged after the first so many lines; waits for squid to write it."""
        time.sleep(0.3)
        lines = (self.run / "proxy.log").read_text().splitlines()[since:]
        return [said for said in map(_egress_proxy_log.event, lines) if said]

    def lines(self) -> int:
        """How many lines there are."""
        with contextlib.suppress(FileNotFoundError):
            return len((self.run / "proxy.log").read_text().splitlines())
        return 0

    def _start(self, side: str, user: str, *arguments: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(self._program(side, user, *arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.children.append(child)
        assert child.stdout is not None
        child.first = child.stdout.readline().strip()  # type: ignore[attr-defined]
        return child

    def _program(self, side: str, user: str, *arguments: str) -> list[str]:
        return self._command(side, user, "/usr/bin/python3", str(self.root / "proxy_programs.py"), *arguments)

    @staticmethod
    def _command(side: str, user: str, *command: str) -> list[str]:
        person = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"] if user != "root" else []
        return ["ip", "netns", "exec", side, *person, *command]


def say(held: subprocess.Popen[str]) -> str:
    """Send a request through a tunnel that is held."""
    assert held.stdin and held.stdout
    held.stdin.write("\n")
    held.stdin.flush()
    return held.stdout.readline().strip()


