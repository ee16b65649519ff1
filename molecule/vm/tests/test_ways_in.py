# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every way to become a process of an agent: taken by an ordinary user it works; of the agent it is confined, refused,
or, where root alone opens it, ended within seconds. Each leaves its line in a log.

All ways are taken once, at the beginning (`taken`), because cron wakes but once a minute. The tests judge.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Collection, Generator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.kernel
PROBE = Path(__file__).with_name("ways_in_probe.py").read_text()
PERSON, AGENT = "person", "agent-scout"
LABEL = "cordon.scout//&cordon.scout.main (enforce)"
AUDIT_LOG = "/var/log/audit/audit.log"

# From inside: ways that are open to the agent and lead nowhere else.
CONFINED = (
    "interpreter with a script",
    "script",
    "copied binary",
    "hard link",
    "symbolic link",
    "copied loader",
    "preloaded library",
    "path through /proc/self/root",
)
# From inside: ways that are closed, and what the line in the audit log names: a file in memory has no path. What seccomp
# refuses leaves no line.
REFUSED = {
    "dynamic loader": "ld-linux",
    "file in memory": 'operation="exec" profile="cordon.scout" name="/"',
    "symbolic link to what is not granted": "/usr/bin/unshare",
    "/proc/self/root to what is not granted": "/usr/bin/unshare",
    "bind mount in a user namespace": "/usr/bin/unshare",
    "user namespace by the system call": None,
    "ptrace": None,
    "aa-exec": "/usr/bin/aa-exec",
}

# From outside, as root. Each runs {run}, which writes its pid and label into {mark} and then waits.
PLACE = "/run/ways-in"
RUN = 'umask 022; read -r label < /proc/$$/attr/current; echo $$ $label > "$1"; [ "$2" = 0 ] || exec sleep "$2"'
ENDED = {
    "runuser": "runuser -u {user} -- {run}",
    "setpriv": "setpriv --reuid {user} --regid {user} --clear-groups {run}",
    "sudo": "sudo -n -u {user} {run}",
    "systemd-run": "systemd-run --quiet --collect --uid={user} {run}",
    "systemd-run into the agent's slice": "systemd-run --quiet --collect --uid={user} --slice=cordon-scout.slice {run}",
    "activation by D-Bus": (
        "dbus-send --system --print-reply --reply-timeout=5000 --dest=org.freedesktop.DBus /"
        " org.freedesktop.DBus.StartServiceByName string:org.example.{user} uint32:0"
    ),
}
# ... and these ask PAM, which says who asked and why not.
BARRED = {
    "su": ("su -s /bin/sh {user} -c {quoted}", "pam_unix(su:account): account agent-scout has expired"),
    "su with a login shell": ("su - {user} -c {quoted}", "pam_unix(su-l:account): account agent-scout has expired"),
    "ssh with a planted key": (
        "ssh -n -i {place}/key -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
        " {user}@127.0.0.1 {quoted}",
        "pam_unix(sshd:account): account agent-scout has expired",
    ),
    "user manager": ("systemctl start user@{uid}.service && systemctl is-active user@{uid}.service > {mark}",
                     "pam_unix(systemd-user:account): account agent-scout has expired"),
    "crontab": ("", "pam_unix(cron:account): account agent-scout has expired"),
    "/etc/cron.d": ("", "pam_unix(cron:account): account agent-scout has expired"),
    "at": ("", "pam_unix(atd:account): account agent-scout has expired"),
}
SCHEDULED = ("crontab", "/etc/cron.d", "at")
PLANT = """
set -e
id {user} > /dev/null 2>&1 || useradd --create-home --shell /bin/bash {user}
home=$(getent passwd {user} | cut -d: -f6)
mkdir -p $home/.ssh && cat {place}/key.pub > $home/.ssh/authorized_keys
chown -R $(stat -c %U $home) $home/.ssh
echo '* * * * * {user} {cron_d}' > /etc/cron.d/ways-in-{user}
echo '* * * * * {crontab}' > /var/spool/cron/crontabs/{user}
chown {user}:crontab /var/spool/cron/crontabs/{user} && chmod 0600 /var/spool/cron/crontabs/{user}
printf '[D-BUS Service]\\nName=org.example.{user}\\nExec={dbus}\\nUser={user}\\n' \
  > /usr/share/dbus-1/system-services/org.example.{user}.service
# at(1) would ask at.deny; root can leave a job in the spool all the same.
job=/var/spool/cron/atjobs/$(printf 'a%05x%08x' $((1000 + $(id -u {user}))) $(($(date +%s) / 60)))
printf '#!/bin/sh\\n# atrun uid=%d gid=%d\\n# mail root 0\\numask 22\\n%s\\n' $(id -u {user}) $(id -g {user}) {at} > $job
chown {user}:daemon $job && chmod 0700 $job
"""
UPROOT = """
systemctl stop user@$(id -u {user}).service
rm -f /etc/cron.d/ways-in-{user} /var/spool/cron/crontabs/{user} /usr/share/dbus-1/system-services/org.example.{user}.service
rm -f $(getent passwd {user} | cut -d: -f6)/.ssh/authorized_keys
# atd keeps a job that it could not run as "=".
for job in /var/spool/cron/atjobs/[a=]*; do grep -qs ways-in $job && rm $job; done
pkill -KILL -u {user} -f ways-in; pkill -KILL -u {user} -f 'sleep 300'; true
"""

Taken = dict[str, Any]


def mark(way: str, user: str) -> str:
    return f"{PLACE}/way-{''.join(letter if letter.isalnum() else '-' for letter in way)}.{user}"


def words(way: str, user: str, uid: int) -> dict[str, Any]:
    """What the templates are filled with: the agent's processes wait to be found, the person's end."""
    seconds = 300 if user == AGENT else 0

    def run(name: str) -> str:
        return f"/bin/sh {PLACE}/run {mark(name, user)} {seconds}"

    return {
        "user": user, "uid": uid, "place": PLACE, "mark": mark(way, user), "run": run(way), "quoted": shlex.quote(run(way)),
        "cron_d": run("/etc/cron.d"), "crontab": run("crontab"), "at": shlex.quote(run("at")),
        "dbus": run("activation by D-Bus"),
    }  # fmt: skip


FROM_OUTSIDE = {**ENDED, **{way: template for way, (template, _line) in BARRED.items() if template}}


def take_from_outside(host: Any, user: str, ways: Collection[str] = FROM_OUTSIDE) -> None:
    """Take these ways of root's at once."""
    commands = [FROM_OUTSIDE[way].format(**words(way, user, host.user(user).uid)) for way in ways]
    # setsid: the shell that waits here must not be the parent that a signal goes to.
    host.check_output("".join(f"( {command} ) < /dev/null > /dev/null 2>&1 &\n" for command in commands) + "true")


@pytest.fixture(scope="module")
def taken(host: Any) -> Generator[Taken]:
    """All ways, taken: what the probes said, what the marks hold, and from where on the logs speak of it."""
    since = host.check_output("date '+%Y-%m-%d %H:%M:%S'")
    line = int(host.check_output(f"wc -l < {AUDIT_LOG}")) + 1
    setup = f"mkdir -p {PLACE}; chmod 1777 {PLACE}; rm -f {PLACE}/*; printf %s {shlex.quote(RUN)} > {PLACE}/run"
    host.check_output(f"{setup}; ssh-keygen -q -t ed25519 -N '' -f {PLACE}/key")
    users = (PERSON, AGENT)
    try:
        for user in users:
            host.check_output(PLANT.format(**words("", user, 0)))
        host.check_output("systemctl kill --signal=HUP atd; busctl call org.freedesktop.DBus / org.freedesktop.DBus ReloadConfig")
        planted = time.monotonic()
        inside = {
            PERSON: f"runuser -u {PERSON} -- env HOME=/home/{PERSON} python3 - < {PLACE}/probe",
            AGENT: f"cordonctl run scout -- python3 - < {PLACE}/probe",
        }
        host.check_output(f"printf %s {shlex.quote(PROBE)} > {PLACE}/probe")
        probed = {user: json.loads(host.check_output(f"cd /; {command}")) for user, command in inside.items()}
        for user in users:
            take_from_outside(host, user)
        wait_for(host, planted)
        yield {"since": since, "line": line, "probed": probed, "marks": marks(host)}
    finally:
        for user in users:
            host.run(UPROOT.format(user=user))
        host.run(f"rm -rf /home/{PERSON}/tmp* /srv/agents/scout/workspace/tmp*; userdel --remove {PERSON}; rm -rf {PLACE}")


def wait_for(host: Any, planted: float) -> None:
    """Until every mark is there and nothing waits that the watch must end; the tests say which are missing.

    cron and at look once a minute, at both users' jobs: a minute is enough for those that must leave no mark.
    """
    wanted = {mark(way, PERSON) for way in [*ENDED, *BARRED]} | {mark(way, AGENT) for way in ENDED}
    waiting = f"pgrep -u {AGENT} -f 'sleep 300|ways-in' | wc -l"
    for _round in range(60):
        there = {f"{PLACE}/{name}" for name in marks(host)}
        if host.check_output(waiting) == "0" and time.monotonic() > planted + 66:
            if wanted <= there:
                break
            # The watch may have ended one before it could write its mark: there is nothing to judge it by, so again.
            take_from_outside(host, AGENT, [way for way in ENDED if mark(way, AGENT) not in there])
        time.sleep(3)


def marks(host: Any) -> dict[str, str]:
    """{file of a mark: what it holds}."""
    # grep exits with 1 when no mark holds anything: then the answer is {}.
    listed = host.check_output(f"cd {PLACE}; grep -H . -- *.{PERSON} *.{AGENT} || true")
    return dict(line.split(":", 1) for line in listed.splitlines())


@pytest.fixture(scope="module")
def journal(host: Any, taken: Taken) -> str:
    """What the system said since the ways were taken."""
    return host.check_output(f"journalctl --no-pager --output=cat --since {shlex.quote(taken['since'])}")


@pytest.fixture(scope="module")
def refusals(host: Any, taken: Taken) -> list[str]:
    """AppArmor's refusals to the agent since then."""
    return [line for line in host.check_output(f"tail -n +{taken['line']} {AUDIT_LOG}").splitlines()
            if 'apparmor="DENIED"' in line and 'profile="cordon.scout"' in line]


@pytest.mark.parametrize("way", CONFINED)
def test_from_inside_it_leads_nowhere_else(taken: Taken, way: str) -> None:
    assert taken["probed"][PERSON][way] == "unconfined", "the way does not work at all"
    assert taken["probed"][AGENT][way] == LABEL


@pytest.mark.parametrize(("way", "line"), REFUSED.items(), ids=REFUSED)
def test_from_inside_it_is_closed_and_logged(taken: Taken, refusals: list[str], way: str, line: str | None) -> None:
    assert not taken["probed"][PERSON][way].startswith(("E", "exit")), "the way does not work at all"
    assert taken["probed"][AGENT][way] in ("EACCES", "EPERM")
    assert line is None or [seen for seen in refusals if line in seen]


def test_no_program_with_anothers_rights_starts(taken: Taken, refusals: list[str]) -> None:
    """Set-user-id and set-group-id: whatever the host has of them, pkexec too where it is installed."""
    of_person, of_agent = ({way: seen for way, seen in taken["probed"][user].items() if way.startswith("setuid ")}
                           for user in (PERSON, AGENT))
    assert {f"setuid /usr/bin/{name}" for name in ("su", "sudo", "passwd", "newgrp", "at", "crontab")} <= set(of_person)
    assert set(of_person.values()) == {"ran"}
    assert of_agent == dict.fromkeys(of_person, "EACCES")
    for way in of_agent:
        assert [line for line in refusals if f'name="{way.removeprefix("setuid ")}"' in line], way


@pytest.mark.parametrize("way", ENDED)
def test_what_root_starts_as_the_agent_is_ended(taken: Taken, journal: str, host: Any, way: str) -> None:
    assert taken["marks"][Path(mark(way, PERSON)).name].endswith("unconfined"), "the way does not work at all"
    pid, label = taken["marks"][Path(mark(way, AGENT)).name].split(" ", 1)
    assert label == "unconfined"
    assert not host.file(f"/proc/{pid}").exists
    told = [part for line in journal.splitlines() for part in line.split("; ") if f"pid {pid} /usr/bin/" in part]
    assert told and all("label unconfined" in part and "(killed)" in part for part in told)


@pytest.mark.parametrize("way", BARRED)
def test_what_asks_pam_is_refused(taken: Taken, journal: str, way: str) -> None:
    assert Path(mark(way, PERSON)).name in taken["marks"], "the way does not work at all"
    assert Path(mark(way, AGENT)).name not in taken["marks"]
    assert BARRED[way][1] in journal


def test_nothing_of_the_agent_runs_but_its_service(host: Any, taken: Taken) -> None:
    found = host.check_output(f"for pid in $(pgrep -u {AGENT}); do cat /proc/$pid/attr/current; done").splitlines()
    assert set(found) == {LABEL}


def test_somebody_is_told(taken: Taken, eventually: Callable[..., Any]) -> None:
    """Alerts of one kind about one agent are sent once in a while, so an earlier test's counts too."""
    received = Path(os.environ["CORDON_TESTBED"]) / "webhook.jsonl"

    def told() -> list[Any]:
        alerts = [json.loads(line)["body"] for line in received.read_text().splitlines()]
        return [found for found in alerts if (found["alert"], found["agent"]) == ("unconfined-process", "scout")]

    assert eventually(told)
