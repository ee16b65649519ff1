# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""QEMU's command line."""

from __future__ import annotations

import base64
import dataclasses
from pathlib import Path

import pytest

from testbed import qemu, seed, tpm
from testbed.image import Image

OURS = Image(Path("/c/disk.img"), "raw", Path("/c/vmlinuz"), Path("/c/initrd.img"))
THEIRS = Image(Path("/i/cloud.qcow2"), "qcow2")


def machine(image=OURS, accelerator="tcg"):
    return qemu.Machine("agenthost-1", accelerator, 2048, 40022, "ssh-ed25519 KEY test", image)


def after(argv, option):
    return argv[argv.index(option) + 1]


@pytest.mark.parametrize(("kind", "expected"), [("tcg", "tcg,thread=multi"), ("kvm", "kvm")])
def test_accelerator(kind, expected):
    assert after(qemu.arguments(machine(accelerator=kind)), "-accel") == expected


def test_ssh_is_forwarded_on_loopback_only():
    assert "hostfwd=tcp:127.0.0.1:40022-:22" in after(qemu.arguments(machine()), "-netdev")


def test_the_login_key_arrives_as_a_systemd_credential():
    text = after(qemu.arguments(machine()), "-smbios").split("ssh.authorized_keys.root=")[1]
    assert base64.b64decode(text) == b"ssh-ed25519 KEY test\n"


def test_our_image_boots_its_kernel_with_apparmor_and_audit():
    words = after(qemu.arguments(machine()), "-append").split()
    assert {"apparmor=1", "audit=1", "systemd.hostname=agenthost-1"} <= set(words)


def test_a_guest_is_booted_again_with_other_words_for_its_kernel():
    before = qemu.arguments(machine())
    argv = qemu.with_kernel_words(before, "apparmor=0")
    assert after(argv, "-append") == after(before, "-append") + " apparmor=0"
    assert len(argv) == len(before)
    with pytest.raises(ValueError, match="-append"):
        qemu.with_kernel_words(qemu.arguments(machine(THEIRS)), "apparmor=0")


def test_somebodys_image_boots_by_itself_with_a_seed():
    argv = qemu.arguments(machine(THEIRS))
    assert "-kernel" not in argv
    assert "file.dir=seed" in seed.drive("seed")[1] and "readonly=on" in seed.drive("seed")[1]


def test_a_tpm_is_fitted_only_when_asked_for():
    assert "-tpmdev" not in qemu.arguments(machine())
    argv = qemu.arguments(dataclasses.replace(machine(), tpm=True))
    assert "chardev=tpm" in after(argv, "-tpmdev") and f"path={tpm.SOCKET}" in after(argv, "-chardev")


def test_machine_ids_differ_and_have_the_right_form():
    one, two = qemu.machine_id("a1"), qemu.machine_id("a2")
    assert one != two
    assert len(one) == 32 and int(one, 16)


def test_the_overlay_disk_leaves_the_image_alone():
    argv = qemu.overlay_arguments(THEIRS)
    assert after(argv, "-b") == "/i/cloud.qcow2" and after(argv, "-F") == "qcow2" and argv[-1] == "disk.qcow2"


def test_a_cloud_image_gets_room_to_install_in():
    assert qemu.growth_arguments(OURS) == []
    assert qemu.growth_arguments(THEIRS)[-2:] == ["disk.qcow2", "+8G"]


def test_console_lines_lose_blanks_and_controls():
    assert qemu.last_lines("one\r\n\n\x1b[0mtwo\r\n   \nthree", 2) == ["[0mtwo", "three"]
    assert qemu.last_lines("", 5) == []
