# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parsers of the Debian releases, each unpacked from its own release with its own libraries.

`mmdebstrap --variant=extract` unpacks the package apparmor and what it needs, a few seconds once; kept beside the
test bed's images. The release's own dynamic loader runs the parser, so neither root nor a chroot is needed.
"""
from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from testbed import mirror, settings

SUITES = ("bookworm", "trixie")
HERE = Path(__file__).parent
FEATURES = {"bookworm": HERE / "features-linux-6.1", "trixie": HERE / "features-linux-6.12"}


@dataclass(frozen=True)
class Parser:
    """One release's apparmor_parser, compiling for that release's kernel."""

    suite: str
    root: Path

    def run(self, *arguments: str, features: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Start it; the kernel's features are those recorded, because this machine's kernel need not have any."""
        tops = (self.root, self.root / "usr")  # merged or not: nothing ran that would merge them
        libraries = [path for top in tops for path in top.glob(f"lib/{platform.machine()}-linux-gnu")]
        loader = next(path for place in libraries for path in place.glob("ld-linux*.so.*"))
        program = next(path for top in tops for path in top.glob("sbin/apparmor_parser"))
        return subprocess.run(
            [str(loader), "--library-path", ":".join(map(str, libraries)), str(program),
             f"--config-file={self.root}/etc/apparmor/parser.conf", "--kernel-features",
             str(features or FEATURES[self.suite]), *arguments],
            capture_output=True, text=True, check=False)

    def compile(self, texts: list[str], place: Path, *more: str) -> str:
        """"" if it takes all of these profiles, else its complaint."""
        names = []
        for number, text in enumerate(texts):
            names.append(place / f"p{number}")
            names[-1].write_text(text, encoding="utf-8")
        done = self.run("--skip-kernel-load", "--skip-cache", f"--base={self.root}/etc/apparmor.d", *more, *map(str, names))
        return done.stderr or "it gave no reason" if done.returncode or "parser error" in done.stderr else ""


def obtain(suite: str) -> Parser:
    """The parser of that release, unpacked if the cache lacks it. Raises for a machine that cannot: never a skip."""
    chosen = settings.read({**os.environ, "SUITE": suite})
    lines = mirror.source_lines(mirror.discover(chosen.mirror, chosen.mirror_security), suite)
    key = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    cache = chosen.cache / "parsers"
    target = cache / f"{suite}-{key}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            _unpack(suite, lines, cache / f".build-{suite}-{key}", target)
    return Parser(suite, target)


def _unpack(suite: str, lines: list[str], work: Path, target: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    done = subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=extract", "--format=tar", "--include=apparmor", suite,
         str(work / "root.tar"), *lines], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"mmdebstrap cannot unpack {suite}'s apparmor: {done.stderr}")
    with tarfile.open(work / "root.tar") as packed:
        members = [each for each in packed.getmembers() if each.name.startswith(("./usr/", "./lib/", "./sbin/", "./etc/apparmor"))
                   and not each.name.startswith("./usr/share/") and not each.isdev()]
        packed.extractall(work / "root", members=members, filter="tar")
    (work / "root").rename(target)
    shutil.rmtree(work)
