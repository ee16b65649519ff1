# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A handler in kernel.core_pattern, as systemd-coredump and apport are one, gets what users' programs had in memory.

First an ordinary user's, whose limit of 0 it ignores; then nothing of an agent's and nothing of gocryptfs's.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from typing import Any

import pytest

# Not in /run: Debian mounts it noexec. In memory: what a handler gets of gocryptfs has the vault's master key in it, and the
# rounds search the guest's disk for that, also in blocks that no file has any more.
PLACE = "/var/lib/core-handler"
HANDLER = f"#!/bin/sh\nexec cat > {PLACE}/$1.core\n"
CANARY = "canary-{}-in-memory"
# The canary stands in no argument as such: only the memory of a program that ran has it in one piece.
CRASH = "import os, resource; {before}; kept = 'canary-' + '{word}' + '-in-memory'; os.abort()"
LOWERED = "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))"


@pytest.fixture(scope="module", autouse=True)
def handler(host: Any) -> Iterator[None]:
    """A core handler that keeps all it gets, by the name of the program's user."""
    before = host.check_output("cat /proc/sys/kernel/core_pattern")
    program = f"{PLACE}/handler"
    host.check_output(f"mkdir {PLACE} && mount -t tmpfs -o mode=0700 tmpfs {PLACE}")
    host.check_output(f"printf %s {shlex.quote(HANDLER)} > {program} && chmod 0700 {program}")
    host.check_output(f"echo '|{PLACE}/handler %u' > /proc/sys/kernel/core_pattern")
    yield
    host.check_output(f"printf %s {shlex.quote(before)} > /proc/sys/kernel/core_pattern; umount {PLACE}; rmdir {PLACE}")


@pytest.fixture
def got(host: Any, eventually: Callable[..., Any]) -> Callable[[str], str]:
    """got(USER): the file that the handler has of this user, waited for; '' where there is none."""

    def look(user: str) -> str:
        path = f"{PLACE}/{host.check_output(f'id -u {user}')}.core"
        host.run(f"for _ in 1 2 3 4 5 6 7 8 9 10; do [ -s {path} ] && break; sleep 0.5; done; sleep 1")
        return path if host.file(path).exists else ""

    return look


def crash(word: str, before: str = "pass") -> str:
    return shlex.quote(CRASH.format(word=word, before=before))


def holds(host: Any, path: str, word: str) -> bool:
    return host.run(f"grep --quiet --text --fixed-strings {CANARY.format(word)} {path}").rc == 0


def test_it_gets_an_ordinary_users_memory_whose_limit_is_0(host: Any, got: Callable[[str], str]) -> None:
    assert host.run(f"cd /; ulimit -c 0; setpriv --reuid=alice --clear-groups python3 -c {crash('alice')} || exit 9").rc == 9
    path = got("alice")
    assert path and holds(host, path, "alice")
    host.check_output(f"rm {path}")


def test_it_gets_nothing_of_an_agent(host: Any, got: Callable[[str], str], eventually: Callable[..., Any]) -> None:
    assert host.run(f"cordonctl run scout -- python3 -c {crash('scout')} || exit 9").rc == 9
    assert got("agent-scout") == ""
    # Linux 6.10 and before, and after.
    line = "journalctl --dmesg --no-pager --output=cat | grep --extended-regexp 'RLIMIT_CORE (is )?set to 1'"
    eventually(lambda: host.run(line).rc == 0)


def test_of_an_agents_program_that_lowers_its_limit_it_gets_no_memory(host: Any, got: Callable[[str], str]) -> None:
    """As gpg does to protect itself, and so undoes our limit of 1."""
    assert host.run(f"cd /; setpriv --reuid=alice --clear-groups python3 -c {crash('low', LOWERED)} || exit 9").rc == 9
    assert holds(host, got("alice"), "low")
    assert host.run(f"cordonctl run scout -- python3 -c {crash('scout', LOWERED)} || exit 9").rc == 9
    path = got("agent-scout")
    assert path, "the handler was not even started, so this shows nothing of what it gets"
    assert not holds(host, path, "scout")
    host.check_output(f"rm {PLACE}/*.core")


@pytest.fixture
def dumping(host: Any) -> Iterator[Callable[[str], None]]:
    """dumping(LINES): scribe's vault with these lines in its unit, and a gocryptfs that dumps core when it is aborted (Go)."""
    drop_in = "/run/systemd/system/cordon-vault@scribe.service.d/dumping.conf"

    def restart(lines: str) -> None:
        host.check_output("systemctl stop cordon-agent@scribe; while findmnt /srv/agents/scribe/.vault; do sleep 0.2; done")
        unit = f"[Service]\\nEnvironment=GOTRACEBACK=crash\\n{lines}"
        host.check_output(f"mkdir -p $(dirname {drop_in}) && printf '{unit}' > {drop_in} && systemctl daemon-reload")
        host.check_output("systemctl reset-failed cordon-agent@scribe cordon-vault@scribe; systemctl start cordon-agent@scribe")

    yield restart
    host.check_output(f"rm -f {drop_in}; systemctl daemon-reload; systemctl stop cordon-agent@scribe cordon-vault@scribe")
    host.run("systemctl reset-failed cordon-agent@scribe cordon-vault@scribe")
    host.check_output("systemctl start cordon-agent@scribe")


def abort_gocryptfs(host: Any) -> None:
    # It has read the secret: what it decrypted is in its memory.
    host.check_output("cordonctl run scribe -- cat /srv/agents/scribe/.vault/notes_key")
    host.check_output("systemctl kill --signal=ABRT cordon-vault@scribe.service")


def test_it_gets_nothing_of_gocryptfs(host: Any, dumping: Callable[[str], None], got: Callable[[str], str]) -> None:
    dumping("LimitCORE=0\\nCoredumpFilter=0x33\\n")
    abort_gocryptfs(host)
    path = got("root")
    assert path and int(host.check_output(f"stat --format=%s {path}")) > 1000000, "with a limit of 0 it gets all of it"
    host.check_output(f"rm {path}")
    dumping("")
    abort_gocryptfs(host)
    assert got("root") == ""
