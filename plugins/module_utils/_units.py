# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private: the systemd units of an agent, rendered from the resolved manifest.

One text per agent, its confinement, serves the service and every session: both units have it as a
drop-in.  Nothing but the command differs between them, so there is no second door.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional

from . import _egress, _ssh
from ._manifest_values import OWN

CONFIG = "/etc/cordon"
LIBRARY = "/usr/lib/cordon"
UNITS = "/etc/systemd/system"

# The agent's own directories; the rest of its home belongs to root, so it can plant no rc file or key.
WRITABLE = (".cache", ".config", ".local")

# git reads this instead of ~/.gitconfig, which the agent cannot write. Right below .config: root makes no directory in
# one that is the agent's.
GIT_CONFIG = ".config/gitconfig"

# Daemons behind these sockets act with their own rights for whoever connects, so a read-only mount
# does not help (peers.md S-8 to S-10).  AppArmor has no rule for them either: this is the second layer.
# Where the kernel has no AppArmor rules for unix sockets (mainline, Debian 12's) this is the only one but for their modes.
DAEMON_SOCKETS = (
    "/run/avahi-daemon",
    "/run/buildkit",
    "/run/cockpit",
    "/run/containerd",
    "/run/crio",
    "/run/cups",
    "/run/dbus",
    "/run/docker.sock",
    "/run/gssproxy.sock",
    "/run/incus",
    "/run/k3s",
    "/run/libvirt",
    "/run/lxd",
    "/run/pcscd",
    "/run/podman",
    "/run/rpcbind.sock",
    "/run/snapd.socket",
    "/run/systemd/private",
    "/run/tailscale",
    "/run/user",
    "/var/lib/incus/unix.socket",
    "/var/lib/lxd/unix.socket",
    "/var/snap/lxd/common/lxd/unix.socket",
)
# systemd-resolved's sockets, and on many hosts the file that /etc/resolv.conf is a link to.
RESOLVED = "/run/systemd/resolve"

_SANDBOX = """\
# systemd's own sandbox: a second layer beside AppArmor (systemd.exec(5)).
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
PrivateTmp=yes
PrivateIPC=yes
ProtectSystem=strict
ProtectHome=yes
ProtectProc=invisible
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
# No packet or raw sockets: they would bypass the nftables output hook.
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictRealtime=yes
LockPersonality=yes
RemoveIPC=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service
# io_uring opens files and sockets where seccomp and audit do not look (peers.md S-7).
SystemCallFilter=~io_uring_setup io_uring_enter io_uring_register @keyring
SystemCallErrorNumber=EPERM
# 1, not 0: a handler in kernel.core_pattern gets the memory of a process with any other limit (fs/coredump.c). The
# filter leaves it none of a program that lowers its limit itself, as gpg does (core(5)).
LimitCORE=1
CoredumpFilter=0
UMask=0077
"""

# Debian 12's kernel cannot mediate user namespaces by AppArmor (technique.md A2): seccomp does it.
_NO_NAMESPACES = """\
RestrictNamespaces=yes
ProcSubset=pid
RestrictSUIDSGID=yes
"""

# bubblewrap reads /proc/sys/kernel/overflowuid, mounts, and (0.11) opens by openat2, which RestrictSUIDSGID= cannot look
# into and refuses as a whole. A setuid file of the agent's makes nobody more than the agent.
_INNER_SANDBOX = """\
# inner_sandbox: allow; the agent may make namespaces, and mount within them.
SystemCallFilter=@mount
"""


def sandbox(agent: Dict[str, Any]) -> str:
    """systemd's own sandbox around the agent."""
    return _SANDBOX + (_INNER_SANDBOX if agent["inner_sandbox"] == "allow" else _NO_NAMESPACES)


def quote(word: str) -> str:
    """Quote one word of a command line or assignment as systemd.syntax(7) and systemd.unit(5) read it."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def _assignment(name: str, value: str) -> str:
    # Environment= expands specifiers but not $: doubling it would change the value.
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'Environment="{name}={escaped}"'


def label(agent: Dict[str, Any]) -> str:
    """The AppArmor label, with its mode, that every process of the agent must carry."""
    cage = f"cordon.{agent['name']}"
    mode = "mixed" if agent["mode"] == "burn_in" else "enforce"
    return f"{cage}//&{cage}.main ({mode})"


def devices(limits: Dict[str, Any]) -> List[str]:
    """What the agent may open besides the harmless pseudo devices, one DeviceAllow= value each."""
    gpu = (
        ["char-drm rw", "char-nvidia-frontend rw", "char-nvidia-uvm rw", "/dev/kfd rw"]
        if limits["gpu"]
        else []
    )
    return gpu + [f"{path} rw" for path in limits["devices"]]


def _device_lines(limits: Dict[str, Any]) -> List[str]:
    granted = devices(limits)
    # PrivateDevices hides every real device node; with a grant the node must exist, the policy alone decides.
    return ["DevicePolicy=closed"] + (
        [f"DeviceAllow={one}" for one in granted] if granted else ["PrivateDevices=yes"]
    )


def _git(agent: Dict[str, Any]) -> Dict[str, str]:
    """git's settings, as git-config(1) takes them from the environment.

    git asks a helper by name, `git credential-cordon FILE`, so that it runs in git's own profile; a helper by path would
    be started by a shell, which runs in main and may not read the secret.
    """
    home = agent["home"]
    secrets = [secret["name"] for secret in agent["secrets"] if "git" in secret["tools"]]
    found = {"GIT_CONFIG_GLOBAL": f"{home}/{GIT_CONFIG}", "GIT_CONFIG_COUNT": str(len(secrets))}
    for number, name in enumerate(secrets):
        found[f"GIT_CONFIG_KEY_{number}"] = "credential.helper"
        found[f"GIT_CONFIG_VALUE_{number}"] = f"cordon {home}/.vault/{name}"
    return found if secrets else {"GIT_CONFIG_GLOBAL": found["GIT_CONFIG_GLOBAL"]}


def _named(agent: Dict[str, Any]) -> bool:
    """Whether the agent may reach something by its name."""
    return _egress.needs_proxy(agent) or _egress.needs_resolver(agent)


def _services(agent: Dict[str, Any]) -> str:
    """What passes the agent on by name. Whether the proxy needs the resolver is said in its own unit.

    Wanted, not required: a restart of the proxy would restart every agent. The preflight asks both whether they answer,
    and while they do not the packet filter refuses everything by name.
    """
    proxy, resolver = _egress.needs_proxy(agent), _egress.needs_resolver(agent)
    return " cordon-proxy.service" * proxy + " cordon-resolver.service" * resolver


def resolv_conf(address: str) -> str:
    """What the agent has for /etc/resolv.conf: nobody but the resolver on its own address.

    An agent that may not ask it is refused there at once, where the host's own server would be silence (resolv.conf(5):
    one attempt of two seconds for each server).
    """
    return f"# Rendered by cordon.agent_host.\nnameserver {address}\noptions edns0 timeout:2 attempts:1\n"


def _rests(agent: Dict[str, Any]) -> List[str]:
    """What ends the agent's service and sessions that do nothing.

    Upholds and not Wants (systemd 249): it begins when something of the agent runs, which may be days after an operator's
    vault was asked for, and one that just ended because nothing ran is started again for who comes in that moment.
    """
    return [f"Upholds=cordon-idle@{agent['name']}.service"] if agent["vault"]["idle"] else []


def _vault_paths(agent: Dict[str, Any]) -> List[str]:
    """Keeps an agent with a writable vault to its own directory in there.

    The files are shown as the agent's, so that it reads them, and gocryptfs changes modes and removes names with root's
    rights: seen with 2.3, an agent made a secret writable and replaced it. A vault that is not writable is mounted so.
    """
    vault = f"{agent['home']}/.vault"
    return [f"ReadOnlyPaths=-{vault}", f"ReadWritePaths=-{vault}/{OWN}"] if agent["vault"]["writable"] else []


def vault_settings(agent: Dict[str, Any]) -> str:
    """The drop-in of the agent's vault: what vault-session is told of the manifest."""
    vault = agent["vault"]
    lines = [
        f"# How the vault of agent {agent['name']} is opened.",
        "# Rendered by cordon.agent_host from the manifest; edits are undone by the next run.",
        "[Service]",
        f"Environment=CORDON_VAULT_UNLOCK={vault['unlock']}",
        f"Environment=CORDON_VAULT_WRITABLE={'yes' if vault['writable'] else 'no'}",
        # It waits for a person. Not by EXTEND_TIMEOUT_USEC= of sd_notify(3): a daemon-reload, which every upgrade of a package
        # with a unit brings, forgets that, and the start has timed out (seen with systemd 252).
        *(["TimeoutStartSec=infinity"] if vault["unlock"] == "operator" else []),
        # gocryptfs makes a file as whoever asks for it (asUser() in its internal/syscallcompat).
        *(["CapabilityBoundingSet=CAP_CHOWN CAP_SETGID CAP_SETUID"] if vault["writable"] else []),
    ]
    return "\n".join(lines) + "\n"


def _resolving(agent: Dict[str, Any]) -> List[str]:
    """Keeps systemd-resolved out of reach, and gives an agent with names its own resolv.conf.

    systemd follows a link at the destination of a bind mount, to /run/systemd/resolve/stub-resolv.conf say (systemd
    issue 32366). An inaccessible directory there would swallow the file; and a bind mount on resolved's own file ends
    when resolved puts a new one in its place (issue 17155). Both are avoided by an empty, read-only directory of the
    unit's own, in which systemd makes the mount point (systemd.exec(5), TemporaryFileSystem=).
    """
    if not _named(agent):
        return [f"InaccessiblePaths=-{RESOLVED}"]
    return [f"TemporaryFileSystem={RESOLVED}:ro,mode=0755,nosuid,nodev,noexec",
            f"BindReadOnlyPaths={CONFIG}/agents/{agent['name']}.resolv:/etc/resolv.conf"]


def of_tools(agent: Dict[str, Any], catalogue: Mapping[str, Any]) -> Dict[str, str]:
    """The variables that the catalogue sets for the agent's tools, most of them to keep state out of a home that is root's."""
    found: Dict[str, str] = {}
    for name, tool in sorted(catalogue.items()):
        if tool.get("implicit") or name in agent["tools"]:
            found.update(tool.get("environment", {}))
    return {name: value.replace("{home}", agent["home"]) for name, value in found.items()}


def _identity(agent: Dict[str, Any], apparmor: bool, given: Dict[str, str]) -> List[str]:
    """Who the unit runs as, where and with what. given: variables of ours, over which the manifest's have the last word."""
    home = agent["home"]
    environment = {"HOME": home, "PATH": "/usr/local/bin:/usr/bin:/bin", **given, **agent["environment"]}
    environment["CORDON_LABEL"] = label(agent) if apparmor else "unenforced"
    return [
        f"User={agent['user']}",
        f"Group={agent['user']}",
        "SupplementaryGroups=",
        f"Slice=cordon-{agent['name']}.slice",
        f"WorkingDirectory={agent['workspace']['path']}",
        *[_assignment(name, environment[name]) for name in sorted(environment)],
        *([f"AppArmorProfile=cordon.{agent['name']}"] if apparmor else []),
    ]


def confinement(
    agent: Dict[str, Any], catalogue: Mapping[str, Any], apparmor: bool = True, address: Optional[str] = None, ca: bool = False
) -> str:
    """The drop-in that the agent's service and its sessions share; without apparmor where the kernel has none.

    address: the agent's loopback address, where its proxy listens (_egress.addresses()). ca: it trusts a CA of the
    operator's, beside the system's.
    """
    name, services = agent["name"], _services(agent)
    proxy = _egress.proxy_environment(agent, address or _egress.address(name), ca)
    lines = [
        f"# Confinement of agent {name}: one definition for its service and its sessions.",
        "# Rendered by cordon.agent_host from the manifest; edits are undone by the next run.",
        "[Unit]",
        # BindsTo: no vault, no session; the vault closes after the last one (StopWhenUnneeded= there).
        f"BindsTo=cordon-vault@{name}.service",
        "Requires=cordon-firewall.service",
        *([f"Wants={services.strip()}"] if services else []),
        *_rests(agent),
        f"After=cordon-vault@{name}.service cordon-firewall.service{services} cordon-events.service apparmor.service",
        "",
        "[Service]",
        *_identity(agent, apparmor, {**of_tools(agent, catalogue), **_git(agent), **proxy}),
        # '+': as root and outside the sandbox, because it reads what the agent must not see.
        f"ExecStartPre=+{LIBRARY}/preflight {name}",
        "",
        sandbox(agent).rstrip("\n"),
        *_device_lines(agent["limits"]),
        f"ReadWritePaths={agent['home']}",
        *_vault_paths(agent),
        *[f"ReadWritePaths=-{path}" for path in agent["workspace"]["read_write"]],
        *[f"ReadOnlyPaths=-{path}" for path in agent["workspace"]["read_only"] + agent["programs"]],
        *[f"InaccessiblePaths=-{path}" for path in DAEMON_SOCKETS],
        *_resolving(agent),
    ]
    return "\n".join(lines) + "\n"


# The start of an agent with a locked vault waits for its operator. A target is ordered after what it wants, unless that
# has no default dependencies (systemd.target(5)): without this the boot would not end before the vault is open. The
# others are what systemd.service(5) lists as a service's default dependencies.
_NOT_AWAITED = [
    "[Unit]",
    "DefaultDependencies=no",
    "Requires=sysinit.target",
    "After=sysinit.target basic.target",
    "Conflicts=shutdown.target",
    "Before=shutdown.target",
]


def command(agent: Dict[str, Any]) -> str:
    """The drop-in that only the service has: what to run.

    systemd's exec of env enters the cage; the exec of entry stacks the inner profile on it.  Two steps,
    because under NoNewPrivileges the label of the first exec is the one that later ones may not leave.
    """
    words = " ".join(quote(word) for word in agent["command"])
    lines = [
        f"# What agent {agent['name']} runs; its confinement is {CONFIG}/agents/{agent['name']}.conf.",
        *(_NOT_AWAITED if (agent.get("vault") or {}).get("unlock") == "operator" else []),
        "[Service]",
        # %n, the unit: for the event log, by the kernel's record of what entry does.
        f"ExecStart=/usr/bin/env -- {LIBRARY}/entry --unit=%n {words}",
    ]
    return "\n".join(lines) + "\n"


def slice_unit(agent: Dict[str, Any]) -> str:
    """The control group that bounds the agent's service and sessions together."""
    limits = agent["limits"]
    return f"""\
# Limits of agent {agent["name"]}: its service and its sessions share them.
[Unit]
Description=Limits of AI agent {agent["name"]}

[Slice]
CPUQuota={limits["cpu"]}
MemoryMax={limits["memory"]}
# Swapped memory would put the agent's secrets on disk.
MemorySwapMax=0
TasksMax={limits["tasks"]}
"""


def files(
    agents: List[Dict[str, Any]], catalogue: Mapping[str, Any], apparmor: bool = True, ca: bool = False
) -> Dict[str, List[Dict[str, str]]]:
    """Users of all agents as agent_users takes them; directories, files and links as managed_files does."""
    addresses = _egress.addresses(agents)
    directories: List[Dict[str, str]] = []
    contents: List[Dict[str, str]] = []
    links: List[Dict[str, str]] = []
    for agent in agents:
        name, home, user = agent["name"], agent["home"], agent["user"]
        shared = f"{CONFIG}/agents/{name}.conf"
        service, session, vault = (
            f"{UNITS}/cordon-agent@{name}.service.d",
            f"{UNITS}/cordon-session-{name}-.service.d",
            f"{UNITS}/cordon-vault@{name}.service.d",
        )
        # gpg keeps its keys there, out of reach of everything but gpg, and an agent cannot make a directory in its home.
        places = [*WRITABLE, *([".gnupg"] if "gpg" in agent["tools"] else [])]
        own = [agent["workspace"]["path"], *[f"{home}/{place}" for place in places]]
        directories += [
            {"path": home, "mode": "0750", "group": user},
            {"path": f"{home}/.ssh", "mode": "0755"},
            *[{"path": path, "mode": "0700", "owner": user, "group": user} for path in own],
            {"path": service, "mode": "0755"},
            {"path": session, "mode": "0755"},
            {"path": vault, "mode": "0755"},
        ]
        contents += [
            {"path": shared, "content": confinement(agent, catalogue, apparmor, addresses[name], ca)},
            {"path": f"{vault}/50-manifest.conf", "content": vault_settings(agent)},
            {"path": f"{service}/60-command.conf", "content": command(agent)},
            {"path": f"{UNITS}/cordon-{name}.slice", "content": slice_unit(agent)},
        ]
        if _named(agent):
            contents.append({"path": f"{CONFIG}/agents/{name}.resolv", "content": resolv_conf(addresses[name])})
        links += [{"path": f"{unit}/50-confinement.conf", "target": shared} for unit in (service, session)]
    if any("ssh" in agent["tools"] for agent in agents):
        contents.append({"path": _ssh.CLIENT_CONFIG, "content": _ssh.client_config(agents)})
    users = [{"name": agent["user"], "home": agent["home"]} for agent in agents]
    return {"users": users, "directories": directories, "files": contents, "links": links}
