# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the person at the terminal sees: one line a step, with the time it took; one message a failure."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Failure(Exception):
    """Something the user can act upon. `str()` is the whole message: what failed and what to do about it."""


class Interrupted(BaseException):
    """Ctrl-C, SIGTERM or SIGHUP. Not an Exception, so that no handler takes it for an ordinary error."""


def say(text: str) -> None:
    """Print a progress line at once (stdout may be a pipe into a log)."""
    print(text, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Announce a step, and print the seconds that it took once it is done."""
    say(f"testbed: {text} ...")
    begun = time.monotonic()
    yield
    say(f"testbed: {text}: {time.monotonic() - begun:.1f} s")


def complain(text: str) -> None:
    """Print the one message of a failed run."""
    print(f"testbed: {text}", file=sys.stderr, flush=True)
