# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vault_secrets: what it writes, what it leaves alone, and that an agent who may write to its vault does not lead it astray."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from .host import Failed, Host, sh

CIPHER = Path("/var/lib/cordon/vault/scout")
POINT = "/srv/agents/scout/.vault"
CANARY = "canary-3f9a61c2-value"
# A file of root's that an agent would like to have overwritten, and one that it would like to have read.
VICTIM = Path("/etc/cordon-victim")


def ciphertext() -> dict[str, tuple[int, int]]:
    """The encrypted files; who is rewritten gets another inode."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in CIPHER.iterdir()}


def test_four_ways(host: Host) -> None:
    host.vault()
    values = {"token": CANARY, "multi": "line one\nline two\n", "odd": "ü \t'\"$(id)\x7f"}
    planned = host.secrets(values, check=True)
    assert host.read() == {}
    done = host.secrets(values)
    assert planned["secrets"] == done["secrets"] and planned["diff"] == done["diff"] and planned["changed"]
    assert host.read() == values
    for check in (False, True):
        again = host.secrets(values, check=check)
        assert (again["changed"], again["secrets"]) == (False, {})
    with host.opened() as point:
        assert {path.name: path.stat().st_mode & 0o777 for path in point.iterdir()} == dict.fromkeys(values, 0o400)
        assert host.as_agent(f"cat {point}/token").stdout == CANARY
        assert "Permission denied" in host.as_agent(f"cat {point}/token", "scribe", check=False).stderr


def test_only_what_differs_is_rewritten_and_what_is_not_listed_removed(host: Host) -> None:
    host.vault()
    host.secrets({"a": "1", "b": "2", "c": "3"})
    before = ciphertext()
    done = host.secrets({"a": "1", "b": "two"}, by="ann", reason="the old one leaked")
    assert [tuple(change.values()) for change in done["secrets"]["scout"]] == [
        ("b", "set", "set to another value"), ("c", "set", "removed")
    ]  # fmt: skip
    assert host.read() == {"a": "1", "b": "two"}
    after = ciphertext()
    kept = [name for name in before if after.get(name) == before[name] and not name.startswith("gocryptfs")]
    assert len(kept) == 1, "exactly the unchanged secret keeps its encrypted file"
    record = [(entry["what"], entry["act"], entry["by"], entry["reason"]) for entry in host.rotations()[-2:]]
    assert record == [("secret b", "changed", "ann", "the old one leaked"), ("secret c", "removed", "ann", "the old one leaked")]
    assert CANARY not in Path("/var/lib/cordon/rotations.jsonl").read_text()


def test_one_secret_alone(host: Host) -> None:
    host.vault()
    host.secrets({"a": "1", "b": "2", "c": "3"})
    given: dict[str, Any] = {"declared": {"scout": ["a", "b"]}, "only": {"scout": ["a", "b"]}}
    done = host.module("vault_secrets", values={"scout": {"a": "1", "b": "two"}}, **given)
    assert done["same"] == {"scout": ["a"]}
    assert host.read() == {"a": "1", "b": "two", "c": "3"}, "what was not asked for is left as it is"
    with pytest.raises(Failed, match=r"only.scout.d: the manifest does not declare it"):
        host.module("vault_secrets", values={}, declared={"scout": ["a"]}, only={"scout": ["d"]})
    with pytest.raises(Failed, match=r"scout.b: no value"):
        host.module("vault_secrets", values={"scout": {"a": "1"}}, **given)


def test_what_was_written_before_an_error_is_recorded(host: Host) -> None:
    host.vault()
    host.secrets({"a": "1", "b": "2"})
    with host.opened() as point:
        sh(f"rm -f {point}/b; mkdir {point}/b")
    with pytest.raises(Failed, match="a directory stands at the name of the secret b") as error:
        host.secrets({"a": "one", "b": "two"})
    assert host.read() == {"a": "one"}
    assert [(entry["what"], entry["act"]) for entry in host.rotations()[2:]] == [("secret a", "changed")]
    assert error.value.result["rotations"] == host.rotations()[2:]


def test_a_check_says_what_would_be_recorded(host: Host) -> None:
    told = []
    host.vault()
    for values in ({"a": "1", "b": "2"}, {"a": "one", "c": "3"}):
        before = host.rotations()
        planned = host.secrets(values, check=True, by="ann", reason="yearly")["rotations"]
        assert host.rotations() == before
        done = host.secrets(values, by="ann", reason="yearly")["rotations"]
        told.append([{**entry, "time": 0} for entry in planned])
        assert told[-1] == [{**entry, "time": 0} for entry in done] != []


def test_odd_values(host: Host) -> None:
    host.vault()
    odd = {"nul": "a\0b", "newline": "\n", "big": "é" * 500_000, "n" * 100: "x\n", "gocryptfs.conf": "z", "raw": "\udcff"}
    four = [host.secrets(odd, check=check)["changed"] for check in (True, False, False, True)]
    assert four == [True, True, False, False]
    with host.opened() as point:
        assert {path.name: path.read_bytes() for path in point.iterdir()} == {
            name: value.encode(errors="surrogateescape") for name, value in odd.items()
        }
    for check in (True, False):
        with pytest.raises(Failed, match=r"vault_secrets.scout.token: the value has a character that UTF-8 has no bytes for"):
            host.secrets({"token": "half of a pair \ud800"}, check=check)
        with pytest.raises(Failed, match=r"passwords.scout: it has a character that UTF-8 has no bytes for"):
            host.secrets({"token": CANARY}, check=check, passwords={"scout": "\ud800"})
        with pytest.raises(Failed, match=r"passwords.scout: it is no text: put it in quotes"):
            host.secrets({"token": CANARY}, check=check, passwords={"scout": 12345})


# --- Locked vaults ----------------------------------------------------------------------------------


def test_a_locked_vault_is_an_error_unless_it_shall_be_left(host: Host) -> None:
    password = "the password of scout"
    host.vault(unlock="operator", passwords={"scout": password}, scrypt_log_n=10)
    host.secrets({"a": "1"}, passwords={"scout": password})
    for check in (True, False):
        with pytest.raises(Failed, match=r"nothing was written. Locked: scout.*vault_passwords.*vault_locked: leave"):
            host.secrets({"a": "2"}, check=check)
    done = host.secrets({"a": "2"}, locked="leave")
    assert (done["changed"], done["unchecked"]) == (False, ["scout"])
    assert "locked, no password given" in str(done["warnings"])
    with pytest.raises(Failed, match=r"none of password opens it. A wrong password"):
        host.secrets({"a": "2"}, passwords={"scout": "a guess"})
    assert host.read(password=password) == {"a": "1"}
    host.secrets({"a": "2"}, passwords={"scout": password})
    assert host.read(password=password) == {"a": "2"}


# --- What an agent could do to its vault ------------------------------------------------------------


@pytest.fixture
def once_the_agents(host: Host) -> Host:
    """A vault with one secret, to whose top directory the agent could once write: it owned that."""
    VICTIM.write_text("root's own\n")
    VICTIM.chmod(0o600)
    host.vault()
    host.secrets({"token": "first"})
    sh(f"chown agent-scout: {CIPHER}")
    return host


PLANTED = {
    "a symbolic link": f"ln -sf {VICTIM} token",
    "a dangling symbolic link": "ln -sf /etc/cordon-made-by-root token",
    "a link into the agent's own file": "echo mine > mine; ln -sf mine token",
    "a FIFO": "rm -f token; mkfifo token",
    "a hard link": "echo mine > mine; rm -f token; ln mine token",
    "a file without end": "rm -f token; truncate -s 900G token",
    "an open mode": "chmod 666 token",
    "nothing": "rm -f token",
}


@pytest.mark.parametrize("planted", PLANTED)
def test_what_an_agent_plants_does_not_redirect_a_write(once_the_agents: Host, planted: str) -> None:
    """Planted by the agent at the secret's name, then found by a plain write of root, then by the module."""
    host = once_the_agents
    with host.opened() as point:
        host.as_agent(f"cd {point}; {PLANTED[planted]}", check=planted != "a hard link")
        if planted == "a symbolic link":
            # The attack works on who is not careful: root's open() follows the link out of the vault.
            assert (point / "token").read_text() == "root's own\n"
    host.secrets({"token": CANARY})
    assert VICTIM.read_text() == "root's own\n" and VICTIM.stat().st_mode & 0o777 == 0o600
    assert not Path("/etc/cordon-made-by-root").exists()
    with host.opened() as point:
        seen = (point / "token").lstat()
        assert (point / "token").read_text() == CANARY
        assert (seen.st_mode, seen.st_nlink) == (0o100400, 1)
        assert os.listdir(point) == ["token"]
    assert not host.secrets({"token": CANARY})["changed"]


def test_a_directory_at_the_name_of_a_secret_is_an_error_and_stays(once_the_agents: Host) -> None:
    host = once_the_agents
    with host.opened() as point:
        host.as_agent(f"cd {point}; rm -f token; mkdir -p token/sub; echo mine > token/sub/file")
    with pytest.raises(Failed, match=r"vault of agent scout: a directory stands at the name of the secret token"):
        host.secrets({"token": CANARY})
    with host.opened() as point:
        assert (point / "token/sub/file").read_text() == "mine\n" and os.listdir(point) == ["token"]


def test_what_is_the_agents_own_stays(host: Host) -> None:
    host.vault()
    host.secrets({"token": "first", "old": "to be removed"})
    with host.opened() as point:
        own = host.make_own(point)
        host.as_agent(f"cd {own}; mkdir notes; echo mine > notes/a; echo mine > token; mkfifo pipe; ln -s {VICTIM} link")
        # Half a write of ours, as a power loss leaves it.
        sh(f"echo half > {point}/.token.0123456789ab")
    done = host.secrets({"token": "second"})
    assert [change["name"] for change in done["secrets"]["scout"]] == ["token", ".token.0123456789ab", "old"]
    assert [entry["what"] for entry in host.rotations()[-2:]] == ["secret token", "secret old"]
    with host.opened() as point:
        assert {path.name for path in point.iterdir()} == {"token", "own"}
        assert {path.name for path in own.iterdir()} == {"notes", "token", "pipe", "link"}
        assert (own / "notes/a").read_text() == (own / "token").read_text() == "mine\n"
    for check in (True, False):
        assert not host.secrets({"token": "second"}, check=check)["changed"]


def test_an_agent_that_swaps_names_all_the_time_never_gets_root_to_write_elsewhere(once_the_agents: Host) -> None:
    """The race between looking and writing: whatever stands at the name in that moment is replaced, or it is an error."""
    host = once_the_agents
    script = f"cd {POINT}; while :; do ln -sf {VICTIM} token; rm -rf token; mkdir token; rm -rf token; echo mine > token; done"
    with host.opened() as point:
        argv = ["setpriv", "--reuid=agent-scout", "--regid=agent-scout", "--clear-groups", "bash", "-c", script]
        errors = 0
        with subprocess.Popen(argv, stderr=subprocess.DEVNULL, start_new_session=True) as racer:
            try:
                for number in range(4):
                    try:
                        host.secrets({"token": f"{CANARY}-{number}"})
                    except Failed as error:
                        assert re.search("somebody changed|a directory stands at|No such file|File exists", str(error)), error
                        errors += 1
            finally:
                os.killpg(racer.pid, signal.SIGKILL)  # its mkdir would outlive the shell
        assert VICTIM.read_text() == "root's own\n"
        sh(f"rm -rf {point}/token*")
    host.secrets({"token": CANARY})
    assert host.read()["token"] == CANARY
    print(f"{errors} of 4 runs said that somebody changed it")


# --- Notices for the closed vault -------------------------------------------------------------------


def test_a_closed_vault_has_a_notice_for_each_secret(host: Host) -> None:
    host.vault()
    planned = host.secrets({"a": "1", "b": "2"}, check=True)
    assert planned["notices"] == {"scout": ["a", "b"]} and os.listdir(POINT) == []
    assert host.secrets({"a": "1", "b": "2"})["notices"] == {"scout": ["a", "b"]}
    assert {name: os.readlink(f"{POINT}/{name}") for name in ("a", "b")} == dict.fromkeys(
        "ab", "the vault is closed: 'cordonctl secrets scout' says how to open it"
    )
    with host.opened() as point:
        done = host.secrets({"b": "2"})
        assert (done["changed"], done["notices"]) == (True, {"scout": ["a"]})
        assert os.listdir(point) == ["b"]
    assert os.listdir(POINT) == ["b"]
    assert not host.vault()["changed"], "a notice is nothing that lies in the clear"
    assert not host.secrets({"b": "2"})["changed"]
    host.vault(state="absent", confirm=["scout"])
    assert not os.path.lexists(POINT)


def test_a_notice_is_not_written_into_the_open_vault_of_a_linked_home(host: Host) -> None:
    """The mount table has no such path, so the vault over it was taken for the bare mount point."""
    sh("mv /srv/agents/scout /srv/real && ln -s /srv/real /srv/agents/scout")
    host.module("gocryptfs_vault", agents=[{**host.agent(), "home": "/srv/real"}], seal="host")
    try:
        with host.opened() as point:
            assert host.secrets({"token": "x"})["notices"] == {"scout": ["token"]}
            assert (point / "token").read_text() == "x"
        assert os.path.islink(f"{POINT}/token")
    finally:
        sh("chattr -i /srv/real/.vault; rm -rf /srv/real")


def test_a_vault_that_cannot_be_written_is_an_error_and_not_plaintext_beside_it(host: Host) -> None:
    host.vault()
    host.secrets({"token": "first"})
    conf = Path("/etc/cordon/vault/scout.cred")
    conf.write_text(sh("echo not-the-key | systemd-creds encrypt --name=cordon-vault-scout - -").stdout)
    with pytest.raises(Failed, match=r"none of /etc/cordon/vault/scout.cred opens it"):
        host.secrets({"token": CANARY})
    assert sh(f"grep -rla {CANARY} /var/lib/cordon /etc/cordon /run/cordon /srv", check=False).stdout == ""


# --- Where the values go ----------------------------------------------------------------------------


def test_a_value_is_seen_by_the_vault_and_by_pipes_only(host: Host, tmp_path: Path) -> None:
    """All system calls of a run: the value goes to no argument, no environment, no log and no file outside the vault."""
    host.vault()
    key = host.key()
    trace = tmp_path / "trace"
    calls = "execve,write,pwrite64,writev,sendto,sendmsg"
    wrap = ["strace", "-f", "-yy", "-v", "-s", "100000", "-e", f"trace={calls}", "-o", str(trace)]
    done = host.module(
        "vault_secrets", declared={"scout": ["token"]}, values={"scout": {"token": CANARY}}, wrap=wrap
    )
    assert CANARY not in str(done)
    lines = trace.read_text(errors="replace").splitlines()
    assert any("execve(" in line and "gocryptfs" in line for line in lines), "the trace missed the programs"
    for secret, allowed in ((CANARY, r"/run/cordon/vault-admin/scout/\.token\.[0-9a-f]{12}|fuse"), (key, r"pipe:")):
        seen = [line for line in lines if secret in line]
        assert seen, "the trace missed the secret"
        for line in seen:
            call = re.match(r"\d+ +(\w+)\(\d+<([^>]*)", line)
            assert call and call[1] != "execve" and re.search(allowed, call[2]), line[:300]


def test_no_process_shows_a_value_while_a_run_goes_on(host: Host) -> None:
    """What any user of the host may read of others: /proc, looked at all the time."""
    host.vault()
    found: set[str] = set()
    seen: set[str] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            for process in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    try:
                        text = (process / name).read_bytes()
                    except OSError:
                        continue
                    if b"gocryptfs\0" in text or b"vault_secrets\0" in text:
                        seen.add(name)
                    if CANARY.encode() in text:
                        found.add(f"{process.name}/{name}")
            time.sleep(0.005)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for number in range(3):
            host.secrets({"token": f"{CANARY}{number}"})
    finally:
        ended.set()
        watcher.join()
    assert "cmdline" in seen, "the run was not looked at"
    assert found == set()


RECEIVER = """
import os, socket
if os.path.lexists("/dev/log"):
    os.unlink("/dev/log")
receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
receiver.bind("/dev/log")
print("ready", flush=True)
while True:
    print(receiver.recv(65536).decode(errors="replace"), flush=True)
"""


def test_a_value_is_in_no_log_line(host: Host, tmp_path: Path) -> None:
    """The module's own line to syslog, received by us in the place of whoever receives it on this machine."""
    host.vault()
    log = tmp_path / "log"
    sh("mkdir /srv/upper /srv/work; mount -t overlay -o lowerdir=/dev,upperdir=/srv/upper,workdir=/srv/work overlay /dev")
    try:
        with log.open("w") as stream, subprocess.Popen([sys.executable, "-c", RECEIVER], stdout=stream) as process:
            until = time.monotonic() + 20
            while "ready" not in log.read_text() and time.monotonic() < until:
                time.sleep(0.05)
            host.secrets({"token": CANARY})
            time.sleep(0.5)
            process.kill()
    finally:
        sh("umount --lazy /dev")
    assert "Invoked with declared=" in log.read_text(), "the module's own line did not arrive"
    assert CANARY not in log.read_text()
