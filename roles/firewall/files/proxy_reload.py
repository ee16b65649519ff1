# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ExecReload= of cordon-proxy.service: have the running proxy take the configuration that is on disk.

squid reads a new configuration (SIGHUP) without closing a tunnel, and asks no tunnel again whether it may stand. So where a
change takes something away from an agent, or opens what was sealed, the kernel then ends the connections of that agent, and
of no other (ss -K, SOCK_DESTROY). Where that cannot be had, or the change concerns all, the working process ends with all
tunnels, and squid's own parent starts another at once. The unit stays active, so that nothing that requires it stops.

    proxy_reload.py check   refuse what squid cannot read
    proxy_reload.py PID     reload, as root; PID is squid's parent process ($MAINPID)
"""
import os
import re
import signal
import socket
import subprocess
import sys
import time
from typing import Dict, List, Optional, Set

WANTED = "/etc/cordon/proxy/squid.conf"
# Root's own, since root writes it: the proxy's user could plant a link in a directory of its own.
RUNNING = "/var/lib/cordon/proxy/running.conf"
STATE = ("127.99.255.1", 3128)
PATIENCE = 20  # seconds
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}

# What is inspected from now on must not go on unread in a tunnel from before.
_INSPECTS = re.compile(r"^acl \S+\.way\.|^ssl_bump ")
# What takes from an agent: networks that others are granted and it is not (what is its own, a comment says), and requests,
# which squid asks for anew in a connection that stands.
_REFUSES = re.compile(r"^acl agent\.[a-z0-9_]+\.(foreign|request)[. ]|^http_access .*\bagent\.[a-z0-9_]+\.(foreign|request)\b"
                      r"|^external_acl_type request ")

# The agent that a line is about stands in it before all else that could look like one.
_AGENT = re.compile(r"\bagent\.([a-z][a-z0-9_]*)")
_LISTENER = re.compile(r"^http_port (127\.[0-9.]+):\d+ name=agent\.([a-z][a-z0-9_]*)[. ]", re.M)
# A network that an entry grants, the one comment that counts.
_MAY_LEAD = re.compile(r"^# ([a-z][a-z0-9_]*): \S+ on \d+ may lead to \S+$")


def narrowed(before: str, after: str) -> Optional[Set[str]]:
    """The agents of whom something may have been taken, so that their tunnels must end; None: of everybody.

    The text grants name by name, a line each, and what refuses is the same for all: more lines, more is granted.
    """
    if not before:
        return None  # nobody knows what stands
    old, new = meant(before), meant(after)
    found = {whose for whose in old
             if old[whose] - new.get(whose, set()) or any(_INSPECTS.search(line) for line in new.get(whose, set()) - old[whose])}
    return None if "" in found else found


def meant(text: str) -> Dict[str, Set[str]]:
    """The lines that grant something by the agent whom they grant it, "" for those of all: no digest of the whole."""
    found: Dict[str, Set[str]] = {"": set()}
    for line in map(str.strip, text.splitlines()):
        leads = _MAY_LEAD.match(line)
        if not leads and (not line or line.startswith(("#", "visible_hostname ")) or _REFUSES.search(line)):
            continue
        whose = leads or _AGENT.search(line)
        found.setdefault(whose.group(1) if whose else "", set()).add(line)
    return found


def listeners(text: str) -> Dict[str, str]:
    """The address on which each agent is served."""
    return {name: address for address, name in _LISTENER.findall(text)}


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
    """Reload, and return once the new configuration answers, and what it does not grant has ended."""
    before, after = read(RUNNING), read(WANTED)
    whose = narrowed(before, after)
    if whose is None:
        end_all(parent)
    else:
        os.kill(parent, signal.SIGHUP)
    wait(after)
    # Only now: until it has read the list squid would open what was just ended again.
    where = listeners(before)
    if whose and not all(cut(where[name]) for name in whose if name in where):
        print("the kernel ended no connection (ss -K): all tunnels end instead")
        end_all(parent)
        wait(after)
    # Last: a reload that broke off has not ended what the next one is to end.
    with open(RUNNING, "w", encoding="utf-8") as file:
        file.write(after)


def end_all(parent: int) -> None:
    """End the working process, and every tunnel with it."""
    for pid in workers(parent):
        # A signal that squid leaves at its default: its parent takes the end for a fault and starts another. After
        # SIGTERM or SIGKILL it would end itself (Kid::shouldRestart).
        os.kill(pid, signal.SIGALRM)


def wait(text: str) -> None:
    """Until the proxy answers with this configuration."""
    end = time.monotonic() + PATIENCE
    while digest(text) not in state():
        if time.monotonic() > end:
            raise SystemExit(f"the proxy does not answer with {WANTED} after {PATIENCE} s: see journalctl -u cordon-proxy")
        time.sleep(0.05)


def cut(address: str) -> bool:
    """End what stands on both listeners of an agent; whether it has ended. Needs CAP_NET_ADMIN."""
    stood = peers(address)
    sockets("--kill", "state", "connected", "src", address)
    return stood is not None and not stood & (peers(address) or set())


def peers(address: str) -> Optional[Set[str]]:
    """The other ends of the connections on an address; None where that cannot be told."""
    said = sockets("state", "established", "src", address)
    return None if said is None else {line.split()[-1] for line in said.splitlines() if line.strip()}


def sockets(*arguments: str) -> Optional[str]:
    """What ss(8) prints of TCP; None where it fails. A kernel without SOCK_DESTROY it passes over in silence."""
    try:
        done = subprocess.run(["/usr/bin/ss", "--no-header", "--numeric", "--tcp", *arguments], env=ENVIRONMENT, check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return None
    return None if done.returncode else done.stdout


def check() -> None:
    """Refuse a configuration that squid cannot read: it would end with it."""
    done = subprocess.run(["/usr/sbin/squid", "-k", "parse", "-f", WANTED], env=ENVIRONMENT, check=False,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"squid refuses {WANTED}; the proxy goes on as it was: {'; '.join(wrong(done.stderr))}")


def wrong(said: str) -> List[str]:
    """What squid says that it cannot read. It shows the line, and in what is included there are secrets: of that, where alone."""
    elsewhere = [match[1] for match in re.finditer(r"Bungled ((\S+) line \d+)", said) if match[2] != WANTED]
    return elsewhere or [line for line in said.splitlines() if re.search("FATAL|ERROR|Bungled|unrecognized", line)]


def main(arguments: List[str]) -> None:
    """check | PID"""
    if arguments == ["check"]:
        check()
    else:
        apply(int(arguments[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
