# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. A change of the packet filter that undoes itself unless somebody can still come in.

A process is started that will load the table again as it stands, and only when it has said that it waits the new table is
loaded.
Who confirms does so over another connection than the one that made the change: that one may live on although nobody
else gets in any more. Until then nothing of the change is on disk, so a reboot undoes it too.

One file says that a change waits, TOKEN.nft. The timer and the confirmation both begin by renaming it, which only one
of them can; so there is no timer to kill, and none that fires late does any harm.
"""
from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shlex
import time
from typing import Dict, List, NamedTuple, Optional, Set, Tuple

from . import _files, _nftables

ROLLED_BACK = "rolled-back.nft"  # what the timer loaded, for whoever wonders
_PENDING = "pending.json"
_CONFIRMED = "confirmed.nft"
_TOKEN = re.compile(r"[0-9a-f]{16}\.(nft|sh|waits)")
_SYSTEMD = "/run/systemd/system"
PATIENCE = 60.0  # seconds until the process that will undo the change has said that it waits


def script(directory: str, token: str, nft: str, seconds: int) -> str:
    """What undoes the change. The resolver puts its answers back after any load."""
    return f"""\
cd {shlex.quote(directory)} || exit 1
rm {token}.sh && touch {token}.waits
sleep {seconds}
mv {token}.nft {ROLLED_BACK} 2>/dev/null || exit 0
{shlex.quote(nft)} -f {ROLLED_BACK}
systemctl try-reload-or-restart cordon-resolver.service 2>/dev/null
"""


class Pending(NamedTuple):
    """A change that waits: its token, digests, who made it, and what belongs on disk once it is confirmed."""

    token: str
    sha256: str  # of the listing as it was loaded
    connection: str
    seconds: int
    files: List[Tuple[str, str]]


class Operator(NamedTuple):
    """Who runs this: the users (never root) of the processes above, and "client port server port" of their SSH."""

    uids: Set[int]
    connection: str


def operator(pid: int, environment: Dict[str, str], proc: str = "/proc") -> Operator:
    """Find the operator among the processes above pid; sudo drops SSH_CONNECTION, and a shell further up has it."""
    uids = {int(number) for number in [environment.get("SUDO_UID", "")] if number.isdigit()}
    connection = environment.get("SSH_CONNECTION", "")
    while pid > 1:
        try:
            status, environ = _read(f"{proc}/{pid}/status"), _read(f"{proc}/{pid}/environ")
        except OSError:  # it ended, or is another user's
            break
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        uids.add(int(fields["Uid"].split()[0]))
        found = [item for item in environ.split("\0") if item.startswith("SSH_CONNECTION=")]
        connection = connection or (found[0].partition("=")[2] if found else "")
        pid = int(fields["PPid"])
    return Operator(uids - {0}, connection)


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read()


def waiting(directory: str) -> Optional[Pending]:
    """The change that was made and not confirmed; None where there is none, or it was rolled back."""
    found = _pending(directory)
    return found if found and os.path.exists(_token(directory, found.token)) else None


def _pending(directory: str) -> Optional[Pending]:
    try:
        data = json.loads(_read(os.path.join(directory, _PENDING)))
        return Pending(**{**data, "files": [tuple(entry) for entry in data["files"]]})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _token(directory: str, token: str) -> str:
    return os.path.join(directory, f"{token}.nft")


def arm(run: _nftables.Run, nft: str, directory: str, seconds: int) -> str:
    """Start what will undo the change, and give it what stands; the token of both.

    A change that waits already has what stood before it: that stays what is returned to. It is taken over last, so that
    whatever fails here leaves it to be undone by what was started for it.
    """
    token, before = secrets.token_hex(8), waiting(directory)
    _prepare(directory, but=before)
    stood = None if before else _way_back(run, nft)
    _write(os.path.join(directory, f"{token}.sh"), script(directory, token, nft, seconds))
    _start(run, directory, token)
    if before is None or not _claim(directory, before.token, f"{token}.nft"):
        _write(_token(directory, token), stood or _way_back(run, nft))
    return token


def _way_back(run: _nftables.Run, nft: str) -> str:
    """The table as it stands, as nft takes it again: with the resolver's answers and the counters, if it will."""
    code, full, _err = run((nft, "list", "table", *_nftables.TABLE), None)
    plain = _nftables.listing(run, nft) if code == 0 else None
    for text in (full, plain) if plain is not None else ():
        whole = _nftables.REPLACE + (text or "")
        if run((nft, "--check", "--file", "-"), whole)[0] == 0:
            return whole
    if plain is not None:
        raise _nftables.NftablesError("the table that stands cannot be loaded again, so the change could not be undone")
    return _nftables.REPLACE


def _start(run: _nftables.Run, directory: str, token: str) -> None:
    """Start what undoes the change, and see it wait."""
    path = os.path.join(directory, f"{token}.sh")
    if os.path.isdir(_SYSTEMD):
        # A unit of its own outlives the session that Ansible runs in. It waits by itself, and nothing in its command line is
        # special to systemd: a daemon-reload reads a transient unit again, at any moment until its program runs, with "\\$1"
        # where "$1" was, and sets the time of a timer back (systemd 252, seen on a booted guest).
        argv: Tuple[str, ...] = (
            "systemd-run", "--quiet", "--collect", f"--unit=cordon-firewall-rollback-{token}",
            "--description=Undo the change of the agents' firewall unless it is confirmed", "sh", path)
    else:
        argv = ("sh", "-c", 'setsid sh "$0" </dev/null >/dev/null 2>&1 &', path)
    code, _out, err = run(argv, None)
    if code != 0:
        raise _nftables.NftablesError(f"cannot start what would undo the change, nothing was changed: {err.strip()}")
    end, sign = time.monotonic() + PATIENCE, os.path.join(directory, f"{token}.waits")
    while not os.path.exists(sign):
        if time.monotonic() > end:
            raise _nftables.NftablesError(
                f"what would undo the change does not wait after {PATIENCE:.0f} seconds, nothing was changed: "
                f"see journalctl -u cordon-firewall-rollback-{token}")
        time.sleep(0.05)
    os.unlink(sign)


def note(directory: str, pending: Pending) -> None:
    """Keep what the confirmation needs."""
    _write(os.path.join(directory, _PENDING), json.dumps(pending._asdict(), indent=2) + "\n")


def confirm(run: _nftables.Run, nft: str, directory: str, connection: Optional[str]) -> Optional[Pending]:
    """Keep the change; what belongs on disk is in the answer. None: no change waits.

    connection: that of the caller; None to ask for no other one than that which made the change.
    """
    found = _pending(directory)
    if found is None:
        return None
    if connection is not None and connection == found.connection != "":
        raise ValueError(
            f"this is the connection that made the change ({connection}), and it proves nothing about new ones: "
            "reset the connection first (meta: reset_connection)"
        )
    running = _nftables.listing(run, nft) if os.path.exists(_token(directory, found.token)) else None
    if running is not None and _nftables.digest(running) != found.sha256:
        raise ValueError("another program changed table inet cordon since: it will be as before the change, run again")
    if not _claim(directory, found.token, _CONFIRMED):
        forget(directory)
        raise ValueError(
            f"nobody confirmed the change within {found.seconds} seconds, so it was undone: the table is as before. "
            "See whether the ruleset lets new connections in, or raise confirm_within"
        )
    return found


def discard(directory: str) -> None:
    """Forget a change that waits, because another takes its place without waiting."""
    found = _pending(directory)
    if found is not None:
        _claim(directory, found.token, _CONFIRMED)
        forget(directory)


def disarm(directory: str, token: str) -> None:
    """Undo arm(), because nothing was loaded."""
    if _claim(directory, token, _CONFIRMED):
        forget(directory)


def forget(directory: str) -> None:
    """Remove what a settled change left."""
    for name in (_PENDING, _CONFIRMED):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, name))


def _claim(directory: str, token: str, name: str) -> bool:
    """Settle who decides about the change; False: somebody else did."""
    try:
        os.rename(_token(directory, token), os.path.join(directory, name))
    except FileNotFoundError:
        return False
    return True


def _prepare(directory: str, but: Optional[Pending]) -> None:
    """Make the directory; a change of which there is no note, because its module was killed, is settled."""
    os.makedirs(os.path.dirname(directory), mode=0o755, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    for name in os.listdir(directory):
        if _TOKEN.fullmatch(name) and (but is None or name.partition(".")[0] != but.token):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, name))


def _write(path: str, text: str) -> None:
    parent = _files.open_parent(path)
    try:
        _files.write_file(parent, os.path.basename(path), _files.Entry("file", 0o600, 0, 0, text))
    finally:
        os.close(parent)
