# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ctrl-C, SIGTERM and SIGHUP become one exception, raised where nothing is half done."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from testbed.show import Interrupted

_CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_holding: list[bool] = []
_waiting: list[int] = []


def _interrupt(number: int, _frame: FrameType | None) -> None:
    if _holding:
        _waiting.append(number)
        return
    # A second Ctrl-C must not cut short the cleaning up after the first.
    for caught in _CAUGHT:
        signal.signal(caught, signal.SIG_IGN)
    raise Interrupted(signal.Signals(number).name)


def catch() -> None:
    """Install the handlers."""
    for number in _CAUGHT:
        signal.signal(number, _interrupt)


@contextmanager
def held() -> Iterator[None]:
    """Put an interruption off until the block is done: a process that was started is also on record.

    The signals are not blocked in the kernel, since a child would inherit that and be deaf to SIGTERM.
    """
    _holding.append(True)
    try:
        yield
    finally:
        _holding.pop()
    if _waiting and not _holding:
        _interrupt(_waiting.pop(), None)
