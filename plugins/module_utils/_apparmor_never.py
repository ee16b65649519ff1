# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. Which acts of an agent are never to be allowed, and why: no change is suggested for them.

The reasons are those of the policy's and the manifest's own tables; what these do not know stands here.
"""
from __future__ import annotations

import re
from typing import Any, Mapping, Optional, Set

from ._apparmor_general import covers
from ._apparmor_match import matches
from ._apparmor_policy import DENIED, NO_NAMESPACES
from ._manifest_refused import Refusals, credential_refusal, device_refusal
from ._metadata import endpoint_of

Act = Mapping[str, Any]

#: Programs that no tool of the catalogue brings, by name, for good.
PROGRAMS: Refusals = (
    ("it is setuid: it would run as root", (
        "su", "sudo", "sudoedit", "doas", "pkexec", "mount", "umount", "fusermount", "fusermount3", "passwd", "chsh",
        "chfn", "newgrp", "sg", "gpasswd", "chage", "expiry", "crontab", "at", "batch", "newuidmap", "newgidmap",
        "ntfs-3g", "unix_chkpwd", "ssh-keysign", "dbus-daemon-launch-helper", "polkit-agent-helper-1", "wall", "write",
    )),
    ("it leads out of the unit, its label or its namespaces", (
        "unshare", "nsenter", "chroot", "runuser", "setpriv", "capsh", "aa-exec", "systemd-run", "systemctl", "busctl",
        "machinectl", "loginctl", "docker", "podman", "ctr", "runc", "crun", "lxc", "virsh",
    )),
    ("it looks into other processes", ("gdb", "strace", "ltrace", "perf", "bpftrace", "tcpdump")),
    ("it administers the host", (
        "apt", "apt-get", "dpkg", "snap", "insmod", "modprobe", "kmod", "auditctl", "apparmor_parser", "nft", "iptables",
        "sysctl", "useradd", "usermod", "visudo", "reboot", "shutdown",
    )),
)
LOADER = re.compile(r"/ld(-linux[^/]*|64)?\.so(\.[0-9]+)?$|/ld-[0-9.]+\.so$")
ANSWERED = "the manifest says so: its key denied names it"
CAPABILITIES = {
    "dac_override": "the agent's user may not do this to the file, so the kernel asked for the power to pass over its"
                    " permissions. It is a mistake of ownership: mend the file's owner, group or mode",
}
CAPABILITIES.update(dict.fromkeys(("dac_read_search", "fowner", "chown", "fsetid"), CAPABILITIES["dac_override"]))
SOCKETS = ("inet", "inet6", "netlink", "unix")


def reason(act: Act, agent: Mapping[str, Any]) -> Optional[str]:
    """Why this act is never to be allowed; None where a change of the manifest or the catalogue may decide."""
    judge = {"capability": _capability, "signal": _other_process, "ptrace": _other_process, "mount": _mount,
             "network": _network, "other": _other}.get(act["class"], _path)
    return judge(act, agent)


def one_process(path: Optional[str]) -> Optional[str]:
    """A path with the number of some process again, which was taken out when the act was collected."""
    return path and re.sub(r"(?<=^/proc/)\[0-9\]\*", "1", re.sub(r"(?<=^/proc/\[0-9\]\*/task/)\[0-9\]\*", "1", path))


def program_reason(path: str) -> Optional[str]:
    """Why no agent may run this program."""
    name = path.rpartition("/")[2]
    if LOADER.search(path):
        return "the loader, started by its own name, runs any file as a program"
    if path.startswith("/memfd:"):
        return "it is a program that lies in no file, so that no rule can name it"
    return next((why for why, names in PROGRAMS if name in names), None)


def _capability(act: Act, _agent: Mapping[str, Any]) -> str:
    return CAPABILITIES.get(str(act["detail"]), "it takes the capability %s, and no agent has any: whoever needs one"
                            " administers the host" % act["detail"])


def _other_process(act: Act, agent: Mapping[str, Any]) -> str:
    peer = str(act["detail"] or "").rpartition(" ")[2]
    if peer.startswith("cordon.%s//" % agent["name"]) or peer == "cordon." + agent["name"]:
        if act["class"] == "ptrace" and set((act["access"] or "").split()) & {"trace", "tracedby"}:
            return "who traces a process has all its rights and secrets; debug outside of the cage"
        return "both processes are the agent's own, so its profiles should allow it: a fault of the collection"
    return "it is about a process that is not the agent's own (%s)" % (peer or "unknown")


def _mount(_act: Act, _agent: Mapping[str, Any]) -> str:
    return "mounts change what every path means. A sandbox of the agent's own is decided by the key inner_sandbox"


def _network(act: Act, agent: Mapping[str, Any]) -> Optional[str]:
    if act.get("address"):
        endpoint = endpoint_of(str(act["address"]))
        return endpoint and "%s hands out the credentials of the host (cloud metadata)" % endpoint
    if act["family"] == "packet" or (act["sock_type"] == "raw" and act["family"] != "netlink"):
        return "raw sockets read and forge other programs' packets, past the packet filter"
    if act["family"] not in SOCKETS:
        return "sockets of the family %s lead past the packet filter, into the kernel or to devices" % act["family"]
    if act["family"] == "unix":
        return _other_process(act, agent)
    return None


def _other(act: Act, _agent: Mapping[str, Any]) -> str:
    if act["operation"] == "userns_create":
        return "a user namespace makes the agent root in it. A sandbox of its own is decided by the key inner_sandbox"
    if act["operation"].startswith(("change_", "stack")):
        return "the agent would choose another profile for itself"
    return "no rule of the collection can allow %s" % act["operation"]


def _path(act: Act, agent: Mapping[str, Any]) -> Optional[str]:
    path = str(act["path"] or "")
    if not path.startswith("/"):
        return "the file was opened outside of what the unit can see, so it has no path here (disconnected)"
    asked = set(act["access"] or "r")
    for found in (_answered(path, agent), _policy(path, asked, agent), _home(path, agent)):
        if found:
            return found
    return device_refusal(path)


def _answered(path: str, agent: Mapping[str, Any]) -> Optional[str]:
    return ANSWERED if any(covers(one, path) for one in agent["denied"]) else None


def _policy(path: str, asked: Set[str], agent: Mapping[str, Any]) -> Optional[str]:
    for title, rules in DENIED if agent["inner_sandbox"] == "allow" else [*DENIED, NO_NAMESPACES]:
        if any(asked & set(rule.access) and matches(rule.path, path) for rule in rules):
            return "no agent may: " + title
    return None


def _home(path: str, agent: Mapping[str, Any]) -> Optional[str]:
    home: str = agent["home"]
    if path.startswith(home + "/.vault/"):
        name = path[len(home) + len("/.vault/"):]
        named = {secret["name"]: secret["tools"] for secret in agent["secrets"]}.get(name)
        if named:
            return "the secret %s is for %s only (secrets[].tools)" % (name, ", ".join(named))
        return "the manifest gives it no secret of this name; if it is to have it, list it under secrets"
    if path.startswith("/srv/agents/") and path != "/srv/agents/" and not (path + "/").startswith(home + "/"):
        return "it is the home of another agent"
    return None if path.startswith(home + "/") else credential_refusal(path)
