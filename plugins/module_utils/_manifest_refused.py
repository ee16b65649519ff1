# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. What the manifest refuses although it is well formed, and why: as tables.

Each table is data, so that a refusal can be read, argued about and extended without reading code.
"""

from __future__ import annotations

from typing import Tuple

# (why, what): the reasons are worded to stand after "because" or in brackets.
Refusals = Tuple[Tuple[str, Tuple[str, ...]], ...]

#: Variables by which one program runs another's code (NVIDIA/OpenShell#1496), and those that our units set.
#: A name that ends in "*" stands for all names that begin so.
ENVIRONMENT: Refusals = (
    (
        "it makes the dynamic linker load other code into every program, the start chain included",
        ("LD_*", "GLIBC_TUNABLES", "GCONV_PATH", "LOCPATH", "HOSTALIASES"),
    ),
    (
        "it makes Python run or import other code, the start chain included",
        (
            "PYTHONSTARTUP", "PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONINSPECT",
            "PYTHONBREAKPOINT", "PYTHONWARNINGS", "PYTHONPLATLIBDIR", "PYTHONEXECUTABLE",
            "PYTHONPYCACHEPREFIX",
        ),
    ),
    (
        "a shell runs what it names before the first line of a script",
        (
            "BASH_ENV", "ENV", "BASH_FUNC_*", "PROMPT_COMMAND", "SHELLOPTS", "BASHOPTS", "PS4", "IFS",
            "CDPATH", "ZDOTDIR",
        ),
    ),
    (
        "it makes a runtime load other code into every program it starts",
        (
            "NODE_OPTIONS", "NODE_PATH", "BUN_OPTIONS", "PERL5OPT", "PERL5LIB", "PERL5DB", "PERLLIB",
            "RUBYOPT", "RUBYLIB", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "PHPRC",
            "LUA_INIT*", "OPENSSL_CONF", "OPENSSL_MODULES", "OPENSSL_ENGINES",
        ),
    ),
    (
        "git runs what it names; git's settings belong into /etc/gitconfig",
        (
            "GIT_SSH", "GIT_SSH_COMMAND", "GIT_EXTERNAL_DIFF", "GIT_EXEC_PATH", "GIT_CONFIG*",
            "GIT_PROXY_COMMAND", "GIT_ASKPASS", "GIT_EDITOR", "GIT_PAGER", "GIT_SEQUENCE_EDITOR",
            "GIT_TEMPLATE_DIR",
        ),
    ),
    (
        "the unit sets it, and confinement relies on its value",
        (
            "HOME", "USER", "LOGNAME", "SHELL", "PATH", "PWD", "CORDON_*", "CREDENTIALS_DIRECTORY",
            "NOTIFY_SOCKET", "LISTEN_*", "WATCHDOG_*", "MAINPID", "INVOCATION_ID", "JOURNAL_STREAM",
            "RUNTIME_DIRECTORY", "STATE_DIRECTORY",
        ),
    ),
)

#: Directories and files that no agent may be given to read, nor anything above or below them.
PATHS: Refusals = (
    (
        "the kernel's own view of the host and of other processes",
        ("/proc", "/sys", "/dev", "/run", "/var/run", "/boot"),
    ),
    (
        "it holds what confines and watches the agents",
        (
            "/etc/cordon", "/usr/lib/cordon", "/var/lib/cordon", "/var/log/cordon", "/var/log/audit",
            "/etc/apparmor", "/etc/apparmor.d", "/etc/systemd", "/etc/audit",
        ),
    ),
    (
        "it holds keys or passwords of the host",
        (
            "/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/security", "/etc/ssh",
            "/etc/sudoers", "/etc/sudoers.d", "/etc/ssl/private", "/etc/credstore", "/etc/credstore.encrypted",
            "/var/lib/systemd",
        ),
    ),
    ("the cage and the unit hide people's homes from every agent", ("/home", "/root")),
    ("an agent reads its own home already, and another agent's is not for sharing", ("/srv/agents",)),
)

#: Directories and files that no agent may be given to write, beside PATHS.
OUTPUT_PATHS: Refusals = (
    (
        "it holds the system's programs and settings",
        ("/etc", "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt"),
    ),
    (
        "daemons act on what they find there",
        ("/var/spool", "/var/mail", "/var/cache", "/var/log", "/var/backups", "/var/lib/dpkg", "/var/lib/apt"),
    ),
    ("the agent has a private one already, by the same name", ("/tmp", "/var/tmp")),
)

#: Directories that `programs` may not name, beside PATHS.
PROGRAM_PATHS: Refusals = (
    (
        "what may run there is the tool catalogue's business",
        (
            "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib32",
            "/usr/lib64", "/usr/libx32", "/usr/libexec", "/usr/share", "/usr/games",
        ),
    ),
    ("no program belongs there", ("/etc", "/var", "/tmp")),
)

#: Directories that hold somebody's credentials wherever they stand.
CREDENTIAL_DIRECTORIES = (".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker", ".vault")

#: Device nodes that amount to root, by the beginning of their path.
DEVICES: Refusals = (
    (
        "who opens it reads or writes the memory of the host",
        ("/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg"),
    ),
    (
        "who opens it reads the disk below every file permission",
        (
            "/dev/sd", "/dev/hd", "/dev/vd", "/dev/xvd", "/dev/nvme", "/dev/dm-", "/dev/md", "/dev/mmcblk",
            "/dev/loop", "/dev/nbd", "/dev/sg", "/dev/bsg", "/dev/mapper", "/dev/disk", "/dev/block",
        ),
    ),
    (
        "who opens it reads or writes what people type",
        ("/dev/input", "/dev/uinput", "/dev/hidraw", "/dev/tty", "/dev/vcs"),
    ),
    ("it unseals the keys of the vaults", ("/dev/tpm",)),
)


def environment_refusal(name: str) -> str | None:
    """Why the manifest may not set this environment variable; None where it may."""
    for reason, patterns in ENVIRONMENT:
        for pattern in patterns:
            if name == pattern or (pattern.endswith("*") and name.startswith(pattern[:-1])):
                return reason
    return None


def path_refusal(path: str) -> str | None:
    """Why no agent may be given this path to read, naming what it touches; None where one may."""
    return _touches(path, PATHS) or credential_refusal(path)


def output_refusal(path: str) -> str | None:
    """Why no agent may be given this path to write, beside the reasons of path_refusal; None where one may."""
    return _touches(path, OUTPUT_PATHS)


def program_refusal(path: str) -> str | None:
    """Why no agent may be given this path to execute, beside the reasons of path_refusal; None where one may."""
    return _touches(path, PROGRAM_PATHS)


def _touches(path: str, table: Refusals) -> str | None:
    for reason, paths in table:
        for refused in paths:
            if path == refused or path.startswith(refused + "/"):
                return f"it is inside {refused} ({reason})"
            if refused.startswith(path + "/"):
                return f"it contains {refused} ({reason})"
    return None


def credential_refusal(path: str) -> str | None:
    """Why nothing in this path's directories may be given to an agent, its own home included; else None."""
    for part in path.split("/"):
        if part in CREDENTIAL_DIRECTORIES:
            return f"it is inside a directory {part} (it holds somebody's credentials)"
    return None


def device_refusal(path: str) -> str | None:
    """Why no agent may be given this device node; None where one may."""
    for reason, beginnings in DEVICES:
        if path.startswith(beginnings):
            return reason
    return None
