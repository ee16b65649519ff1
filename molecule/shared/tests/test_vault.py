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


def test_the_mount_runs_nothing_and_is_read_only_unless_the_manifest_says_otherwise(host: Any, agent: dict[str, Any]) -> None:
    mount = host.mount_point(f"/srv/agents/{agent['name']}/.vault")
    assert mount.device == f"cordon-vault-{agent['name']}"
    access = "rw" if agent.get("vault", {}).get("writable") else "ro"
    assert {access, "noexec", "nosuid", "nodev"} <= set(mount.options)


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
    assert host.check_output(f"find {POINT} -mindepth 1 ! -type l") == ""
    for text in (VALUE, key):
        assert _lies_in_the_clear(host, text) == ""


def test_who_reads_a_secret_of_a_closed_vault_gets_an_error_that_says_how_to_open_it(
    host: Any, service: Callable[[str], Any], closed: Callable[[], bool], eventually: Callable[..., Any]
) -> None:
    """By path: an error, never text that could pass for the secret; a look at the path tells. By cordonctl: at once."""
    service("stop")
    eventually(closed, 60)
    for reader in ("", "setpriv --reuid nobody --clear-groups --regid agent-scribe "):
        read = host.run(f"{reader}cat {POINT}/notes_key")
        assert (read.rc, read.stdout) == (1, "")
    assert "the vault is closed: 'cordonctl secrets scribe' says how to open it" in host.check_output(f"ls -l {POINT}/notes_key")
    told = host.run("cordonctl secrets scribe")
    assert told.rc == 1
    assert "notes_key" in told.stdout and "closed" in told.stdout and "cordonctl run scribe -- COMMAND" in told.stdout


def test_the_command_that_it_names_opens_it(
    host: Any, service: Callable[[str], Any], closed: Callable[[], bool], eventually: Callable[..., Any]
) -> None:
    service("stop")
    eventually(closed, 60)
    assert host.check_output(f"cordonctl run scribe -- /usr/bin/cat {POINT}/notes_key") == VALUE
    eventually(closed, 60)
    service("start")
    assert host.run("cordonctl secrets scribe").rc == 0


@pytest.mark.kernel
def test_nothing_can_be_written_in_the_clear_while_it_is_closed(
    host: Any, service: Callable[[str], Any], closed: Callable[[], bool], eventually: Callable[..., Any]
) -> None:
    """Not even by root. A container may not set the flag, and the role says so there."""
    service("stop")
    eventually(closed, 60)
    for name in ("leak", "notes_key"):  # the second has a notice: a link that leads nowhere
        assert "Operation not permitted" in host.run(f"echo leak > {POINT}/{name}").stderr


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


def test_two_sessions_share_the_vault_until_the_last_ends(
    host: Any, service: Callable[[str], Any], closed: Callable[[], bool], eventually: Callable[..., Any]
) -> None:
    """Whichever ends first takes nothing from the other."""
    host.check_output(
        "systemd-run --quiet --unit=second-session --remain-after-exit cordonctl run scribe -- /usr/bin/sleep infinity")
    try:
        found = "systemctl list-units --plain --no-legend 'cordon-session-scribe-*'"
        eventually(lambda: "running" in host.check_output(found), 60)
        service("stop")
        time.sleep(2)
        assert not closed() and host.file(f"{POINT}/notes_key").content_string == VALUE
        service("start")
        host.check_output(f"systemctl stop {host.check_output(found).split()[0]}")
        time.sleep(2)
        assert not closed() and host.file(f"{POINT}/notes_key").content_string == VALUE
    finally:
        host.run("systemctl stop second-session")
    service("stop")
    eventually(closed, 60)


def test_in_a_writable_vault_the_agent_keeps_files_of_its_own(
    host: Any,
    service: Callable[[str], Any],
    closed: Callable[[], bool],
    as_agent: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    """They are ciphertext on disk like its secrets, and there again in the next session."""
    text = "refreshed-by-the-agent-itself"
    # The shell's own echo: no program whose arguments a log would have.
    write = as_agent("scribe", "/bin/sh", "-c", f"umask 077; x=refreshed-by; echo $x-the-agent-itself > {POINT}/own/token")
    assert write.rc == 0, write.stderr
    service("stop")
    eventually(closed, 60)
    assert _lies_in_the_clear(host, text) == ""
    assert as_agent("scribe", "/bin/cat", f"{POINT}/own/token").stdout.strip() == text
    other = as_agent("scout", "/bin/cat", f"{POINT}/own/token")
    assert other.rc != 0 and text not in other.stdout
    assert as_agent("scribe", "/bin/rm", f"{POINT}/own/token").rc == 0


@pytest.mark.parametrize(
    "attempt",
    [
        "echo x > {point}/notes_key",
        "chmod 600 {point}/notes_key",
        "rm -f {point}/notes_key",
        "mv {point}/notes_key {point}/own/notes_key",
        "mv {point}/own {point}/other",
        "echo x > {point}/other",
    ],
)
def test_in_a_writable_vault_the_secrets_stay_as_they_are(
    host: Any, as_agent: Callable[..., Any], attempt: str
) -> None:
    """Through gocryptfs alone the agent could: its files are shown as the agent's, and changed with root's rights."""
    done = as_agent("scribe", "/bin/sh", "-c", attempt.format(point=POINT))
    assert done.rc != 0, done.stdout
    assert host.check_output(f"ls {POINT}").split() == ["mirror_token", "notes_key", "own"]
    assert host.file(f"{POINT}/notes_key").content_string == VALUE
    assert host.file(f"{POINT}/notes_key").mode == 0o400


def test_in_a_vault_that_is_not_writable_nothing_can_be_stored(as_agent: Callable[..., Any]) -> None:
    done = as_agent("scout", "/bin/sh", "-c", "echo x > /srv/agents/scout/.vault/x")
    assert done.rc != 0


def test_who_ends_an_idle_agent_ends_by_itself(
    host: Any, service: Callable[[str], Any], closed: Callable[[], bool], eventually: Callable[..., Any]
) -> None:
    idle = host.service("cordon-idle@scribe.service")
    service("start")
    eventually(lambda: idle.is_running)
    service("stop")
    eventually(closed, 60)
    eventually(lambda: not idle.is_running, 120)
    assert not host.service("cordon-idle@scout.service").is_running
