# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ExecReload= of cordon-proxy.service: have the running proxy take the configuration that is on disk.

squid reads a new configuration without closing a tunnel, and asks no tunnel again whether it may stand. So a change that
only adds is read in (SIGHUP); one that takes something away, or opens what was sealed, ends the working process with all
tunnels, and squid's own parent starts another at once. The unit stays active, so that nothing that requires it stops.

    proxy_reload.py start   note what squid is about to run (ExecStartPre=)
    proxy_reload.py PID     reload; PID is squid's parent process ($MAINPID)
"""
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from typing import Dict, List

WANTED = "/etc/cordon/proxy/squid.conf"
RUNNING = "/run/cordon-proxy/running.conf"
STATE = ("127.99.255.1", 3128)
PATIENCE = 20  # seconds

# What is inspected from now on must not go on unread in a tunnel from before.
_INSPECTS = re.compile(r"^acl \S+\.way\.|^ssl_bump ")


def narrower(before: str, after: str) -> bool:
    """Whether a change may have taken something away, so that tunnels which stand must end.

    The text grants name by name, a line each, and what refuses is the same for all: more lines, more is granted.
    """
    old, new = set(meant(before)), set(meant(after))
    return bool(old - new) or any(_INSPECTS.search(line) for line in new - old)


def meant(text: str) -> List[str]:
    """The lines that decide something: no comments, and no digest of the whole."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(("#", "visible_hostname "))]


def digest(text: str) -> str:
    """The name by which the proxy tells what it runs."""
    found = re.search(r"^visible_hostname (\S+)$", text, re.M)
    return found.group(1) if found else ""


def state(address: "tuple[str, int]" = STATE) -> str:
    """What the proxy answers on its own listener; "" where it does not answer."""
    try:
        with socket.create_connection(address, 2) as sock:
            sock.sendall(b"OPTIONS * HTTP/1.0\r\n\r\n")
            return sock.recv(4096).decode("latin-1")
    except OSError:
        return ""


def workers(parent: int) -> List[int]:
    """The processes that squid's parent has started."""
    with open(f"/proc/{parent}/task/{parent}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]


def read(path: str) -> str:
    """A text; empty where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def apply(parent: int) -> None:
    """Reload, and return once the new configuration answers."""
    before, after = read(RUNNING), read(WANTED)
    shutil.copyfile(WANTED, RUNNING)
    if narrower(before, after):
        for pid in workers(parent):
            # A signal that squid leaves at its default: its parent takes the end for a fault and starts another. After
            # SIGTERM or SIGKILL it would end itself (Kid::shouldRestart).
            os.kill(pid, signal.SIGALRM)
    else:
        os.kill(parent, signal.SIGHUP)
    end = time.monotonic() + PATIENCE
    while digest(after) not in state():
        if time.monotonic() > end:
            raise SystemExit(f"the proxy does not answer with {WANTED} after {PATIENCE} s: see journalctl -u cordon-proxy")
        time.sleep(0.05)


def check() -> None:
    """Refuse a configuration that squid cannot read: it would end with it."""
    environment: Dict[str, str] = {"PATH": "/usr/sbin:/usr/bin", "LC_ALL": "C"}
    done = subprocess.run(["/usr/sbin/squid", "-k", "parse", "-f", WANTED], env=environment, check=False,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        wrong = [line for line in done.stderr.splitlines() if re.search("FATAL|ERROR|Bungled", line)]
        raise SystemExit(f"squid refuses {WANTED}; the proxy goes on as it was: {'; '.join(wrong)}")


def main(arguments: List[str]) -> None:
    """start | PID"""
    check()
    if arguments == ["start"]:
        shutil.copyfile(WANTED, RUNNING)
    else:
        apply(int(arguments[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
