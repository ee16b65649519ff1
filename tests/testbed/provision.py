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
_ATTEMPT_SECONDS = 100
_ALL_SECONDS = 400


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


def _send(which: guest.Guest, config: Path, data: bytes) -> tuple[int, str]:
    """One attempt: (exit status, error output); 255 is ssh's own failure, a hanging login included."""
    remote = "tar -C / --no-same-permissions --no-overwrite-dir -xf - && sh /usr/local/lib/testbed/setup.sh"
    argv = ["ssh", "-F", str(config), "-o", "ControlPath=none", which.name, remote]
    try:
        done = subprocess.run(argv, input=data, capture_output=True, check=False, timeout=_ATTEMPT_SECONDS)
    except subprocess.TimeoutExpired:
        return 255, f"no end after {_ATTEMPT_SECONDS} s"
    return done.returncode, done.stderr.decode(errors="replace").strip()


def give(which: guest.Guest, directory: Path) -> None:
    """Provision a guest whose ssh answers. Raises Failure.

    A cloud image may answer before cloud-init has let our key in, and a login in the middle of a boot may hang on
    services that are not up yet; both pass, and the set-up may be repeated.
    """
    data = bundle(directory)
    deadline = time.monotonic() + _ALL_SECONDS
    while True:
        status, errors = _send(which, directory / "ssh_config", data)
        if status == 0:
            return
        if status != 255 or time.monotonic() > deadline:
            raise Failure(f"cannot set up {which.name} over ssh: {errors or 'no reason given'}")
        time.sleep(2)
