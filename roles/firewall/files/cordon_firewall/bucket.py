# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How often something may happen."""

from __future__ import annotations

from typing import NamedTuple


class Limit(NamedTuple):
    """So many a second in the long run, and so many at once."""

    rate: float
    burst: float


class Bucket:
    """A token bucket: full at first, refilled at the rate of its limit."""

    def __init__(self, limit: Limit) -> None:
        self._limit = limit
        self._tokens = limit.burst
        self._filled = 0.0

    def take(self, now: float) -> bool:
        """Whether it may happen once more now (seconds of a clock that never goes back)."""
        since, self._filled = now - self._filled, now
        self._tokens = min(self._limit.burst, self._tokens + max(0.0, since) * self._limit.rate)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
