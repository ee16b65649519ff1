# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A vault that an operator unlocks: the agent's start waits for the password, which no file ever holds.

scribe's vault is made one for the time of this module: the same directory, user and secrets, another password.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import pytest

PASSWORD = "molecule correct horse"
AGENT, VAULT = "cordon-agent@scribe.service", "cordon-vault@scribe.service"
POINT, VALUE = "/srv/agents/scribe/.vault", "molecule-notes-key"
SOCKET = "/run/cordon/unlock/scribe"
# Everything a host writes to, memory-backed file systems included.
WRITABLE = "/etc /var /run /dev/shm /tmp /srv /home /root"
MANIFEST = """import json, pathlib
path = pathlib.Path("/etc/cordon/manifest.json")
record = json.loads(path.read_text())
scribe = next(one for one in record["agents"] if one["name"] == "scribe")
scribe["vault"]["unlock"] = "operator"
path.write_text(json.dumps(record))
"""
SHOWN = "/run/molecule"  # in memory: nothing of a secret goes to the guest's disk
AWAY, CIPHER, KEYS = "/var/lib/cordon-molecule", "/var/lib/cordon/vault/scribe", "/etc/cordon/vault"
DROP_IN = f"/run/systemd/system/{VAULT}.d"
# The socket's end of cordonctl, by somebody who is not root.
KNOCK = f"import socket; socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect('{SOCKET}')"
# Which processes hold the password, searched in their memory; it comes by standard input.
SEARCH = """import os, pathlib, re, sys
wanted = sys.stdin.buffer.read()
for pid in filter(str.isdigit, os.listdir("/proc")):
    if int(pid) == os.getpid():
        continue
    try:
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
            for line in maps:
                start, end, mode = re.match("([0-9a-f]+)-([0-9a-f]+) (r..)", line).groups() if " r" in line else (0, 0, "")
                if mode and "[v" not in line:
                    memory.seek(int(start, 16))
                    if wanted in memory.read(int(end, 16) - int(start, 16)):
                        print(pid, pathlib.Path(f"/proc/{pid}/comm").read_text().strip())
                        break
    except OSError:
        pass
"""


def unlock(host: Any, password: str, *words: str) -> Any:
    """cordonctl unlock; the password goes by standard input here too, so that it is in no list of processes."""
    return host.run(f"printf %s {shlex.quote(password)} | cordonctl unlock {' '.join(words) or 'scribe'}")


def shown(host: Any, unit: str, name: str) -> str:
    return host.check_output(f"systemctl show --property={name} --value {unit}")


@pytest.fixture(scope="module", autouse=True)
def operators(host: Any) -> Iterator[None]:
    """scribe's vault, locked by a password that this host does not have."""
    host.check_output(f"systemctl stop {AGENT} {VAULT}; mkdir -m 0700 {AWAY} {SHOWN}")
    host.check_output(f"cp -a /etc/cordon/manifest.json {AWAY}; mv {CIPHER} {KEYS}/scribe.* {AWAY}")
    host.check_output(f"python3 -c {shlex.quote(MANIFEST)}")
    fill = (
        "set -e; umask 077; mkdir {cipher} {away}/open; cd /; "
        "printf %s {password} | gocryptfs -init -q -scryptn 16 {cipher}; "
        "printf %s {password} | gocryptfs -q -nosyslog {cipher} {away}/open; "
        "cd {away}/open; printf %s {value} | tee mirror_token > notes_key; "
        "chown agent-scribe: notes_key mirror_token; chmod 0400 notes_key mirror_token; cd /; "
        "umount {away}/open"
    )
    host.check_output(fill.format(away=AWAY, cipher=CIPHER, password=shlex.quote(PASSWORD), value=VALUE))
    # As the manifest has it for such a vault.
    host.check_output(f"mkdir -p {DROP_IN}; printf '[Service]\\nTimeoutStartSec=infinity\\n' > {DROP_IN}/99.conf")
    host.check_output("systemctl daemon-reload")
    yield
    host.check_output(f"systemctl stop {AGENT} {VAULT}; rm -r {DROP_IN} {CIPHER}; systemctl daemon-reload")
    host.check_output(f"mv {AWAY}/scribe {CIPHER}; mv {AWAY}/scribe.* {KEYS}; mv {AWAY}/manifest.json /etc/cordon/")
    host.check_output(f"rm -r {AWAY} {SHOWN}; systemctl reset-failed {AGENT} {VAULT}; systemctl start {AGENT}")


@pytest.fixture
def waiting(host: Any, eventually: Callable[..., Any]) -> None:
    """The agent's start waits for its vault to be unlocked."""
    host.check_output(f"systemctl stop {AGENT} {VAULT}; while findmnt {POINT}; do sleep 0.2; done")
    host.run(f"systemctl reset-failed {AGENT} {VAULT}")
    host.check_output(f"systemctl start --no-block {AGENT}")
    eventually(lambda: host.file(SOCKET).exists, 60)


def test_the_start_waits_and_everything_says_for_what(host: Any, waiting: None) -> None:
    # More than a unit has to start, and what an upgrade of packages brings: systemd then counts from the unit's start again.
    host.check_output("sleep 100; systemctl daemon-reload; sleep 5")
    assert shown(host, VAULT, "ActiveState") == "activating"
    assert shown(host, VAULT, "StatusText") == "locked: cordonctl unlock scribe"
    assert host.run("pgrep --uid agent-scribe").stdout == ""
    status = host.run("cordonctl status scribe")
    assert "the vault of agent scribe is locked: cordonctl unlock scribe" in status.stdout
    assert json.loads(host.check_output("cordonctl unlock --list")) == {"scribe": "locked"}


def test_nobody_but_root_can_answer(host: Any, waiting: None, unwatched: None) -> None:
    host.check_output(f"python3 -c {shlex.quote(KNOCK)}")
    for user in ("alice", "agent-scribe", "agent-scout"):
        refused = host.run(f"cd /; setpriv --reuid={user} --clear-groups python3 -c {shlex.quote(KNOCK)}")
        assert "Permission denied" in refused.stderr, user
    assert host.run(f"cordonctl run scout -- python3 -c {shlex.quote(KNOCK)}").rc != 0
    assert shown(host, VAULT, "ActiveState") == "activating"


def test_a_wrong_password_is_told_to_the_caller_and_locks_nobody_out(host: Any, waiting: None) -> None:
    for left in (4, 3, 2, 1):
        refused = unlock(host, "wrong")
        assert (refused.rc, f"wrong password, {left} more" in refused.stderr) == (1, True), refused.stderr
        assert shown(host, VAULT, "ActiveState") == "activating"
    assert "the start has failed" in unlock(host, "wrong").stderr
    # The next one starts it again by itself.
    assert unlock(host, PASSWORD).rc == 0
    assert host.file(f"{POINT}/notes_key").content_string == VALUE


def test_the_right_one_opens_it_and_the_agent_starts(
    host: Any, waiting: None, as_agent: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    opened = unlock(host, PASSWORD)
    assert opened.rc == 0, opened.stderr
    eventually(lambda: host.service("cordon-agent@scribe").is_running, 60)
    assert as_agent("scribe", "cat", f"{POINT}/notes_key").stdout == VALUE
    assert not host.file(SOCKET).exists
    assert shown(host, VAULT, "StatusText") == ""
    assert "already open" in host.check_output("cordonctl unlock scribe < /dev/null")
    refused = unlock(host, PASSWORD, "scout")
    assert refused.rc == 1 and "vault.unlock: sealed" in refused.stderr


def test_the_password_is_in_no_file_and_in_no_memory_afterwards(host: Any, waiting: None) -> None:
    assert unlock(host, PASSWORD).rc == 0
    # Neither in files, by a search that would find it, nor in what a process still holds.
    search = f"printf %s {shlex.quote(PASSWORD)} | grep -rlaF --file=- {WRITABLE}"
    host.check_output(f"printf %s {shlex.quote(PASSWORD)} > /dev/shm/molecule-canary")
    assert host.run(search).stdout.split() == ["/dev/shm/molecule-canary"]
    host.check_output("rm /dev/shm/molecule-canary")
    host.check_output(f"printf %s {shlex.quote(PASSWORD)} > {SHOWN}/p")
    held = host.check_output(f"python3 -c {shlex.quote(SEARCH)} < {SHOWN}/p; rm {SHOWN}/p")
    ours = [line for line in held.splitlines() if not re.fullmatch("sshd.*|bash|sh", line.split()[1])]
    assert ours == [], "the test's own login aside, nothing holds it"


def test_a_session_waits_too_and_says_so(host: Any, waiting: None) -> None:
    host.check_output(f"systemctl stop {AGENT} {VAULT}; while [ -e {SOCKET} ]; do sleep 0.2; done")
    host.check_output(f"(setsid cordonctl run scribe -- cat {POINT}/notes_key > {SHOWN}/out 2> {SHOWN}/err < /dev/null &)")
    host.check_output(f"for _ in $(seq 100); do [ -e {SOCKET} ] && break; sleep 0.2; done")
    assert "cordonctl unlock scribe" in host.file(f"{SHOWN}/err").content_string
    assert unlock(host, PASSWORD).rc == 0
    host.check_output(f"for _ in $(seq 100); do [ -s {SHOWN}/out ] && break; sleep 0.2; done")
    assert host.file(f"{SHOWN}/out").content_string == VALUE


def test_who_gives_up_waiting_leaves_nothing(host: Any, waiting: None) -> None:
    host.check_output(f"timeout 30 systemctl stop {AGENT} {VAULT}")
    host.check_output(f"for _ in $(seq 100); do [ -e {SOCKET} ] || break; sleep 0.2; done")
    assert not host.file(SOCKET).exists
    assert shown(host, VAULT, "ActiveState") in ("inactive", "failed")


def test_no_boot_would_wait_for_it(host: Any) -> None:
    """By systemd's own graph, with the drop-in that the manifest gives such an agent: the boot's target is not after it."""
    drop_in = f"/run/systemd/system/{AGENT}.d"
    assert AGENT in shown(host, "multi-user.target", "After").split(), "systemd no longer orders a target after what it wants"
    host.check_output(f"mkdir -p {drop_in}; printf '[Unit]\\nDefaultDependencies=no\\n' > {drop_in}/early.conf")
    host.check_output("systemctl daemon-reload")
    try:
        assert AGENT in shown(host, "multi-user.target", "Wants").split()
        assert AGENT not in shown(host, "multi-user.target", "After").split()
    finally:
        host.check_output(f"rm -r {drop_in}; systemctl daemon-reload")
