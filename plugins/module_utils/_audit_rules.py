# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private: which audit rules a host of agents needs, as text, and how to compare them with the kernel's.

Agents are systemd services: their login uid is unset, so the usual ``-F auid>=1000`` records nothing
of them.  Rules go by ``-F uid=``.  Everything here is pure: no kernel, no file, no user database.
"""

from __future__ import annotations

import re
import shlex
from typing import Any, Dict, FrozenSet, Iterable, List, NamedTuple, Sequence, Tuple

EXEC = "cordon-exec"
DENIED = "cordon-denied"
CONNECT = "cordon-connect"
TAMPER = "cordon-tamper"
KEYS = (EXEC, DENIED, CONNECT, TAMPER)

# The calls that name a file.  A call that the architecture does not have is an error for auditctl,
# so the old forms (open, unlink, ...) are apart: arm64 has only the newer ones.
_FILE_CALLS = (
    "openat",
    "openat2",
    "truncate",
    "unlinkat",
    "renameat",
    "renameat2",
    "mkdirat",
    "linkat",
    "symlinkat",
    "mknodat",
    "fchmod",
    "fchmodat",
    "fchown",
    "fchownat",
    "setxattr",
    "lsetxattr",
    "removexattr",
    "lremovexattr",
    "chdir",
    "utimensat",
)
_OLD_FILE_CALLS = (
    "open",
    "creat",
    "unlink",
    "rename",
    "mkdir",
    "rmdir",
    "link",
    "symlink",
    "mknod",
    "chmod",
    "chown",
    "lchown",
)
# What an agent would use against other processes and the machine: their refusals are events too.
_PROCESS_CALLS = ("kill", "tgkill", "ptrace", "mount", "umount2", "unshare", "setns", "chroot", "bpf")
_CONNECT_CALLS = ("connect", "sendto", "sendmsg")

# EROFS: systemd's ProtectSystem= answers a write with it, so to an agent it is a denial.
_DENIED_ERRORS = ("EACCES", "EPERM", "EROFS")
# EHOSTUNREACH and ECONNREFUSED are what nftables' ``reject`` looks like to connect(2).
_CONNECT_ERRORS = ("EACCES", "EPERM", "EHOSTUNREACH", "ECONNREFUSED")


class Architecture(NamedTuple):
    """One system call table: its name for auditctl and the calls it has."""

    name: str
    denied_calls: Tuple[str, ...]
    connect_calls: Tuple[str, ...]


_X86_64 = (
    Architecture("b64", _FILE_CALLS + _OLD_FILE_CALLS + _PROCESS_CALLS, _CONNECT_CALLS),
    Architecture(
        "b32",
        _FILE_CALLS + _OLD_FILE_CALLS + _PROCESS_CALLS + ("truncate64", "chown32", "lchown32", "fchown32"),
        _CONNECT_CALLS + ("socketcall",),
    ),
)
_ARM64 = (Architecture("b64", _FILE_CALLS + _PROCESS_CALLS, _CONNECT_CALLS),)
ARCHITECTURES: Dict[str, Tuple[Architecture, ...]] = {"x86_64": _X86_64, "aarch64": _ARM64}


class Rule(NamedTuple):
    """A rule in the one form that equal rules share, however they were written.

    kind: ``watch`` or the list and action, for example ``always,exit``.
    """

    kind: str
    calls: FrozenSet[str]
    fields: FrozenSet[str]

    @property
    def key(self) -> str:
        """The rule's key, or ''."""
        return next((field[4:] for field in self.fields if field.startswith("key=")), "")


def uid_ranges(uids: Iterable[int]) -> List[Tuple[int, int]]:
    """Join neighbouring uids: [998, 999, 1005] -> [(998, 999), (1005, 1005)].

    The kernel walks the whole list at every system call of every process, so a host with fifty
    agents must not carry fifty times the rules.  A range never holds a uid that was not given.
    """
    ranges: List[Tuple[int, int]] = []
    for uid in sorted(set(uids)):
        if ranges and ranges[-1][1] == uid - 1:
            ranges[-1] = (ranges[-1][0], uid)
        else:
            ranges.append((uid, uid))
    return ranges


def render(uids: Iterable[int], machine: str, tamper_paths: Sequence[str]) -> List[str]:
    """The rules, a line each.  machine: as ``uname -m`` says; ValueError for one without a call table here."""
    if machine not in ARCHITECTURES:
        raise ValueError(f"no system call table for machine {machine!r}: known are {', '.join(sorted(ARCHITECTURES))}")
    lines: List[str] = []
    for first, last in uid_ranges(uids):
        who = f"-F uid={first}" if first == last else f"-F uid>={first} -F uid<={last}"
        for architecture in ARCHITECTURES[machine]:
            lines += _agent_lines(architecture, who)
    return lines + [f"-w {path} -p wa -k {TAMPER}" for path in tamper_paths]


def _agent_lines(architecture: Architecture, who: str) -> List[str]:
    start = f"-a always,exit -F arch={architecture.name} -S"
    lines = [f"{start} execve,execveat {who} -F key={EXEC}"]
    for key, calls, errors in (
        (DENIED, architecture.denied_calls, _DENIED_ERRORS),
        (CONNECT, architecture.connect_calls, _CONNECT_ERRORS),
    ):
        lines += [f"{start} {','.join(calls)} -F exit=-{error} {who} -F key={key}" for error in errors]
    return lines


def parse(line: str) -> Rule:
    """Read a rule as a rules file or ``auditctl -l`` writes it (versions 3 and 4 differ); ValueError if it is none."""
    words = shlex.split(line)
    kind = ""
    calls: List[str] = []
    fields: List[str] = []
    if len(words) % 2:
        raise ValueError(f"not an audit rule: {line!r}")
    for option, value in zip(words[::2], words[1::2]):
        if option in ("-a", "-A", "-w"):
            kind = "watch" if option == "-w" else ",".join(sorted(value.split(",")))
            fields += [f"path={value.rstrip('/')}"] if option == "-w" else []
        elif option == "-S":
            calls += [call for call in value.split(",") if call != "all"]
        else:
            fields.append(_field(option, value))
    if not kind:
        raise ValueError(f"not an audit rule: {line!r}")
    return _watch_or_rule(kind, calls, fields)


def _field(option: str, value: str) -> str:
    if option == "-k":
        return f"key={value}"
    if option == "-p":
        return "perm=" + "".join(sorted(value))
    if option in ("-F", "-C"):
        return "perm=" + "".join(sorted(value[5:])) if value.startswith("perm=") else value
    raise ValueError(f"unknown option {option!r} in an audit rule")


def _watch_or_rule(kind: str, calls: Sequence[str], fields: Sequence[str]) -> Rule:
    """A rule on all calls with a path and permissions is what -w makes; version 4 lists it so."""
    if not calls and any(field.startswith("perm=") for field in fields):
        fields = [re.sub("^dir=", "path=", field) for field in fields]
        return Rule("watch", frozenset(), frozenset(fields))
    return Rule(kind, frozenset(calls), frozenset(fields))


def ours(listing: str) -> Dict[Rule, str]:
    """Those rules of ``auditctl -l`` that carry one of our keys, with the line that deletes each."""
    found: Dict[Rule, str] = {}
    for line in listing.splitlines():
        if not any(key in line for key in KEYS):
            continue
        try:
            rule = parse(line)
        except ValueError:
            continue  # somebody else's rule in a form that we never write
        if rule.key in KEYS:
            found[rule] = line
    return found


def deletion(line: str) -> str:
    """The line that takes a listed rule away."""
    return re.sub("^-w", "-W", line) if line.startswith("-w") else re.sub("^-[aA]", "-d", line)


class Plan(NamedTuple):
    """What to tell the kernel: lines for ``auditctl -R``."""

    delete: List[str]
    add: List[str]


def plan(wanted: Sequence[str], listing: str) -> Plan:
    """Compare wanted lines with ``auditctl -l``; rules without our keys are never touched."""
    loaded = ours(listing)
    desired = {parse(line): line for line in wanted}
    return Plan(
        [deletion(line) for rule, line in loaded.items() if rule not in desired],
        [line for rule, line in desired.items() if rule not in loaded],
    )


def parse_status(text: str) -> Dict[str, int]:
    """``auditctl -s`` -> {"enabled": 1, "lost": 0, "backlog_limit": 8192, ...}; other lines are left out."""
    pairs = re.findall(r"^(\w+) (\d+)", text, re.MULTILINE)
    return {name: int(value) for name, value in pairs}


def settings(others: str, backlog_limit: int, backlog_wait_time: int) -> List[str]:
    """Lines of the settings file.  others: the text of everybody else's rules files.

    A larger backlog of somebody else's stays, and so does a chosen failure mode.  The wait time does
    not: Debian's own file says 60000 ms, with which a slow consumer stalls the whole machine
    (linux-audit/audit-userspace 273); a record lost instead is counted, and the count is alerted on.
    """
    sizes = [int(size) for size in re.findall(r"^\s*-b\s+(\d+)", others, re.MULTILINE)]
    lines = [f"-b {max([backlog_limit] + sizes)}", f"--backlog_wait_time {backlog_wait_time}"]
    return lines if re.search(r"^\s*-f\s+\d", others, re.MULTILINE) else lines + ["-f 1"]


def document(lines: Sequence[str], what: str) -> str:
    """A rules file's text."""
    return f"# {what} Written by the Ansible collection cordon.agent_host.\n" + "".join(f"{line}\n" for line in lines)


def setting_lines(status: Dict[str, Any], backlog_limit: int, backlog_wait_time: int) -> List[str]:
    """What differs between the kernel's ``auditctl -s`` and the settings, as auditctl lines."""
    lines = [] if status.get("backlog_limit", 0) >= backlog_limit else [f"-b {backlog_limit}"]
    if status.get("backlog_wait_time") != backlog_wait_time:
        lines.append(f"--backlog_wait_time {backlog_wait_time}")
    return lines if status.get("enabled") else lines + ["-e 1"]
