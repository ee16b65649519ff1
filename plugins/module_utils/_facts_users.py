# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of accounts: can the agent's user become somebody else, or start a process that is not caged?

Per agent (None when the user does not exist):
    name, uid, gid, home, shell
    login_shell   bool: the shell is one that a login would get
    password      locked|set|empty|null (unreadable)
    expired       bool|null (unreadable): PAM admits nobody as this user, whatever key or job there is
    groups        [str]: every group that the user is in, the primary one included
    privileged_groups  [str]: those of them that amount to root or to other users' data
    sudo          [str]|null: lines of `sudo -l -U`; [] when sudo is absent or grants nothing
    linger        bool: systemd would keep a user manager, outside any cage
    subordinate_ids    [str]: lines of /etc/subuid and /etc/subgid: keys to user namespaces
    cron, at      bool|null: may this user leave jobs (crontab(1), at(1)); cron.allow, at.allow and -.deny
    jobs          [str]|null: jobs that exist already
sudo, cron, at and jobs are left out in a preflight.
"""

from __future__ import annotations

import time
from typing import Any, Dict, List, Optional, Sequence

from ._facts_source import Source

PREFIX = "agent-"
NO_LOGIN = ("nologin", "false")
# Membership in any of these is root, another user's data, or the host's logs.
PRIVILEGED_GROUPS = frozenset((
    "root", "sudo", "wheel", "admin", "adm", "shadow", "disk", "docker", "podman", "lxd", "incus", "incus-admin",
    "libvirt", "kvm", "systemd-journal", "staff", "kmem", "tty", "utmp", "netdev", "plugdev", "input", "video",
    "render", "dialout", "crontab", "_ssh", "ssh", "fuse", "tape", "operator", "src",
))
JOB_DIRECTORIES = ("/var/spool/cron/crontabs", "/var/spool/cron/atjobs")


class Users:
    """The local account files, read once. The hash fields of shadow are reduced to a word at once."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.accounts = _rows(source.text("/etc/passwd"), 7)
        self.groups = _rows(source.text("/etc/group"), 4)
        shadow = _rows(source.text("/etc/shadow"), 9)
        self.passwords = {row[0]: password_state(row[1]) for row in shadow}
        self.expired = {row[0]: expired(row[7], time.time()) for row in shadow}

    def agent_uids(self) -> Dict[int, str]:
        """Return {uid: user} of every agent-* user, whether a manifest names it or not."""
        return {int(row[2]): row[0] for row in self.accounts if row[0].startswith(PREFIX) and row[2].isdigit()}

    def read(self, name: str, preflight: bool) -> Optional[Dict[str, Any]]:
        """Return the facts of one user (shape: module docstring)."""
        row = next((row for row in self.accounts if row[0] == name), None)
        if row is None:
            return None
        groups = sorted({group[0] for group in self.groups if group[2] == row[3] or name in group[3].split(",")})
        facts: Dict[str, Any] = {
            "name": name, "uid": int(row[2]), "gid": int(row[3]), "home": row[5], "shell": row[6],
            "login_shell": row[6].rpartition("/")[2] not in NO_LOGIN,
            "password": self.passwords.get(name),
            "expired": self.expired.get(name),
            "groups": groups,
            "privileged_groups": [group for group in groups if group in PRIVILEGED_GROUPS],
            "linger": self.source.exists("/var/lib/systemd/linger/" + name),
            "subordinate_ids": self._subordinate(row),
        }
        if not preflight:
            facts.update(sudo=self._sudo(name), cron=self._allowed("cron", name, True),
                         at=self._allowed("at", name, False), jobs=self._jobs(name, facts["uid"]))
        return facts

    def _subordinate(self, row: Sequence[str]) -> Optional[List[str]]:
        texts = [self.source.optional(path) for path in ("/etc/subuid", "/etc/subgid")]
        if None in texts:
            return None
        lines = [line for text in texts for line in (text or "").splitlines()]
        return sorted(line for line in lines if line.split(":")[0] in (row[0], row[2]))

    def _sudo(self, name: str) -> Optional[List[str]]:
        if self.source.program("sudo") is None:
            return []
        # Asked again once: on a busy guest one answer in some hundred was of neither form, for reasons not found.
        for _attempt in range(2):
            text = self.source.output("sudo", "-n", "-l", "-U", name)
            grants = sudo_grants(text)
            if grants is not None:
                return grants
        if text is not None:
            self.source.note("sudo -l -U " + name, "an answer of neither form that is known: %r" % text)
        return None

    def _allowed(self, service: str, name: str, default: bool) -> Optional[bool]:
        """crontab(1) and at(1): the allow file wins, then the deny file, then the packaged default."""
        for suffix, listed_means in (("allow", True), ("deny", False)):
            path = "/etc/%s.%s" % (service, suffix)
            if self.source.exists(path):
                text = self.source.text(path)
                return None if text is None else (name in text.split()) == listed_means
        return default

    def _jobs(self, name: str, uid: int) -> Optional[List[str]]:
        found: List[str] = []
        for top in JOB_DIRECTORIES:
            if not self.source.exists(top):
                continue
            names = self.source.names(top)
            if names is None:
                return None
            for path in (top + "/" + entry for entry in names):
                metadata = self.source.metadata(path)
                if path.endswith("/" + name) or (metadata and metadata["uid"] == uid):
                    found.append(path)
        return found


def strays(users: Users, processes: Optional[List[Dict[str, Any]]],
           known: Sequence[str]) -> Optional[List[Dict[str, Any]]]:
    """Return the users agent-* that the manifest does not name: confined by nothing of ours."""
    if processes is None or not users.accounts:
        return None
    return [{"user": user, "processes": sum(1 for process in processes if process["user"] == user)}
            for user in sorted(users.agent_uids().values()) if user not in known]


def password_state(field: str) -> str:
    """shadow(5): a field that starts with ! or * cannot match any password; an empty one asks for none."""
    if not field:
        return "empty"
    return "locked" if field[0] in "!*" else "set"


def expired(field: str, now: float) -> bool:
    """shadow(5): the account is of no use from that day on, counted since 1970; an empty field is no such day."""
    return field.isdigit() and int(field) <= now // 86400


def sudo_grants(text: Optional[str]) -> Optional[List[str]]:
    """Return the commands that `sudo -l -U USER` lists; None when the text is neither form we know."""
    if text is None:
        return None
    if "is not allowed to run sudo" in text:
        return []
    lines = text.splitlines()
    start = next((number for number, line in enumerate(lines) if "may run the following commands" in line), None)
    return None if start is None else [line.strip() for line in lines[start + 1:] if line.strip()]


def _rows(text: Optional[str], width: int) -> List[List[str]]:
    rows = [line.split(":") for line in (text or "").splitlines()]
    return [row for row in rows if len(row) == width]
