# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which accelerator boots a kernel here: KVM where that was seen, software emulation elsewhere.

/dev/kvm may be there and open, and a guest hang before its first line all the same (nested or filtered
virtualisation). So the probe boots the very kernel and initrd of the image and waits for the initrd's first words.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from testbed import process, qemu, run
from testbed.files import write_atomically
from testbed.image import Image
from testbed.settings import Settings
from testbed.show import Failure, say, step

# Our image needs 2 s under KVM; somebody's own has a boot loader's menu and a larger initrd before it speaks.
PROBE_SECONDS = 12
PROBE_SECONDS_OF_A_DISK = 40
# The first line of initramfs-tools' /init, or systemd's: user space runs, so the processor, its timer and memory work.
_SIGNS = (b"Loading, please wait", b"systemd[1]:")


def _what(image: Image) -> tuple[list[str], int]:
    """QEMU's arguments that boot the image without changing it, and how many seconds to give it."""
    if image.kernel is None:
        disk = f"file={image.disk},format={image.format},if=virtio,snapshot=on"
        return ["-vga", "std", "-drive", disk], PROBE_SECONDS_OF_A_DISK
    kernel = ["-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", "console=ttyS0 panic=-1"]
    return kernel, PROBE_SECONDS


def _boots(image: Image, directory: Path) -> bool:
    console = directory / "console"
    what, seconds = _what(image)
    argv = [
        "qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot", *qemu.accelerator("kvm"),
        "-smp", "2", "-m", "512", *what, "-serial", f"file:{console}",
    ]
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and child.poll() is None:
            time.sleep(0.2)
            text = console.read_bytes() if console.exists() else b""
            if any(sign in text for sign in _SIGNS):
                return True
        return False
    finally:
        child.kill()
        child.wait()


def _circumstances() -> str:
    """The probe's answer holds for this boot of this machine with this QEMU."""
    version = run.quiet(["qemu-system-x86_64", "--version"], "asking QEMU's version").splitlines()[0]
    return f"{process.boot_id()} {version}"


def _remembered(path: Path, circumstances: str) -> bool | None:
    try:
        known = json.loads(path.read_text())
        return bool(known["kvm"]) if known["circumstances"] == circumstances else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def works(image: Image, cache: Path) -> bool:
    """Whether a guest boots under KVM; asks once and remembers."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    memory = cache / "kvm.json"
    circumstances = _circumstances()
    answer = _remembered(memory, circumstances)
    if answer is None:
        with step("probe KVM by booting a kernel"), tempfile.TemporaryDirectory() as directory:
            answer = _boots(image, Path(directory))
        cache.mkdir(parents=True, exist_ok=True)
        write_atomically(memory, json.dumps({"circumstances": circumstances, "kvm": answer}) + "\n")
    return answer


def choose(settings: Settings, image: Image) -> str:
    """`kvm` or `tcg`."""
    if settings.accelerator != "auto":
        if settings.accelerator == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
            raise Failure("TESTBED_ACCEL=kvm, but /dev/kvm is missing or not open to this user; leave it at auto")
        return settings.accelerator
    chosen = "kvm" if works(image, settings.cache) else "tcg"
    say(f"testbed: accelerator: {'KVM' if chosen == 'kvm' else 'software emulation (KVM boots no guest here)'}")
    return chosen
