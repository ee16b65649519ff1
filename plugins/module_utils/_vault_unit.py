# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private: open and close a vault at its mount point, by the unit that opens it for sessions too.

cordon-vault@NAME.service stops as soon as nobody needs it (StopWhenUnneeded=), so a unit of ours needs it: HOLDER, which
runs nothing and is gone with the next boot.
"""

from __future__ import annotations

import os
import time
from typing import Callable, List, Optional

from . import _services, _vault
from ._vault_open import Run

OPEN = "open the vault"
CLOSE = "close the vault"
CORDONCTL = "/usr/lib/cordon/cordonctl"
WAIT = 120.0  # seconds; the unit's own TimeoutStartSec= and TimeoutStopSec= are shorter
_RUNNING = ("active", "activating", "reloading", "deactivating")


def holder(place: _vault.Place) -> str:
    """The unit that keeps a vault open that no session needs."""
    return f"cordon-vault-hold-{place.name}.service"


class Unit:
    """The unit of one agent's vault; is_open tells whether the vault is mounted now."""

    def __init__(self, run: Run, place: _vault.Place, is_open: Callable[[], bool]) -> None:
        self._run = run
        self._place = place
        self._is_open = is_open

    def sessions(self) -> List[str]:
        """The agent's service and sessions that run now; each of them needs the vault."""
        patterns = [_services.service(self._place.name), f"cordon-session-{self._place.name}-*.service"]
        listed = self._systemctl("list-units", "--all", "--no-legend", "--plain", *patterns)
        units = [unit for unit in _services.names(listed) if _services.owner(unit) == self._place.name]
        if not units:
            return []
        shown = _services.properties(self._systemctl("show", "--property=Id,ActiveState", "--", *sorted(units)))
        return sorted(unit for unit in shown if shown[unit].get("ActiveState") in _RUNNING)

    def open(self, password: Optional[str]) -> None:
        """Start the unit and see that the vault is mounted; its question for a password is answered by cordonctl."""
        waiting = ["--no-block"] if password is not None else []
        hold = [f"--property={key}={self._place.unit}" for key in ("BindsTo", "After")]
        self._hold(
            ["systemd-run", "--quiet", *waiting, f"--unit={holder(self._place)}", "--service-type=oneshot",
             "--remain-after-exit", "--collect", *hold, "--", "/bin/true"]
        )  # fmt: skip
        if password is not None:
            self._unlock(password)
        self._until(True, f"systemctl status {self._place.unit} says why")

    def _hold(self, argv: List[str]) -> None:
        """Start the holder. systemd refuses it, as "destructive", while the vault closes: then it is tried again."""
        until = time.monotonic() + WAIT
        while True:
            try:
                self._must(argv)
                return
            except _vault.VaultError as error:
                if "is destructive" not in str(error) or time.monotonic() > until:
                    raise
            time.sleep(0.1)

    def _unlock(self, password: str) -> None:
        """Answer the unit; where it is not opened, leave no holder behind that the next run would stumble over."""
        try:
            self._must([CORDONCTL, "unlock", self._place.name], f"{password}\n")
        except _vault.VaultError:
            self._systemctl("stop", "--", holder(self._place))
            raise

    def close(self, end_sessions: bool) -> List[str]:
        """Stop the unit, and see that nothing is mounted. Return the agent's units that were ended with it."""
        running = self.sessions()
        if running and not end_sessions:
            raise _vault.VaultError(in_use(self._place, running))
        # The holder, and every session, is bound to the unit and goes with it.
        self._systemctl("stop", "--", self._place.unit)
        self._until(False, f"journalctl -u {self._place.unit} says why")
        return running

    def _until(self, wanted: bool, hint: str) -> None:
        until = time.monotonic() + WAIT
        while self._is_open() != wanted:
            if time.monotonic() > until:
                word = "open" if wanted else "closed"
                raise _vault.VaultError(f"vault of agent {self._place.name} is not {word} after {WAIT:.0f} s: {hint}")
            time.sleep(0.1)

    def _systemctl(self, *arguments: str) -> str:
        return self._must(["systemctl", "--no-pager", *arguments])

    def _must(self, argv: List[str], data: Optional[str] = None) -> str:
        rc, out, err = self._run(argv, data=data)
        if rc != 0:
            raise _vault.VaultError(f"{' '.join(argv)} failed: {' '.join((err or out).split())}")
        return out


def has_systemd() -> bool:
    """Whether systemd runs this host (sd_booted(3))."""
    return os.path.isdir("/run/systemd/system")


def in_use(place: _vault.Place, sessions: List[str]) -> str:
    """Why a vault that sessions need is not closed."""
    return (
        f"vault of agent {place.name} is in use by {', '.join(sessions)}, and closing it would end them: stop them first, "
        f"or say end_sessions: true (in rotate.yml rotate_end_sessions: true)"
    )
