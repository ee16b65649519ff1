# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rounds of vault-session without systemd: open, end by some cause, close, look. One JSON line a round.

    unshare --mount --pid --fork --kill-child --mount-proc python3 session_rounds.py VAULT_SESSION IMAGE ROUNDS

In name spaces of its own: /var/lib, /srv and what changes in /etc are on the ext4 image, so that the search of the image is
a search of everything that was ever written, and nothing of this machine is touched. The secrets are made here and are in
this process's memory only.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SESSION, IMAGE, ROUNDS = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
NAME, UID = "rounds", 64999
SOURCE, POINT = f"cordon-vault-{NAME}", Path(f"/srv/agents/{NAME}/.vault")
CIPHER, KEY = Path(f"/var/lib/cordon/vault/{NAME}"), Path(f"/etc/cordon/vault/{NAME}.cred")
IMAGE_EVERY = 20
VALUES = {f"secret_{number}": secrets.token_hex(24) for number in range(3)}


def sh(*argv: str, data: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    # Not a pipe: gocryptfs goes on in the background with what it was given.
    done = subprocess.run(argv, input=data, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
    if check and done.returncode:
        raise AssertionError(f"{argv[0]}: exit code {done.returncode}")
    return done


def until(probe: Callable[[], Any], what: str, seconds: float = 30) -> Any:
    end = time.monotonic() + seconds
    while not (found := probe()):
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.01)
    return found


# --- A host ---------------------------------------------------------------------------------------------


def lay_out() -> dict[str, bytes]:
    """The image below /var/lib, /srv and /etc, a vault with its secrets; what may not be found afterwards."""
    sh("mount", "--make-rprivate", "/")
    sh("mount", "-o", "loop", str(IMAGE), "/var/lib")
    for place in ("systemd", "srv", "etc", "work", "new"):
        os.mkdir(f"/var/lib/{place}")
    sh("mount", "--bind", "/var/lib/srv", "/srv")
    sh("mount", "-t", "overlay", "-o", "lowerdir=/etc,upperdir=/var/lib/etc,workdir=/var/lib/work", "none", "/etc")
    if os.path.exists("/proc/swaps"):  # this machine's swap is not the subject: who looks into it is not installed here
        sh("mount", "--bind", "/dev/null", "/proc/swaps")
    for shared in ("/dev/shm", "/run"):
        sh("mount", "-t", "tmpfs", "none", shared)
    with open("/etc/passwd", "a", encoding="ascii") as users:
        users.write(f"agent-{NAME}:x:{UID}:{UID}::{POINT.parent}:/bin/false\n")
    for directory in (POINT, CIPHER, KEY.parent):
        directory.mkdir(parents=True)
    CIPHER.chmod(0o700)
    key = secrets.token_hex(32)
    sh("systemd-creds", "encrypt", "--with-key=host", f"--name={SOURCE}", "-", str(KEY), data=key)
    sh("gocryptfs", "-init", "-q", "-scryptn", "10", "--", str(CIPHER), data=key)
    sh("gocryptfs", "-q", "-nosyslog", "--", str(CIPHER), "/var/lib/new", data=key)
    for name, value in VALUES.items():
        Path("/var/lib/new", name).write_text(value)
        os.chmod(f"/var/lib/new/{name}", 0o400)
        os.symlink("the vault is closed", POINT / name)
    sh("umount", "/var/lib/new")
    sh("chattr", "+i", str(POINT))
    xray = ["gocryptfs-xray", "-dumpmasterkey", str(CIPHER / "gocryptfs.conf")]
    master = subprocess.run(xray, input=key, capture_output=True, text=True, check=True).stdout.strip()
    return {**{name: value.encode() for name, value in VALUES.items()}, "vault key": key.encode(),
            "master key": bytes.fromhex(master), "master key, hexadecimal": master.encode()}


# --- What there is --------------------------------------------------------------------------------------


def mounts() -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {POINT} " in line]


def daemons() -> list[int]:
    """Every gocryptfs and vault-session of this process name space."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            argv = (place / "cmdline").read_bytes()
            ours = b"gocryptfs\0" in argv or b"vault-session\0" in argv or b"systemd-creds\0" in argv
            if ours and int(place.name) != os.getpid():
                found.append(int(place.name))
    return found


def holds(path: Path, wanted: dict[str, bytes]) -> list[str]:
    with contextlib.suppress(OSError):
        text = path.read_bytes()
        return [f"{name} in {path}" for name, needle in wanted.items() if needle in text]
    return []


def leftovers(wanted: dict[str, bytes], image: bool) -> list[str]:
    found = [f"mount: {line}" for line in mounts()] + [f"process: {pid}" for pid in daemons()]
    found += [f"{name} lies in the clear" for name in os.listdir(POINT) if not (POINT / name).is_symlink()]
    flags = subprocess.run(["lsattr", "-d", str(POINT)], capture_output=True, text=True, check=True).stdout.split()[0]
    found += [] if "i" in flags else ["the mount point is not immutable"]
    for top in ("/dev/shm", "/run", "/var/lib"):
        found += [line for place, _inside, names in os.walk(top) for name in names for line in holds(Path(place, name), wanted)]
    if image:
        os.sync()
        found += holds(IMAGE, wanted)
    return found


def vault_session(verb: str, check: bool = True) -> None:
    sh("bash", SESSION, verb, NAME, check=check)


def same_secrets() -> None:
    assert {name: (POINT / name).read_text() for name in os.listdir(POINT)} == VALUES, "the secrets are not as they were"


def signalled(number: int) -> None:
    """Signal whatever opens or keeps open the vault."""
    for pid in daemons():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


# --- Causes: the vault is open; systemd runs vault-session close after each --------------------------------


def term() -> None:
    """As systemd stops the unit."""
    signalled(signal.SIGTERM)
    until(lambda: not daemons(), "gocryptfs ended")


def kill() -> None:
    signalled(signal.SIGKILL)


def kill_while_read() -> None:
    """A process has a secret open, and its current directory in the vault, and outlives gocryptfs."""
    handle = os.open(POINT / "secret_0", os.O_RDONLY)
    stays = subprocess.Popen(["sleep", "60"], cwd=POINT)
    signalled(signal.SIGKILL)
    vault_session("close")
    assert not mounts(), "a process in the vault kept it mounted"
    stays.kill()
    stays.wait()
    with contextlib.suppress(OSError):  # ENOTCONN: who would have to flush it is gone
        os.close(handle)


def close_while_read() -> None:
    """The same, but gocryptfs is asked to end: it cannot unmount, and is killed after TimeoutStopSec."""
    stays = subprocess.Popen(["sleep", "60"], cwd=POINT)
    signalled(signal.SIGTERM)
    time.sleep(0.1)
    signalled(signal.SIGKILL)
    vault_session("close")
    stays.kill()
    stays.wait()


def unmount() -> None:
    sh("umount", str(POINT))


def close_alone() -> None:
    """close without a signal before it: a lazy unmount, after which gocryptfs ends by itself."""
    vault_session("close")
    until(lambda: not daemons(), "gocryptfs ended")


def open_over_dead() -> None:
    """A dead mount is there, and the vault is opened again."""
    signalled(signal.SIGKILL)
    until(lambda: not daemons(), "gocryptfs ended")
    vault_session("open")
    same_secrets()
    term()


def open_again() -> None:
    """Opened over an open one: nothing lies over another afterwards."""
    vault_session("open")
    same_secrets()
    assert len(mounts()) == 1, mounts()
    term()


def kill_while_opening() -> None:
    term()
    vault_session("close")
    begun = subprocess.Popen(["bash", SESSION, "open", NAME], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, start_new_session=True)
    time.sleep(random.uniform(0, 0.15))
    begun.kill()
    begun.wait()
    # As systemd does, until nothing of the unit's control group is left; then comes ExecStopPost=.
    until(lambda: signalled(signal.SIGKILL) or not daemons(), "everything killed")


def damaged_key() -> None:
    term()
    vault_session("close")
    sealed = KEY.read_text()
    KEY.write_text("bm8ga2V5\n")
    try:
        with contextlib.suppress(AssertionError):
            vault_session("open")
            raise SystemExit("a vault was opened with a damaged key")
    finally:
        KEY.write_text(sealed)


CAUSES = {
    "stopped by SIGTERM": term,
    "kill -9 of gocryptfs": kill,
    "kill -9 with readers inside": kill_while_read,
    "stopped with readers inside": close_while_read,
    "umount by root": unmount,
    "closed without a signal": close_alone,
    "kill -9, opened over the dead mount": open_over_dead,
    "opened twice": open_again,
    "kill -9 while it opens": kill_while_opening,
    "start with a damaged sealed key": damaged_key,
}


def one(cause: str, wanted: dict[str, bytes], image: bool) -> dict[str, Any]:
    wrong, begun = "", time.monotonic()
    try:
        vault_session("open")
        same_secrets()
        CAUSES[cause]()
        vault_session("close")
        with contextlib.suppress(AssertionError):
            until(lambda: not daemons(), "everything ended", 5)
    except (AssertionError, OSError) as error:
        wrong = str(error)
    return {"cause": cause, "wrong": wrong, "left": leftovers(wanted, image), "seconds": time.monotonic() - begun}


def main() -> None:
    wanted = lay_out()
    vault_session("open")
    same_secrets()
    # The search is worth nothing if it would not find.
    found = [line for name in VALUES for line in holds(POINT / name, wanted)]
    assert len(found) == len(VALUES), found
    term()
    for number in range(1, ROUNDS + 1):
        cause = list(CAUSES)[number % len(CAUSES)]
        print(json.dumps(one(cause, wanted, number % IMAGE_EVERY == 0)), flush=True)
    Path("/var/lib/planted").write_bytes(wanted["vault key"])
    os.sync()
    print(json.dumps({"planted": holds(IMAGE, wanted)}), flush=True)


if __name__ == "__main__":
    main()
