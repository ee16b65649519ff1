# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cloud-init seed (NoCloud data source) for somebody's own Debian or Ubuntu cloud image.

QEMU shows the directory as a FAT file system labelled CIDATA, read-only, so no tool has to make a disk of it.
"""

from __future__ import annotations

import json
from pathlib import Path


def user_data(public_key: str) -> str:
    """Root may log in by our key only. JSON is YAML; the first line is what cloud-init knows the format by."""
    settings = {
        "disable_root": False,
        "ssh_pwauth": False,
        "users": [{"name": "root", "lock_passwd": True, "ssh_authorized_keys": [public_key]}],
        # apt's timers would hold its lock while a playbook installs.
        "bootcmd": [["systemctl", "mask", "--now", "apt-daily.timer", "apt-daily-upgrade.timer"]],
        "package_update": False,
        "package_upgrade": False,
    }
    return "#cloud-config\n" + json.dumps(settings, indent=2) + "\n"


def meta_data(name: str, instance: str) -> str:
    return json.dumps({"instance-id": instance, "local-hostname": name}) + "\n"


def write(directory: Path, name: str, instance: str, public_key: str) -> None:
    """Write the seed's files into `directory`."""
    directory.mkdir()
    (directory / "user-data").write_text(user_data(public_key))
    (directory / "meta-data").write_text(meta_data(name, instance))


def drive(directory: str) -> list[str]:
    """QEMU's arguments for the seed; `directory` is relative to QEMU's working directory."""
    options = f"file.driver=vvfat,file.dir={directory},file.label=CIDATA,format=raw,readonly=on,if=virtio"
    return ["-drive", options]
