# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host that the vault modules meet in these tests, and how they are run on it.

Real: the modules, gocryptfs, systemd-creds, age, FUSE, users, immutable flags. Not real: systemd, which does not run
here; `systemctl` and `systemd-run` are programs of the tests that open and close the vault as the unit does.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

CLONE_NEWNS = 0x00020000  # sched.h
AGENTS = ("scout", "scribe")
RUNNER = """
import json, os, runpy, sys
from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder
from ansible.module_utils.testing import patch_module_args
name, root = sys.argv[1:3]
_AnsibleCollectionFinder(paths=[root])._install()
with patch_module_args(json.load(sys.stdin)):
    runpy.run_module("ansible_collections.cordon.agent_host.plugins.modules." + name, run_name="__main__", alter_sys=False)
"""

# What the units of a vault and of its agent do, without systemd. $STATE has a file for each unit that runs.
SYSTEMD = r"""#!/bin/bash
echo "${0##*/} $*" >> "$STATE/calls"
open() {
  systemd-creds decrypt --name=cordon-vault-scout /etc/cordon/vault/scout.cred - |
    gocryptfs -q -nosyslog -sharedstorage -nonempty -ro -allow_other -fsname cordon-vault-scout -- \
      /var/lib/cordon/vault/scout /srv/agents/scout/.vault > /dev/null 2>&1
}
show() {
  for unit; do
    [ -e "$STATE/$unit" ] && active=active || active=inactive
    printf 'Id=%s\nActiveState=%s\nUnitFileState=enabled\nNeedDaemonReload=no\n\n' "$unit" "$active"
  done
}
case "${0##*/} $*" in
  "systemd-run "*cordon-vault-hold-scout.service*BindsTo=cordon-vault@scout.service*) open ;;
  "systemctl "*" list-units "*) cd "$STATE" && for unit in cordon-*; do [ ! -e "$unit" ] || echo "$unit loaded active"; done ;;
  "systemctl "*" list-unit-files "*) ;;
  "systemctl "*" show "*) while [ "$1" != -- ]; do shift; done; shift; show "$@" ;;
  "systemctl "*" stop -- cordon-vault@scout.service") umount /srv/agents/scout/.vault && rm -f "$STATE"/cordon-* ;;
  "systemctl start cordon-agent@scout.service") open && touch "$STATE/cordon-agent@scout.service" ;;
  *) echo "not expected: $0 $*" >&2; exit 1 ;;
esac
"""


def seclude() -> Iterator[None]:
    """Leave the machine's mount namespace; what is written under /etc, /var/lib, /srv and /run/cordon goes with it."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    sh("mount --make-rprivate /")
    with tempfile.TemporaryDirectory(prefix="cordon-vault-tests-") as top:
        sh(f"mount -t tmpfs cordon-vault-tests {top}")
        for name in ("/etc", "/var/lib", "/run"):
            layers = f"{top}{name.replace('/', '.')}"
            sh(f"mkdir {layers}.upper {layers}.work")
            sh(f"mount -t overlay -o lowerdir={name},upperdir={layers}.upper,workdir={layers}.work overlay {name}")
        sh("mount -t tmpfs srv /srv")
        for number, agent in enumerate(AGENTS):
            sh(f"useradd --system --uid {61200 + number} --no-create-home --home-dir /srv/agents/{agent} agent-{agent}")
        yield
        for name in ("/srv", "/run", "/var/lib", "/etc"):
            sh(f"umount --lazy {name}")
        sh(f"umount --lazy {top}")


def sh(script: str, data: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a shell script; a failure shows what it said."""
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {script}"], input=data, capture_output=True, text=True)
    assert not check or done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
    return done


def end_gocryptfs(agent: str, here: bool = False) -> None:
    """Kill the gocryptfs of an agent's vault; here: only those of this mount namespace, for other tests may run beside us."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            ours = words[0].endswith("gocryptfs") and any(word.startswith(f"cordon-vault-{agent}") for word in words)
            same = os.readlink(process / "ns/mnt") == os.readlink("/proc/self/ns/mnt")
            if ours and (same or not here):
                os.kill(int(process.name), signal.SIGKILL)


class Failed(AssertionError):
    """A module failed; the text is its message."""

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__(result["msg"])
        self.result = result


class Host:
    """The two agents' homes, and the modules."""

    def __init__(self, directory: Path, root: Path) -> None:
        self.directory, self.root = directory, root
        self.runner = directory / "runner.py"
        self.runner.write_text(RUNNER)
        self.environment = {**os.environ, "LANG": "C.UTF-8", "TMPDIR": str(directory)}

    def clean(self) -> None:
        """Take all vaults away."""
        sh("for p in $(awk '$5 ~ /\\.vault|vault-admin|probe/ {print $5}' /proc/self/mountinfo); do umount --lazy $p; done")
        sh("rmdir /run/systemd/system; chattr -i /srv/agents/*/.vault", check=False)
        sh("rm -rf /srv/agents /etc/cordon /var/lib/cordon /run/cordon")
        for agent in AGENTS:
            sh(f"install -d -m 0755 /srv/agents/{agent}")

    @staticmethod
    def agent(name: str = "scout", **more: Any) -> dict[str, Any]:
        return {"name": name, "user": f"agent-{name}", "home": f"/srv/agents/{name}", **more}

    def module(self, name: str, check: bool = False, wrap: Sequence[str] = (), **arguments: Any) -> dict[str, Any]:
        """Run a module of the collection as root would on a host. Raise Failed with its message."""
        argv = [*wrap, sys.executable, "-B", str(self.runner), name, str(self.root)]
        data = json.dumps({**arguments, "_ansible_check_mode": check, "_ansible_diff": True})
        done = subprocess.run(argv, input=data, capture_output=True, text=True, env=self.environment)
        try:
            result: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            raise AssertionError(f"{name} gave no result: {done.stdout}{done.stderr}") from None
        if result.get("failed"):
            raise Failed(result)
        result.pop("invocation", None)
        return result

    def vault(
        self, *names: str, check: bool = False, unlock: str = "sealed", **arguments: Any
    ) -> dict[str, Any]:
        """Run gocryptfs_vault for these agents, `scout` if none is named."""
        agents = [self.agent(name, unlock=unlock) for name in names or ("scout",)]
        return self.module("gocryptfs_vault", check, agents=agents, **{"seal": "host", **arguments})

    def secrets(self, values: Mapping[str, str], check: bool = False, name: str = "scout", **arguments: Any) -> dict[str, Any]:
        """Run vault_secrets for one agent that has exactly these secrets."""
        given: dict[str, Any] = {"declared": {name: sorted(values)}, "values": {name: dict(values)}}
        return self.module("vault_secrets", check, **{**given, **arguments})

    @staticmethod
    def key(name: str = "scout", path: str = "") -> str:
        return sh(f"systemd-creds decrypt --name=cordon-vault-{name} {path or f'/etc/cordon/vault/{name}.cred'} -").stdout

    @contextlib.contextmanager
    def opened(self, name: str = "scout", password: str | None = None, options: str = "") -> Iterator[Path]:
        """The vault as its session has it where it is writable: mounted at the agent's ~/.vault, the files the agent's."""
        line = self.key(name) if password is None else password
        point = f"/srv/agents/{name}/.vault"
        owner = sh(f"echo $(id -u agent-{name}):$(id -g agent-{name})").stdout.strip()
        sh(
            f"gocryptfs -q -nosyslog -sharedstorage -nonempty -allow_other -force_owner {owner} {options} "
            f"-ko noexec,nosuid,nodev -fsname cordon-vault-{name} -- /var/lib/cordon/vault/{name} {point} "
            f">{self.directory}/log 2>&1 || {{ cat {self.directory}/log; exit 1; }}",
            f"{line}\n",
        )
        try:
            yield Path(point)
        finally:
            sh(f"umount {point} || umount --lazy {point}")

    @staticmethod
    def make_own(point: Path, name: str = "scout") -> Path:
        """The agent's directory in its vault, as vault-session makes it."""
        sh(f"mkdir --mode=0700 {point}/own && chown agent-{name}: {point}/own")
        return point / "own"

    def read(self, name: str = "scout", password: str | None = None) -> dict[str, str]:
        """All files of a vault, as its agent reads them."""
        with self.opened(name, password) as point:
            return {path.name: path.read_text() for path in sorted(point.iterdir()) if path.is_file()}

    def fake_systemd(self) -> Path:
        """Put stand-ins for systemctl and systemd-run first in PATH. Return the directory with a file for each unit that runs."""
        programs, state = self.directory / "programs", self.directory / "units"
        programs.mkdir()
        state.mkdir()
        for name in ("systemctl", "systemd-run"):
            (programs / name).write_text(SYSTEMD)
            (programs / name).chmod(0o755)
        os.makedirs("/run/systemd/system", exist_ok=True)
        self.environment.update(PATH=f"{programs}:{os.environ['PATH']}", STATE=str(state))
        return state

    def playbook(self, name: str, check: bool = False, **variables: Any) -> subprocess.CompletedProcess[str]:
        """Run a playbook of the collection on this host. The caller judges its exit status."""
        given = {
            "ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False,
            "agent_host_agents": [
                {"name": "scout", "command": ["/bin/true"], "secrets": [{"name": "token"}, {"name": "other"}]},
                {"name": "scribe", "command": ["/bin/true"]},
            ],
            **variables,
        }  # fmt: skip
        path = self.directory / "variables.json"
        path.write_text(json.dumps(given))
        argv = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "agenthost,", "-e", f"@{path}"]
        argv += ["--check"] if check else []
        return subprocess.run(
            [*argv, f"cordon.agent_host.{name}"], capture_output=True, text=True,
            env={**self.environment, "ANSIBLE_COLLECTIONS_PATH": str(self.root), "ANSIBLE_HOME": str(self.directory / "home"),
                 "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PIPELINING": "1"},
        )  # fmt: skip

    def as_agent(self, script: str, name: str = "scout", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a shell script as the agent's user."""
        argv = ["setpriv", f"--reuid=agent-{name}", f"--regid=agent-{name}", "--clear-groups", "--no-new-privs"]
        done = subprocess.run([*argv, "bash", "-c", script], capture_output=True, text=True)
        assert not check or done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
        return done

    @staticmethod
    def rotations() -> list[dict[str, Any]]:
        path = Path("/var/lib/cordon/rotations.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
