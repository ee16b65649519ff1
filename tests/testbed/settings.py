# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The variables that steer the test bed, read once from the environment and checked together."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from testbed.show import Failure

SUITES = ("bookworm", "trixie")
PACKAGE_SETS = ("full", "minimal", "tools", "neighbours")
ACCELERATORS = ("auto", "kvm", "tcg")
TPMS = ("0", "1", "other")
MOST_GUESTS = 16
_PLAIN = re.compile(r"[A-Za-z0-9/._+@-]+")


@dataclass(frozen=True)
class Settings:
    """One test bed. `memory` is MiB for each guest, `boot_timeout` seconds until ssh must answer."""

    directory: Path
    cache: Path
    guests: int = 1
    suite: str = "bookworm"
    packages: str = "full"
    accelerator: str = "auto"
    tpm: str = "0"
    memory: int = 2048
    boot_timeout: int = 600
    mirror: str = ""
    mirror_security: str = ""
    image: Path | None = None


def _number(env: Mapping[str, str], name: str, default: int, low: int, high: int, wrong: list[str]) -> int:
    text = env.get(name, "") or str(default)
    if text.isascii() and text.isdecimal() and low <= int(text) <= high:
        return int(text)
    wrong.append(f"{name}={text}: write a whole number from {low} to {high}")
    return default


def _choice(env: Mapping[str, str], name: str, choices: tuple[str, ...], wrong: list[str]) -> str:
    text = env.get(name, "") or choices[0]
    if text not in choices:
        wrong.append(f"{name}={text}: write one of {', '.join(choices)}")
    return text


def _cache(env: Mapping[str, str]) -> Path:
    base = env.get("XDG_CACHE_HOME") or str(Path(env.get("HOME", "/root")) / ".cache")
    return Path(base) / "cordon-testbed"


def _plain(name: str, path: Path, wrong: list[str]) -> Path:
    """QEMU's options, sshd_config, ssh_config and make each have their own quoting; such paths stay out of all."""
    if not _PLAIN.fullmatch(str(path)):
        wrong.append(f"{name}={path}: use letters, digits and / . _ + @ - in this path")
    return path


def _image(env: Mapping[str, str], wrong: list[str]) -> Path | None:
    if not env.get("TESTBED_IMAGE"):
        return None
    path = _plain("TESTBED_IMAGE", Path(env["TESTBED_IMAGE"]).resolve(), wrong)
    if not path.is_file():
        wrong.append(f"TESTBED_IMAGE={path}: no such file; give a Debian or Ubuntu cloud image in qcow2 format")
    return path


def read(env: Mapping[str, str] = os.environ) -> Settings:
    """Settings from `env`. Raises Failure that lists every mistake at once."""
    wrong: list[str] = []
    settings = Settings(
        directory=_plain("TESTBED_DIR", Path(env.get("TESTBED_DIR") or "build/testbed").resolve(), wrong),
        cache=_cache(env),
        guests=_number(env, "VMS", 1, 1, MOST_GUESTS, wrong),
        suite=_choice(env, "SUITE", SUITES, wrong),
        packages=_choice(env, "TESTBED_PACKAGES", PACKAGE_SETS, wrong),
        accelerator=_choice(env, "TESTBED_ACCEL", ACCELERATORS, wrong),
        tpm=_choice(env, "TESTBED_TPM", TPMS, wrong),
        memory=_number(env, "TESTBED_MEMORY", 2048, 384, 65536, wrong),
        boot_timeout=_number(env, "TESTBED_BOOT_TIMEOUT", 600, 10, 3600, wrong),
        mirror=env.get("TESTBED_MIRROR", ""),
        mirror_security=env.get("TESTBED_MIRROR_SECURITY", ""),
        image=_image(env, wrong),
    )
    if wrong:
        raise Failure("\n  ".join(["cannot start with these settings:", *wrong]))
    return settings
