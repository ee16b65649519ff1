# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where packages come from: the archive that the machine itself uses, or TESTBED_MIRROR.

No archive's name is written here: a machine behind a company's mirror must use that mirror for its guests too.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

from testbed.show import Failure

_FORMAT = "$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(CREATED_BY)|$(SITE)"
_REMEDY = "Set TESTBED_MIRROR to the base address of a Debian archive (and TESTBED_MIRROR_SECURITY if it has its own)."


@dataclass(frozen=True)
class Mirror:
    """Base addresses of a Debian archive and of its security archive; the latter may be empty."""

    main: str
    security: str


def parse_targets(text: str) -> Mirror:
    """Mirror from lines of `apt-get indextargets --format`. Raises Failure if Debian's main archive is missing."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        origin, label, component, kind, site = (line.split("|") + [""] * 5)[:5]
        if origin == "Debian" and component == "main" and kind == "Packages":
            found.setdefault(label, site)
    if "Debian" not in found:
        raise Failure("this machine's apt knows no Debian archive (has `apt-get update` run?). " + _REMEDY)
    return Mirror(found["Debian"], found.get("Debian-Security", ""))


def discover(override: str, security: str = "") -> Mirror:
    """The archive to build guests from."""
    if override:
        return Mirror(override.rstrip("/"), security.rstrip("/"))
    try:
        run = subprocess.run(
            ["apt-get", "indextargets", "--format", _FORMAT], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise Failure(f"cannot ask apt where packages come from ({error}). " + _REMEDY) from error
    return parse_targets(run.stdout)


def source_lines(mirror: Mirror, suite: str) -> list[str]:
    """One-line apt sources of a guest of `suite`."""
    lines = [f"deb {mirror.main} {suite} main", f"deb {mirror.main} {suite}-updates main"]
    if mirror.security:
        lines.append(f"deb {mirror.security} {suite}-security main")
    return lines
