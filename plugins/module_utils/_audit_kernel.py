# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private: ask the kernel for its audit rules and give it new ones, through auditctl(8)."""

from __future__ import annotations

import os
import tempfile
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

from . import _audit_rules

Run = Callable[[List[str]], Tuple[int, str, str]]
IMMUTABLE = 2


class NoAudit(Exception):
    """This kernel, or this container, has no audit to speak to; the message says what auditctl said."""


class Kernel(NamedTuple):
    """What the kernel has loaded. status: see `_audit_rules.parse_status`; listing: `auditctl -l`."""

    status: Dict[str, Any]
    listing: str

    @property
    def immutable(self) -> bool:
        """True when rules are locked until the next boot (-e 2)."""
        return bool(self.status.get("enabled") == IMMUTABLE)


def read(run: Run, auditctl: str) -> Kernel:
    """Read status and rules; NoAudit where there are none to be had."""
    rc, out, err = run([auditctl, "-s"])
    status = _audit_rules.parse_status(out)
    # auditctl exits 0 in some containers without having reached the kernel: trust the content.
    if rc != 0 or "enabled" not in status:
        raise NoAudit((err or out).strip() or f"auditctl -s: exit status {rc}")
    rc, out, err = run([auditctl, "-l"])
    if rc != 0:
        raise NoAudit((err or out).strip() or f"auditctl -l: exit status {rc}")
    return Kernel(status, out)


def load(run: Run, auditctl: str, lines: List[str]) -> str:
    """Give lines to the kernel in one call; returns what auditctl complained of.

    The caller reads the kernel back: in immutable mode auditctl warns and exits 0.
    """
    # auditctl -R refuses a file that is not root's or that others may write: mkstemp makes it 0600.
    handle, path = tempfile.mkstemp(prefix="cordon-", suffix=".rules")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
        _rc, _out, err = run([auditctl, "-R", path])
        return err.strip()
    finally:
        os.unlink(path)
