# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The vault's life: open from before the agent's first process until after its last, whatever ends it.

`scribe` is the one whose sessions are ended here; it runs again afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

POINT = "/srv/agents/scribe/.vault"
VALUE = "molecule-notes-key"
# Everything a host writes to, memory-backed file systems included.
WRITABLE = "/etc /var /run /dev/shm /tmp /srv /home /root"


@pytest.fixture
def service(host: Any) -> Iterator[Callable[[str], Any]]:
    """service(VERB): systemctl VERB for the agent's service; it is started again in the end."""
    yield lambda verb: host.run(f"systemctl {verb} cordon-agent@scribe.service")
    host.run("systemctl reset-failed cordon-agent@scribe.service cordon-vault@scribe.service")
    host.check_output("systemctl start cordon-agent@scribe.service")


@pytest.fixture
def closed(host: Any) -> Callable[[], bool]:
    """closed(): whether nothing is mounted and no gocryptfs of this agent runs."""

    def look() -> bool:
        mounts = host.file("/proc/self/mountinfo").content_string
        return f" {POINT} " not in mounts and host.run("pgrep -f 'fsname cordon-vault-scrib[e]'").rc != 0

    return look


def _key(host: Any, name: str) -> str:
    unseal = f"systemd-creds decrypt --name=cordon-vault-{name} /etc/cordon/vault/{name}.cred - 2>/dev/null"
    return host.check_output(unseal)


def _lies_in_the_clear(host: Any, text: str) -> str:
    """Names of files that hold the text; it goes by standard input, so as not to be found in /proc."""
    return host.run(
        f"printf %s {text} | grep --recursive --files-with-matches --text --fixed-strings --file=- {WRITABLE}"
    ).stdout


def test_the_mount_is_read_only_and_runs_nothing(host: Any, agent: dict[str, Any]) -> None:
    mount = host.mount_point(f"/srv/agents/{agent['name']}/.vault")
    assert mount.device == f"cordon-vault-{agent['name']}"
    assert {"ro", "noexec", "nosuid", "nodev"} <= set(mount.options)


def test_nobody_else_reads_an_open_vault(host: Any, unwatched: None, agent: dict[str, Any]) -> None:
    other = "agent-scribe" if agent["name"] == "scout" else "agent-scout"
    for user in ("nobody", other):
        shell = f"setpriv --reuid {user} --clear-groups ls /srv/agents/{agent['name']}/.vault"
        assert "Permission denied" in host.run(shell).stderr


def test_the_encrypted_directory_and_the_key_are_roots_alone(host: Any, agent: dict[str, Any]) -> None:
    for path, mode in (
        (f"/var/lib/cordon/vault/{agent['name']}", 0o700),
        (f"/etc/cordon/vault/{agent['name']}.cred", 0o600),
    ):
        seen = host.file(path)
        assert (seen.user, seen.group, seen.mode) == ("root", "root", mode)


def test_the_key_is_in_no_argument_and_no_environment(host: Any, agent: dict[str, Any]) -> None:
    key = _key(host, agent["name"])
    assert len(key) == 64
    seen = host.check_output("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'; true")
    assert "gocryptfs" in seen, "the process that got the key was not looked at"
    assert key not in seen


def test_the_end_of_the_service_closes_the_vault(
    host: Any, service: Callable[[str], Any], closed: Callable[[], bool], eventually: Callable[..., Any]
) -> None:
    key = _key(host, "scribe")
    assert not closed()
    assert host.file(f"{POINT}/notes_key").content_string == VALUE
    service("stop")
    eventually(closed, 60)
    assert host.check_output(f"ls -A {POINT}") == ""
    for text in (VALUE, key):
        assert _lies_in_the_clear(host, text) == ""


@pytest.mark.kernel
def test_nothing_can_be_written_in_the_clear_while_it_is_closed(
    host: Any, service: Callable[[str], Any], closed: Callable[[], bool], eventually: Callable[..., Any]
) -> None:
    """Not even by root. A container may not set the flag, and the role says so there."""
    service("stop")
    eventually(closed, 60)
    assert "Operation not permitted" in host.run(f"touch {POINT}/leak").stderr


def test_a_killed_gocryptfs_ends_the_session_and_leaves_no_mount(
    host: Any, service: Callable[[str], Any], closed: Callable[[], bool], eventually: Callable[..., Any]
) -> None:
    host.check_output("systemctl kill --signal=KILL cordon-vault@scribe.service")
    eventually(closed, 60)
    eventually(lambda: host.run("pgrep --uid agent-scribe").rc != 0, 60)
    assert _lies_in_the_clear(host, VALUE) == ""


def test_a_killed_agent_does_not_keep_the_vault_open(
    host: Any,
    service: Callable[[str], Any],
    closed: Callable[[], bool],
    main_pid: Callable[[str], int],
    eventually: Callable[..., Any],
) -> None:
    """Closed, or opened again by a restart of the service: a mount without a session is what must not be."""
    host.check_output(f"kill -KILL {main_pid('scribe')}")
    time.sleep(1)

    def settled() -> bool:
        runs = host.run("systemctl is-active cordon-agent@scribe.service").stdout.strip() == "active"
        return runs != closed()

    eventually(settled, 60)
