# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One guest's life: its directory, its QEMU process, the wait until ssh answers."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from testbed import process, qemu, run, seed, tpm
from testbed.image import Image
from testbed.settings import Settings
from testbed.show import Failure, say

_CONSOLE_LINES = 40
_POWER_OFF = 180  # seconds: systemd gives a unit 90 to stop


@dataclass(frozen=True)
class Guest:
    """A guest as the rest of the test bed sees it: `directory` holds disk, console, pid and port."""

    name: str
    directory: Path

    @property
    def console(self) -> Path:
        return self.directory / "console.log"

    @property
    def pid(self) -> Path:
        return self.directory / "qemu.pid"

    @property
    def port(self) -> int:
        return int((self.directory / "port").read_text())


def named(settings: Settings, number: int) -> Guest:
    name = f"agenthost-{number}"
    return Guest(name, settings.directory / name)


def all_of(settings: Settings) -> list[Guest]:
    return [named(settings, number) for number in range(1, settings.guests + 1)]


def found(directory: Path) -> list[Guest]:
    """The guests that a test bed's directory knows, running or not."""
    return [Guest(path.name, path) for path in sorted(directory.glob("agenthost-*")) if path.is_dir()]


def running(guest: Guest) -> bool:
    return process.alive(process.load(guest.pid))


def free_port() -> int:
    """A loopback port that nobody holds at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(guest: Guest, image: Image, settings: Settings, accelerator: str, public_key: str) -> None:
    """Begin the boot of a guest on a fresh overlay disk."""
    shutil.rmtree(guest.directory, ignore_errors=True)
    guest.directory.mkdir(parents=True)
    for argv in filter(None, (qemu.overlay_arguments(image), qemu.growth_arguments(image))):
        run.quiet(argv, f"making the disk of {guest.name}", guest.directory)
    port = free_port()
    (guest.directory / "port").write_text(f"{port}\n")
    has_tpm = settings.tpm != "0"
    machine = qemu.Machine(guest.name, accelerator, settings.memory, port, public_key, image, has_tpm)
    argv = qemu.arguments(machine)
    if image.kernel is None:
        seed.write(guest.directory / "seed", guest.name, qemu.machine_id(public_key + guest.name), public_key)
        argv += seed.drive("seed")
    (guest.directory / "argv.json").write_text(json.dumps(argv))
    if has_tpm:
        tpm.start(guest.directory, settings.tpm)
    process.launch(argv, guest.directory, guest.directory / "qemu.log", guest.pid)


def power_off(guest: Guest, ssh_config: Path) -> None:
    """Have the guest write its disk and end. Raises Failure if it does not."""
    argv = ["ssh", "-F", str(ssh_config), guest.name, "systemctl poweroff"]
    # Its answer says nothing: the connection may end before the command does.
    subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    end = time.monotonic() + _POWER_OFF
    while running(guest):
        if time.monotonic() > end:
            raise why_not(guest, f"did not power off within {_POWER_OFF} s")
        time.sleep(0.5)


def boot_again(guest: Guest, words: str, which_tpm: str = "1") -> None:
    """Boot a guest that is off from its own disk, with these words at the end of its kernel's command line.

    which_tpm: of a guest that has a TPM, its own or the `other`.
    """
    argv = json.loads((guest.directory / "argv.json").read_text())
    try:
        argv = qemu.with_kernel_words(argv, words) if words else argv
    except ValueError:
        raise Failure(f"{guest.name} boots by its own boot loader: it cannot be given the words {words!r}") from None
    if tpm.fitted(guest.directory):
        tpm.start(guest.directory, which_tpm)
    process.launch(argv, guest.directory, guest.directory / "qemu.log", guest.pid)


def stop(guest: Guest) -> bool:
    """End the guest's QEMU; its disk is throw-away, so there is nothing to save. True if it ran."""
    ran = process.end(process.load(guest.pid))
    tpm.end(guest.directory)
    return ran


def discard(guest: Guest) -> None:
    """Stop the guest and remove its directory."""
    stop(guest)
    shutil.rmtree(guest.directory, ignore_errors=True)


def answers(port: int, patience: float = 5.0) -> bool:
    """Whether an ssh server speaks. QEMU accepts the connection itself, so only the banner is a proof."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=patience) as link:
            return link.recv(4) == b"SSH-"
    except OSError:
        return False


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def why_not(guest: Guest, what: str) -> Failure:
    """Failure with the tail of the guest's console, and of QEMU's own output."""
    lines = qemu.last_lines(_text(guest.directory / "qemu.log"), 5)
    lines += qemu.last_lines(_text(guest.console), _CONSOLE_LINES) or ["(the console is empty)"]
    return Failure("\n  | ".join([f"{guest.name} {what}. The end of its console:", *lines]))


def wait(guest: Guest, begun: float, timeout: int) -> None:
    """Return when the guest's ssh answers. Raises Failure if QEMU ends or `timeout` seconds pass since `begun`."""
    told = time.monotonic()
    while not answers(guest.port):
        now = time.monotonic()
        if not running(guest):
            raise why_not(guest, "stopped while booting")
        if now - begun > timeout:
            raise why_not(guest, f"did not answer on ssh within {timeout} s (TESTBED_BOOT_TIMEOUT)")
        if now - told > 10:
            told = now
            last = qemu.last_lines(_text(guest.console), 1)
            say(f"testbed: {guest.name}: {now - begun:.0f} s, console: {''.join(last)[:100]}")
        time.sleep(0.5)
    say(f"testbed: {guest.name}: ssh answers after {time.monotonic() - begun:.1f} s")
