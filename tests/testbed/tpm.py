# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest's TPM 2.0: one swtpm beside its QEMU, with its state in the guest's directory."""

from __future__ import annotations

import time
from pathlib import Path

from testbed import process, run
from testbed.show import Failure

PACKAGES = {"swtpm": "swtpm"}
SOCKET = "tpm.sock"
_READY_WITHIN = 20


def state(directory: Path, which: str) -> Path:
    """Where the chip keeps its secrets. `other` is another chip: what the first one sealed it cannot open."""
    return directory / ("tpm-other" if which == "other" else "tpm")


def fitted(directory: Path) -> bool:
    """Whether the guest was made with a TPM."""
    return state(directory, "1").is_dir()


def arguments(place: Path) -> list[str]:
    """The swtpm command. Not --terminate: 0.7.1 did not end with its QEMU, so we end it ourselves."""
    return ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={place.name}", "--ctrl", f"type=unixio,path={SOCKET}"]


def device() -> list[str]:
    """QEMU's part of it (docs/specs/tpm.rst). The socket's path is relative to the guest's directory."""
    channel = f"socket,id=tpm,path={SOCKET}"
    return ["-chardev", channel, "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-tis,tpmdev=tpm0"]


def start(directory: Path, which: str) -> None:
    """Start the chip before QEMU, which wants to connect at once. Raises Failure."""
    place, log = state(directory, which), directory / "tpm.log"
    place.mkdir(exist_ok=True)
    end(directory)
    (directory / SOCKET).unlink(missing_ok=True)
    record = process.launch(arguments(place), directory, log, directory / "tpm.pid")
    deadline = time.monotonic() + _READY_WITHIN
    while not (directory / SOCKET).exists():
        if not process.alive(record) or time.monotonic() > deadline:
            raise Failure(run.explain("starting the guest's TPM", log.read_text(errors="replace")))
        time.sleep(0.05)


def end(directory: Path) -> None:
    """End the chip, if it runs."""
    process.end(process.load(directory / "tpm.pid"))
