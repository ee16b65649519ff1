# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The image `debian-systemd:SUITE`, made with mmdebstrap from the archive that this machine uses.

Nothing is pulled: no registry has to be reachable, and what is tested is Debian's packages. The root file
system is cached by the hash of its recipe, and imported into a daemon that lacks it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
from pathlib import Path

from testbed import mirror, run, settings
from testbed.files import need_space
from testbed.recipe import ROLES
from testbed.show import Failure, step

# PID 1 and what every server install has; then what the roles install, so that no converge waits for apt.
BASE = (
    "systemd", "systemd-sysv", "dbus", "libpam-systemd", "python3", "python3-apt", "sudo", "ca-certificates",
    "curl", "iproute2", "procps", "netbase", "openssh-client", "openssl", "cron", "at", "logrotate",
)
PACKAGES = (*BASE, *ROLES)
INIT = Path(__file__).with_name("init")
LABEL = "cordon.recipe"
MEGABYTES = 1500


def recipe_key(suite: str, sources: list[str]) -> str:
    """Changes whenever the image would."""
    text = json.dumps([suite, sources, PACKAGES, INIT.read_text()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def mmdebstrap(suite: str, target: Path, sources: list[str]) -> list[str]:
    """Command that makes the root file system as a tar file."""
    keep = "path-include=/usr/share/doc/*/copyright"
    drop = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale", "info")]
    return [
        "mmdebstrap", "--variant=minbase", "--format=tar", f"--include={','.join(PACKAGES)}",
        *drop, f"--dpkgopt={keep}", "--aptopt=Apt::Install-Recommends \"false\"", "--aptopt=Acquire::Retries \"3\"",
        f"--customize-hook=upload {INIT} /sbin/container-init",
        "--customize-hook=chmod 0755 \"$1\"/sbin/container-init",
        "--customize-hook=chroot \"$1\" useradd --create-home --shell /bin/bash alice",
        suite, str(target), *sources,
    ]


def root_archive(suite: str, sources: list[str], key: str) -> Path:
    """The cached tar file, made if the cache lacks it; made beside and renamed, so that it is never half there."""
    images = settings.read().cache / "containers"
    images.mkdir(parents=True, exist_ok=True)
    archive = images / f"{suite}-{key}.tar"
    with (images / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if archive.exists():
            return archive
        run.need_programs({"mmdebstrap": "mmdebstrap"})
        need_space(images, MEGABYTES, "building a container image")
        work = images / ".new.tar"
        try:
            with step(f"build the container image: {suite} with {len(PACKAGES)} packages and what they need"):
                run.logged(mmdebstrap(suite, work, sources), images, "mmdebstrap.log", "building the container image")
            os.replace(work, archive)
        finally:
            work.unlink(missing_ok=True)
    return archive


def docker(*arguments: str, host: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, check=False, env={**os.environ, "DOCKER_HOST": host}
    )


def provide(host: str, suite: str) -> str:
    """Make sure that the daemon at `host` has the image of the current recipe; return its name."""
    name = f"debian-systemd:{suite}"
    sources = mirror.source_lines(mirror.discover(os.environ.get("TESTBED_MIRROR", "")), suite)
    key = recipe_key(suite, sources)
    present = docker("image", "inspect", "-f", f'{{{{index .Config.Labels "{LABEL}"}}}}', name, host=host)
    if present.stdout.strip() == key:
        return name
    archive = root_archive(suite, sources, key)
    changes = ("ENV container=docker LANG=C.UTF-8", 'CMD ["/sbin/container-init"]', f"LABEL {LABEL}={key}")
    flags = [word for change in changes for word in ("--change", change)]
    with step(f"import {name} into docker"):
        done = docker("import", *flags, str(archive), name, host=host)
    if done.returncode:
        raise Failure(f"docker cannot import {archive}: {done.stderr.strip()}")
    return name
