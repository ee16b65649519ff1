# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs in the guest, as root: what everybody can reach now, and which rules are not ours. Standard library only, one file.

    look.py ways     JSON: {who: {what: outcome}}; whoever tries is a process of the kind that it stands for
    look.py rules    every rule of the kernel that is not ours, without counters
    look.py try ...  what `ways` runs as somebody else

An outcome is what the other side said first, or the name of an error. The tests judge.
"""

from __future__ import annotations

import errno
import json
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

HOST = "203.0.113.1"  # the guest as the world sees it (world.py)
OFF_LIST, GRANTED, NAME = "203.0.113.99", "192.0.2.10", "git.example.org"
STRANGER, DENIED, BANNED_NFT, BANNED_IPTABLES = OFF_LIST, "203.0.113.66", "203.0.113.10", "203.0.113.11"
PATIENCE = 6.0  # seconds; what is dropped takes as long, and what is refused does not


def attempt(address, port, source=""):
    """Connect, ask, and tell the first line."""
    try:
        with socket.create_connection((address, port), PATIENCE, (source, 0) if source else None) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return sock.recv(200).decode("latin-1").split("\r\n")[0]
    except TimeoutError:
        return "ETIMEDOUT"
    except OSError as error:
        return errno.errorcode.get(error.errno, repr(error)) if error.errno and error.errno > 0 else repr(error)


def unix(path):
    """Ask Docker's API who it is."""
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(path)
            sock.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return sock.recv(200).decode("latin-1").split("\r\n")[0]
    except OSError as error:
        return errno.errorcode.get(error.errno, repr(error))


def tried(wanted):
    """{what: outcome} of {what: [address, port, source]} or {what: [path]}, all at the same time."""
    with ThreadPoolExecutor(len(wanted)) as pool:
        jobs = {what: pool.submit(unix if len(how) == 1 else attempt, *how) for what, how in wanted.items()}
        return {what: job.result() for what, job in jobs.items()}


def as_somebody(prefix, wanted):
    """Have another process try."""
    with open(__file__, encoding="utf-8") as program:
        done = subprocess.run([*prefix, "python3", "-", "try", json.dumps(wanted)], stdin=program, capture_output=True,
                              text=True, check=False)  # fmt: skip
    return json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr}


def output(*argv):
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def inspected(*containers):
    """(process, {network: address}) of each."""
    return [
        (str(found["State"]["Pid"]), {name: each["IPAddress"] for name, each in found["NetworkSettings"]["Networks"].items()})
        for found in json.loads(output("docker", "inspect", *containers))
    ]


def from_inside(web):
    """What users of the host try, the agent as well as everybody."""
    return {
        "granted": [GRANTED, 8080], "granted name": [NAME, 22], "off the list": [OFF_LIST, 8080],
        "published port": [HOST, 8081], "published port on loopback": ["127.0.0.1", 8081], "container": [web, 80],
        "Docker": ["/run/docker.sock"],
    }


def ways():
    """Each kind of traveller. Names lead nowhere for those who do not ask the agents' resolver."""
    (web_pid, web), (database_pid, database) = inspected("web", "database")
    travellers = {
        "stranger": (["ip", "netns", "exec", "world"], {
            "published port": [HOST, 8081, STRANGER], "open port": [HOST, 8091, STRANGER], "closed port": [HOST, 8090, STRANGER],
            "denied address": [HOST, 8091, DENIED], "banned by nftables": [HOST, 8091, BANNED_NFT],
            "banned by iptables": [HOST, 8091, BANNED_IPTABLES],
        }),
        "container": (["nsenter", "--net", "--target", web_pid], {
            "outbound": [OFF_LIST, 8080], "its network": [database["shared"], 5432],
        }),
        "other network": (["nsenter", "--net", "--target", database_pid], {"isolated": [web["bridge"], 80]}),
        "alice": (["runuser", "-u", "alice", "--"], {
            what: how for what, how in from_inside(web["bridge"]).items() if what != "granted name"
        }),
        "agent": (["cordonctl", "run", "courier", "--"], from_inside(web["bridge"])),
    }  # fmt: skip
    with ThreadPoolExecutor(len(travellers)) as pool:
        jobs = {who: pool.submit(as_somebody, *how) for who, how in travellers.items()}
        named = pool.submit(output, "docker", "exec", "web", "wget", "-q", "-O", "-", "http://database:5432/")
        found = {who: job.result() for who, job in jobs.items()}
        found["container"]["by name"] = named.result().strip()
    return found


def rules():
    """All tables but ours, and what iptables of the old kind sees. nft's -s leaves counters and lifetimes out."""
    listing = re.sub(r"(?ms)^table inet cordon \{.*?^\}\n", "", output("nft", "--stateless", "list", "ruleset"))
    saved = [line for tool in ("iptables-save", "ip6tables-save") for line in output(tool).splitlines() if line[:1] != "#"]
    return "\n".join([listing, *(re.sub(r" \[\d+:\d+\]$", "", line) for line in saved)])


if __name__ == "__main__":
    if sys.argv[1] == "rules":
        print(rules())
    else:
        print(json.dumps(ways() if sys.argv[1] == "ways" else tried(json.loads(sys.argv[2]))))
