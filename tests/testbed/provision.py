# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a booted guest is given over ssh: the stand-in for a cloud's metadata service, the ordinary user alice with the
tunnel's key, and facts about the services. Over ssh, so that somebody's own image gets the same as ours.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import time
from pathlib import Path

from testbed import guest, overlay
from testbed.show import Failure

TREE = Path(__file__).parent / "provision"
_PATIENCE = 60


def bundle(directory: Path) -> bytes:
    """The tar file that is unpacked at the guest's root."""
    services = directory / "services"
    given = {
        "srv/testbed/services.json": directory / "services.json",
        "srv/testbed/ca.crt": services / "ca.crt",
        "srv/testbed/tunnel_key": services / "tunnel_key",
        "srv/testbed/tunnel_host_key.pub": services / "host_key.pub",
    }
    buffer = io.BytesIO(overlay.pack(TREE))
    with tarfile.open(fileobj=buffer, mode="a") as archive:
        for name, path in given.items():
            archive.add(path, f"./{name}", filter=overlay.owned_by_root)
    return buffer.getvalue()


def _send(which: guest.Guest, config: Path, data: bytes) -> subprocess.CompletedProcess[bytes]:
    remote = "tar -C / --no-same-permissions --no-overwrite-dir -xf - && sh /usr/local/lib/testbed/setup.sh"
    argv = ["ssh", "-F", str(config), "-o", "ControlPath=none", which.name, remote]
    return subprocess.run(argv, input=data, capture_output=True, check=False, timeout=_PATIENCE * 2)


def give(which: guest.Guest, directory: Path) -> None:
    """Provision a guest whose ssh answers. A cloud image may answer before cloud-init has let our key in, so a refused
    login is tried again for a minute. Raises Failure."""
    data = bundle(directory)
    deadline = time.monotonic() + _PATIENCE
    while True:
        done = _send(which, directory / "ssh_config", data)
        if done.returncode == 0:
            return
        if done.returncode != 255 or time.monotonic() > deadline:
            text = done.stderr.decode(errors="replace").strip()
            raise Failure(f"cannot set up {which.name} over ssh: {text or 'no reason given'}")
        time.sleep(2)
