# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. What holds for every agent, whatever its manifest says: tables, no logic.

DENIED is written `audit deny` in both layers: an explicit denial is silent otherwise (apparmor.d(5)), it beats every
rule that a tool may bring, and it holds in complain mode too. Everything that no rule names is denied and logged
anyway; these lines are for what must stay denied even if somebody grants too much.
"""
from __future__ import annotations

from typing import List, NamedTuple, Tuple

from ._apparmor_rules import Rule

# `abi` pins the features that the policy is written for; without the line, kernels from 6.17 on mediate sockets that
# this text does not speak of. Oldest first: 3.0 is what Debian 12's parser (3.0.8) has, 4.0 (Debian 13, Ubuntu 24.04)
# adds user namespaces, which a profile then may make only if it says so.
ABIS = ("3.0", "4.0")

# systemd hands the unit files that it opened outside the unit's mount namespace, /dev/null and terminals first. Their
# path does not lead to the unit's root, and without this flag the kernel denies them as "disconnected path".
FLAGS: Tuple[str, ...] = ("attach_disconnected",)


class Block(NamedTuple):
    """Lines under one comment."""

    title: str
    lines: List[str]


def _deny(paths: str, access: str) -> List[Rule]:
    return [Rule(path, access, verdict="audit deny") for path in paths.split()]


DENIED = [
    ("passwords, and who may become root",
     _deny("/etc/{shadow,gshadow}{,-} /etc/sudoers{,.d/{,**}} /etc/security/opasswd", "mrwklx")
     + _deny("/etc/ssl/private/{,**} /etc/ssh/ssh_host_* /etc/ssh/sshd_config{,.d/**}", "rwl")),
    ("ways to come back: ssh keys, units, cron, at, start-up files",
     _deny("/**/.ssh/** /**/authorized_keys* /etc/{,**} /usr/{,**} /boot/{,**} /var/spool/{cron,at}/{,**}", "wl")
     + _deny("/run/systemd/{system,user,transient,generator,generator.early,generator.late}/{,**}", "wl")
     + _deny("/var/lib/systemd/{,**}", "wl")),
    ("the controls themselves",
     _deny("/{etc,var/lib,var/log,run}/cordon/{,**} /var/log/audit/{,**} /run/credentials/{,**}", "mrwklx")
     + _deny("/sys/kernel/{security,debug,tracing}/{,**}", "rwl")
     + _deny("/{etc,var/cache}/apparmor{,.d}/{,**}", "rwl")),
    ("the kernel",
     _deny("/proc/[0-9]*/{,task/[0-9]*/}{attr/**,mem,clear_refs}", "wl")
     + _deny("/proc/sys/{,**} /sys/{,**}", "wl")
     + _deny("/proc/{kcore,kmsg,kallsyms,keys,sysrq-trigger,timer_list} /dev/{mem,kmem,port,kmsg,uinput}", "rwl")
     + _deny("/{root,home}/{,**}", "mrwklx")),
    ("doors to processes outside the cage",
     _deny("/run/{docker,podman,crio,containerd,libvirt,lxd,incus}/{,**}", "mrwklx")
     + _deny("/run/{docker,snapd,snapd-snap}*.sock{,et}", "mrwklx")
     + _deny("/run/{systemd/private,dbus/system_bus_socket} /run/systemd/io.system.* /run/user/{,**}", "mrwklx")),
]

NO_NAMESPACES = ("user namespaces", _deny("/proc/[0-9]*/{,task/[0-9]*/}{uid_map,gid_map,setgroups}", "wl"))

# What a sandbox of the agent's own takes (bubblewrap 0.8 on Linux 6.1, 0.11 on 6.12): the capabilities are those over
# the namespace that it makes, since the agent's user has none over the host.
INNER_SANDBOX = Block("inner_sandbox: allow; within user namespaces of the agent's own", [
    "/ r,", "/{,*/} w,", "/newroot/{,**} rwkl,", "owner /proc/[0-9]*/{uid_map,gid_map,setgroups} rw,",
    "/proc/sys/user/max_user_namespaces r,",
    *["capability %s," % name for name in ("dac_override", "net_admin", "setgid", "setpcap", "setuid", "sys_admin", "sys_chroot",
                                           "sys_ptrace")],
    "mount,", "umount,", "pivot_root,",
])
USERNS = {"3.0": [], "4.0": ["userns create,"]}

# The cage is wider than the inner profile where reading is harmless: what a program reads beyond its tools then shows
# up in burn-in as ALLOWED by the inner profile, instead of breaking the agent. DENIED cuts the secrets out of it.
CAGE_READS = [
    Rule("/usr/{,**}", "r"), Rule("/etc/{,**}", "r"), Rule("/opt/{,**}", "r"), Rule("/var/lib/{,**}", "r"),
    Rule("/usr/{lib,lib32,lib64,libexec,local/lib}/**", "mr"),
    Rule("/proc/{,sys/{,**}}", "r"), Rule("/sys/{,**}", "r"), Rule("/run/{,**}", "r"),
    Rule("/proc/[0-9]*/{,**}", "r", owner=True),
]

GPU = [Rule("/dev/nvidia{,ctl,-uvm,-uvm-tools,[0-9]*}", "rw"), Rule("/dev/dri/{,**}", "rw"), Rule("/dev/kfd", "rw")]

NETWORK = Block("sockets; nftables decides which addresses, this decides which kinds: no raw, no packet", [
    "network inet stream,", "network inet dgram,", "network inet6 stream,", "network inet6 dgram,",
    # getaddrinfo(3) asks the kernel for its addresses to sort the answers (glibc, check_pf.c): reading needs no
    # privilege, and changing anything needs CAP_NET_ADMIN, which no agent has.
    "network netlink raw,",
])


SCRATCH = [
    Rule("/{,var/}tmp/", "rw"), Rule("/{,var/}tmp/**", "rwkl", owner=True), Rule("/dev/shm/", "r"),
    Rule("/dev/shm/**", "rwkl", owner=True),
]
# In the layers where what the agent wrote may run.
SCRATCH_RUNS = [Rule("/{,var/}tmp/**", "mx", owner=True)]


def peers(cage: str) -> List[str]:
    """The rules between processes: signals, reading of /proc and sockets, among this agent's own processes only.

    The peer is the whole stacked label, whichever inner profile it has. Seen on Linux 6.1: rules for the names of its
    parts do not match it, a pattern over the whole does.
    """
    own = '"%s//&%s.*"' % (cage, cage)
    return [
        "signal (receive) peer=unconfined,", "signal (send, receive) peer=%s," % own,
        "ptrace (read, readby) peer=%s," % own,
        "unix (create, bind, listen, accept, getattr, setattr, getopt, setopt, shutdown),",
        "unix (connect, send, receive) peer=(label=%s)," % own,
    ]
