# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of one guest. Pure."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from testbed import tpm
from testbed.image import Image

# loglevel=4: each byte on an emulated serial port is slow, and warnings are what a failed boot needs.
_KERNEL = (
    "root=/dev/vda rw console=ttyS0 loglevel=4 panic=10 fsck.mode=skip mitigations=off net.ifnames=0 "
    "random.trust_cpu=on apparmor=1 lsm=lockdown,yama,apparmor,bpf audit=1 audit_backlog_limit=8192 "
    "systemd.show_status=auto"
)


@dataclass(frozen=True)
class Machine:
    """One guest: name, accelerator (kvm or tcg), MiB of memory, the host port of its ssh, the login key's text, a TPM or none."""

    name: str
    accelerator: str
    memory: int
    port: int
    public_key: str
    image: Image
    tpm: bool = False


def machine_id(seed: str) -> str:
    """32 hexadecimal characters, machine-id(5)."""
    return hashlib.sha256(seed.encode()).hexdigest()[:32]


def kernel_arguments(machine: Machine) -> str:
    identity = machine_id(machine.public_key + machine.name)
    return f"{_KERNEL} systemd.hostname={machine.name} systemd.machine_id={identity}"


def credential(name: str, text: str) -> str:
    """A systemd credential as an SMBIOS string (systemd.exec(5), since 252): how the login key enters the guest."""
    return f"type=11,value=io.systemd.credential.binary:{name}={base64.b64encode(text.encode()).decode()}"


def _boot(machine: Machine) -> list[str]:
    image = machine.image
    if image.kernel is None or image.initrd is None:
        # Boot loaders draw their menu: without a screen, some wait for one.
        return ["-vga", "std"]
    return ["-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", kernel_arguments(machine)]


def accelerator(kind: str) -> list[str]:
    if kind == "kvm":
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", "tcg,thread=multi", "-cpu", "max"]


def arguments(machine: Machine) -> list[str]:
    """qemu-system-x86_64 for a guest whose directory is the working directory.

    The overlay disk, console.log and qmp.sock are relative: a socket's path may have 107 bytes, unix(7).
    """
    return [
        "qemu-system-x86_64", "-name", machine.name, "-nodefaults", "-display", "none",
        *accelerator(machine.accelerator), "-smp", "2", "-m", str(machine.memory), "-rtc", "base=utc",
        "-drive", "file=disk.qcow2,format=qcow2,if=virtio,cache=unsafe,discard=unmap",
        "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{machine.port}-:22", "-device", "virtio-net-pci,netdev=net",
        "-device", "virtio-rng-pci", "-serial", "file:console.log",
        "-qmp", "unix:qmp.sock,server=on,wait=off",
        "-smbios", credential("ssh.authorized_keys.root", machine.public_key + "\n"),
        *(tpm.device() if machine.tpm else []),
        *_boot(machine),
    ]


def with_kernel_words(argv: list[str], words: str) -> list[str]:
    """The same guest with other words at the end of its kernel's command line, where the last of a kind decides.

    Raises ValueError for an image that boots by itself: its boot loader has the command line.
    """
    place = argv.index("-append") + 1
    return [*argv[:place], f"{argv[place]} {words}".strip(), *argv[place + 1:]]


def overlay_arguments(image: Image) -> list[str]:
    """qemu-img command for the guest's throw-away disk over the image."""
    return ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(image.disk), "-F", image.format, "disk.qcow2"]


def growth_arguments(image: Image) -> list[str]:
    """qemu-img command that gives a cloud image room to install in (its growpart takes it); ours has it already."""
    return [] if image.kernel else ["qemu-img", "resize", "-q", "-f", "qcow2", "disk.qcow2", "+8G"]


def last_lines(console: str, count: int) -> list[str]:
    """The end of a console log without its blank lines and terminal controls."""
    clean = "".join(char for char in console if char.isprintable() or char == "\n")
    return [line for line in clean.splitlines() if line.strip()][-count:]
