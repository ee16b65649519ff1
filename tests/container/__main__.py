# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m container COMMAND...`: run a command with DOCKER_HOST set and the image in place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import FrameType

from container import image
from container.daemon import daemon
from testbed.show import Failure, Interrupted, complain


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(signal.Signals(number).name)


def _follow(argv: list[str], host: str) -> int:
    """Run the command; when we are told to end, end it and wait, so that the daemon outlives its user."""
    child = subprocess.Popen(argv, env={**os.environ, "DOCKER_HOST": host})
    try:
        return child.wait()
    except BaseException:
        child.terminate()
        child.wait(30)
        raise


def main(argv: list[str]) -> int:
    """Exit status: the command's; 1 if it could not be run, 130 interrupted."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        with daemon() as host:
            image.provide(host, os.environ.get("SUITE", "bookworm"))
            return _follow(argv, host)
    except Failure as failure:
        complain(str(failure))
        return 1
    except Interrupted as interruption:
        complain(f"interrupted ({interruption})")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
