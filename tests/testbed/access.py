# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How others reach the guests: a key made for this test bed, ssh_config for ssh and testinfra, an Ansible inventory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from testbed import run
from testbed.files import write_atomically

# A control socket's name gets 17 more characters from ssh, and may have 107 in all, unix(7).
_SOCKET_ROOM = 107 - 17 - len("root@65535")


def make_key(path: Path, comment: str) -> str:
    """Make an ed25519 key unless it exists, and return its public text."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        run.quiet(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)], "making an ssh key")
    return path.with_name(path.name + ".pub").read_text().strip()


def options(directory: Path) -> dict[str, str]:
    """ssh options for throw-away guests: no host-key question, one connection kept and shared."""
    chosen = {
        "StrictHostKeyChecking": "no", "UserKnownHostsFile": "/dev/null", "LogLevel": "ERROR",
        "IdentitiesOnly": "yes", "PreferredAuthentications": "publickey",
        "ConnectTimeout": "60", "ServerAliveInterval": "15", "ServerAliveCountMax": "8",
    }
    sockets = f"{directory}/cm/"
    if len(sockets) <= _SOCKET_ROOM:
        chosen |= {"ControlMaster": "auto", "ControlPersist": "10m", "ControlPath": f"{sockets}%r@%p"}
    return chosen


def ssh_config(directory: Path, ports: Mapping[str, int], key: Path) -> str:
    """Text of ssh_config for guests {name: port}."""
    blocks = [
        f"Host {name}\n  HostName 127.0.0.1\n  Port {port}\n  User root\n" for name, port in sorted(ports.items())
    ]
    common = "".join(f"  {name} {value}\n" for name, value in options(directory).items())
    return "\n".join([*blocks, f"Host agenthost-*\n  IdentityFile {key}\n{common}"])


def inventory(directory: Path, ports: Mapping[str, int], key: Path) -> str:
    """Text of the Ansible inventory. JSON is YAML, and needs no library to write."""
    common = " ".join(f"-o {name}={value}" for name, value in options(directory).items())
    variables = {
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(key),
        "ansible_ssh_args": common,
        "ansible_ssh_pipelining": True,
        # An emulated guest on a busy machine may keep one connection waiting too long.
        "ansible_ssh_retries": 2,
        "ansible_python_interpreter": "/usr/bin/python3",
    }
    hosts = {name: {"ansible_host": "127.0.0.1", "ansible_port": port} for name, port in sorted(ports.items())}
    return json.dumps({"agent_hosts": {"hosts": hosts, "vars": variables}}, indent=2) + "\n"


def write(directory: Path, ports: Mapping[str, int], key: Path) -> None:
    (directory / "cm").mkdir(mode=0o700, exist_ok=True)
    write_atomically(directory / "ssh_config", ssh_config(directory, ports, key))
    write_atomically(directory / "inventory.yml", inventory(directory, ports, key))
