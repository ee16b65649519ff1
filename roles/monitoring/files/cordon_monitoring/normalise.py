# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Turn the records of one audited act into its events. Pure: records and names in, events out.

An act leaves several records: SYSCALL (who, what, result), PATH, EXECVE, SOCKADDR, and one AVC for each
AppArmor profile of the stack that had something to say. They share a serial number; they are one event, but for
the files that a program came by open meanwhile: of those each is an event of its own.
"""

from __future__ import annotations

import re
from typing import Mapping

from . import event as events
from .act import Act, AuditEvent
from .event import Event
from .secret_reads import OPENINGS
from .verdict import verdicts

TAMPER = "cordon-tamper"

_DENIALS = frozenset({"EACCES", "EPERM", "EROFS"})
# What a firewall's refusal looks like to connect(2), and also what an ordinary failure looks like.
NETWORK_FAILURES = frozenset({"EHOSTUNREACH", "ECONNREFUSED", "ENETUNREACH"})
_EXEC_CALLS = frozenset({"execve", "execveat"})
_CONNECT_CALLS = frozenset({"connect", "sendto", "sendmsg", "socketcall"})
_NETWORK_OPERATIONS = frozenset(
    {
        "create",
        "connect",
        "bind",
        "listen",
        "accept",
        "sendmsg",
        "recvmsg",
        "getsockopt",
        "setsockopt",
        "getsockname",
        "getpeername",
        "shutdown",
    }
)
# System calls on other processes and on the machine; the audit rules ask for their refusals.
_PROCESS_CALLS = frozenset({"kill", "tgkill", "ptrace", "mount", "umount2", "unshare", "setns", "chroot", "bpf"})
_SAID = ("class", "profile", "layer", "access", "family", "sock_type", "protocol", "detail")
# AppArmor's names for things that are neither a file, nor a connection, nor the start of a program.
_PROCESS_OPERATIONS = frozenset(
    {
        "capable",
        "ptrace",
        "signal",
        "change_profile",
        "change_onexec",
        "change_hat",
        "stack",
        "stack_onexec",
        "userns_create",
        "mount",
        "umount",
        "pivotroot",
        "io_uring",
    }
)


def audit_events(event: AuditEvent, by_uid: Mapping[int, str], host: str) -> list[Event]:
    """The events of one act; none for what is not an agent's and no tampering, and for ordinary failures."""
    whole = Act(event)
    agent = whole.agent(by_uid)
    if agent is None and TAMPER not in whole.keys:
        return []
    own, opened = _parts(whole)
    begun = _begun(own, f"audit:{event.stamp}", agent, host)
    found = [_tamper(begun, own, by_uid) if TAMPER in own.keys else _of_kind(begun, own)]
    for number, part in enumerate(opened if agent else [], 1):
        begun = _begun(part, f"audit:{event.stamp}:{number}", agent, host)
        found.append(_file(begun, part, part.verdict().get("operation", "")))
    return [one for one in found if one]


def _parts(act: Act) -> tuple[Act, list[Act]]:
    """The act itself, and each file more that AppArmor speaks of: an execve inherits them, one recvmsg may bring many.

    Whoever sends or starts chooses what comes first, so no file may stand for another.
    """
    event, decided = act.event, act.verdict()
    apart: dict[tuple[str, str | None], list[dict[str, str]]] = {}
    for record in act.avcs:
        if _is_opening(record, act.call) and not _is_of(record, decided, act.call):
            apart.setdefault((record["operation"], record.get("name")), []).append(record)
    taken = {id(record) for records in apart.values() for record in records}
    call = [record for record in event.records if record["type"] == "SYSCALL"]  # PATH and the rest are of the act itself
    own = event._replace(records=[record for record in event.records if id(record) not in taken])
    return Act(own), [Act(event._replace(records=call + records)) for records in apart.values()]


def _is_opening(record: Mapping[str, str], call: str) -> bool:
    """A start also maps files."""
    operation = record.get("operation", "")
    return operation in OPENINGS or (call in _EXEC_CALLS and operation.startswith("file_"))


def _is_of(record: Mapping[str, str], decided: Mapping[str, str], call: str) -> bool:
    """Whether the act's own event tells of it: of an open by creation, only where it is no secret."""
    if call in _EXEC_CALLS | _CONNECT_CALLS | _PROCESS_CALLS or record.get("name") != decided.get("name"):
        return False
    return record["operation"] == decided.get("operation") or events.secret_of_path(record.get("name", "")) is None


def _begun(act: Act, identity: str, agent: str | None, host: str) -> Event:
    """What is the same for every kind."""
    found = events.new(identity, act.event.seconds, host, agent, "audit")
    found["program"] = act.syscall.get("exe") or act.verdict().get("comm")
    pid = act.syscall.get("pid") or act.verdict().get("pid", "")
    found["pid"] = int(pid) if pid.isdigit() else None
    found["profile"] = act.profile()
    found["outcome"], found["reason"] = _outcome(act)
    if found["reason"] in ("apparmor", "complain"):
        found["apparmor"] = _apparmor(act)
    return found


def _outcome(act: Act) -> tuple[str, str | None]:
    verdict = act.verdict().get("apparmor")
    if verdict == "DENIED":
        return "denied", "apparmor"
    if act.error in _DENIALS:
        return "denied", act.error
    return "allowed", "complain" if verdict == "ALLOWED" else act.error


def _apparmor(act: Act) -> dict[str, str | None]:
    """What exactly was refused, or would be in enforce, and in which layer: about the path that the event names."""
    said = verdicts(act)
    chosen = next((found for found in said if found["path"] == act.path()), said[0] if said else {})
    return {name: chosen.get(name) for name in _SAID}


def _of_kind(found: Event, act: Act) -> Event | None:
    operation = act.verdict().get("operation", "")
    if operation in _PROCESS_OPERATIONS or act.call in _PROCESS_CALLS:
        return _process_operation(found, act, operation)
    if act.call in _EXEC_CALLS or operation == "exec":
        return _process(found, act)
    if act.call in _CONNECT_CALLS or (operation in _NETWORK_OPERATIONS and "family" in act.verdict()):
        return _connection(found, act, operation or "connect")
    return _file(found, act, operation)


def _tamper(found: Event, act: Act, by_uid: Mapping[int, str]) -> Event | None:
    """A write to what holds the agents, by whomever; a write that failed for another reason changed nothing."""
    if found["outcome"] == "allowed" and act.error:
        return None
    found.update(kind="file", operation=_file_operation(act.call), user=_user(act, by_uid))
    if found["outcome"] == "allowed":
        found["reason"] = "tamper"
    return events.set_path(found, act.path())


def _user(act: Act, by_uid: Mapping[int, str]) -> dict[str, int | None]:
    """Numbers of the user and of the login behind it (null: no login, a service). A session of an agent is no login."""
    uid, login = act.syscall.get("uid", ""), act.syscall.get("auid", "")
    unset = login in ("4294967295", "-1")
    person = login.isdigit() and not unset and int(login) not in by_uid
    return {"uid": int(uid) if uid.isdigit() else None, "login_uid": int(login) if person else None}


def _process(found: Event, act: Act) -> Event | None:
    """A program that started, or was refused. A name looked for along PATH and not found is no act."""
    if found["outcome"] == "allowed" and act.error:
        return None
    found.update(kind="process", operation="exec", path=act.path(), argv=act.argv())
    return found


def _process_operation(found: Event, act: Act, operation: str) -> Event | None:
    """A capability, a signal or trace to another process, a mount, ..."""
    if found["outcome"] == "allowed" and not act.verdict():
        return None
    verdict = act.verdict()
    about = verdict.get("capname") or verdict.get("peer") or verdict.get("name") or act.target_program()
    name = operation or act.call
    found.update(kind="process", operation=f"{name} {about}" if about else name)
    return found


def _connection(found: Event, act: Act, operation: str) -> Event | None:
    target = act.socket()
    if target and target.path:
        return _unix_socket(found, target.path)
    verdict = act.verdict()
    found.update(kind="connection", operation=operation, address=None, port=None, protocol=_protocol(verdict))
    if target:
        found.update(address=target.address, port=target.port)
    elif verdict.get("faddr"):
        found.update(address=verdict["faddr"], port=int(verdict.get("fport", "0")) or None)
    elif not verdict:
        return None  # neither IP nor Unix (netlink), or a send on a socket that was connected before
    return found


def _unix_socket(found: Event, path: str) -> Event | None:
    """A Unix socket is a file to whoever asks what an agent touched; nobody listening there is no denial."""
    if found["outcome"] == "allowed":
        return None
    found.update(kind="file", operation="connect")
    return events.set_path(found, path)


def _protocol(verdict: Mapping[str, str]) -> str | None:
    kind = verdict.get("sock_type")
    return {"stream": "tcp", "dgram": "udp"}.get(kind or "", kind)


def _file(found: Event, act: Act, operation: str) -> Event | None:
    found.update(kind="file", operation=operation or _file_operation(act.call))
    events.set_path(found, act.path())
    watched = act.verdict().get("apparmor") == "AUDIT"
    # `audit` rules also speak of every stat and mapping: coming by an open file is the reading.
    if watched and found["operation"] not in OPENINGS:
        return None
    if found["outcome"] == "allowed" and not act.verdict():
        return None  # an ordinary failure, or another tool's rule on the same call
    if watched:
        found["reason"] = None
    return found


def _file_operation(call: str) -> str | None:
    """openat2 -> open, unlinkat -> unlink: AppArmor's words where there is one."""
    return re.sub(r"(at)?2?$", "", call) or None if call not in ("creat", "stat") else call
