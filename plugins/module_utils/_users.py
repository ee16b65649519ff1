# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private: what an agent's user must look like, and the steps that bring it there.

An agent's user has no login, no password, an expired account, no group but its own, no cron or at, no
lingering user manager and no subordinate ids: each would start a process outside the unit that confines
it (peers.md S-9, S-14, S-19).
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Tuple

NOLOGIN = "/usr/sbin/nologin"
LINGER = "/var/lib/systemd/linger"
# usermod(8) on locking an account and not only its password. PAM's account phase then refuses whoever asks it:
# sshd, su, cron, at and the user manager, for root too and for a key or a job that root has planted.
EXPIRED = "1"
COMMENT = "AI agent"  # where nothing else is wanted


class Account(NamedTuple):
    """One user as the host's files have it."""

    comment: str
    home: str
    shell: str
    groups: Tuple[str, ...]  # supplementary
    locked: bool
    expired: bool
    subordinate: bool  # has a line in /etc/subuid or /etc/subgid
    lingering: bool


class Host(NamedTuple):
    """The files that say who a user is and what it may start, as texts; None where the file is absent."""

    passwd: str
    group: str
    shadow: str
    subuid: str
    subgid: str
    lingering: Tuple[str, ...]
    lists: Dict[str, Optional[str]]  # cron.deny, cron.allow, at.deny, at.allow


class Step(NamedTuple):
    """One change: what it is for a diff, and the command that makes it."""

    what: str
    argv: List[str]


def _rows(text: str) -> List[List[str]]:
    return [line.split(":") for line in text.splitlines() if line and not line.startswith("#")]


def account(host: Host, user: str) -> Optional[Account]:
    """Read one user out of the host's files; None where there is no such user."""
    row = next((row for row in _rows(host.passwd) if row[0] == user), None)
    if row is None:
        return None
    shadow = next((shadow for shadow in _rows(host.shadow) if shadow[0] == user), [user, ""])
    return Account(
        comment=row[4],
        home=row[5],
        shell=row[6],
        groups=tuple(sorted(entry[0] for entry in _rows(host.group) if user in entry[3].split(","))),
        # shadow(5): a field that starts with '!' or is '*' matches no password; an empty one needs none.
        locked=shadow[1].startswith(("!", "*")),
        expired=shadow[7:8] == [EXPIRED],
        subordinate=any(entry[0] == user for entry in _rows(host.subuid) + _rows(host.subgid)),
        lingering=user in host.lingering,
    )


def steps(host: Host, user: str, home: str, comment: str = COMMENT) -> List[Step]:
    """Commands that make or correct one user; none where it is right. comment: the field that says who it is, passwd(5)."""
    seen = account(host, user)
    expire = Step("let the account expire", ["usermod", "--expiredate", EXPIRED, user])
    if seen is None:
        create = [
            "useradd",
            "--system",
            "--user-group",
            "--no-create-home",
            "--home-dir",
            home,
            "--shell",
            NOLOGIN,
            "--comment",
            comment,
            user,
        ]
        # useradd leaves out the day of a system user, seen with shadow 4.13.
        return [Step("create the user", create), expire]
    found: List[Step] = []
    if seen.comment != comment:
        found.append(Step(f"comment {seen.comment!r}", ["usermod", "--comment", comment, user]))
    if (seen.home, seen.shell) != (home, NOLOGIN):
        found.append(
            Step(
                f"home {seen.home} and shell {seen.shell}",
                ["usermod", "--home", home, "--shell", NOLOGIN, user],
            )
        )
    if seen.groups:
        found.append(Step(f"leave the groups {', '.join(seen.groups)}", ["usermod", "--groups", "", user]))
    if not seen.locked:
        found.append(Step("lock the password", ["usermod", "--lock", user]))
    if not seen.expired:
        found.append(expire)
    if seen.subordinate:
        found += _without_subordinate_ids(host, user)
    if seen.lingering:
        found.append(Step("end lingering", ["rm", "--", f"{LINGER}/{user}"]))
    return found


def _without_subordinate_ids(host: Host, user: str) -> List[Step]:
    found = []
    for option, text in (("--del-subuids", host.subuid), ("--del-subgids", host.subgid)):
        for _name, first, count in (row for row in _rows(text) if row[0] == user):
            last = int(first) + int(count) - 1
            found.append(
                Step(
                    f"give up the subordinate ids {first}-{last}",
                    ["usermod", option, f"{first}-{last}", user],
                )
            )
    return found


def denied(lists: Dict[str, Optional[str]], service: str, users: List[str]) -> Tuple[str, str]:
    """The wanted text of cron.allow/cron.deny (or at.*): which file, and its content.

    crontab(1) and at(1): where the .allow file exists it alone decides, else the .deny file does.
    Lines that others wrote stay as they are.
    """
    allow = lists[f"{service}.allow"]
    if allow is not None:
        kept = [line for line in allow.splitlines() if line.strip() not in users]
        return f"{service}.allow", "".join(f"{line}\n" for line in kept)
    before = (lists[f"{service}.deny"] or "").splitlines()
    present = {line.strip() for line in before}
    return f"{service}.deny", "".join(
        f"{line}\n" for line in [*before, *[user for user in users if user not in present]]
    )
