# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The image cache: build once, publish whole, reuse.

An image is a directory `CACHE/images/KEY` with disk.img, vmlinuz and initrd.img. It is made in a directory beside
it and renamed into place after everything was synced, so a key that exists is an image that is complete.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed import mirror, overlay, recipe, run
from testbed.files import need_space, sync
from testbed.settings import Settings
from testbed.show import Failure, say, step

BUILD_MEGABYTES = 3000
_SCRIPT = Path(__file__).parent / "make-disk.sh"


@dataclass(frozen=True)
class Image:
    """A bootable image; `format` is qemu-img's name. Without kernel and initrd the disk boots by itself."""

    disk: Path
    format: str
    kernel: Path | None = None
    initrd: Path | None = None


def recipe_of(settings: Settings) -> recipe.Recipe:
    source = mirror.discover(settings.mirror, settings.mirror_security)
    return recipe.Recipe(
        suite=settings.suite,
        sources=tuple(mirror.source_lines(source, settings.suite)),
        packages=recipe.packages(settings.packages),
        overlay=hashlib.sha256(overlay.pack()).hexdigest(),
        script=_SCRIPT.read_text(),
    )


def opened(directory: Path) -> Image:
    return Image(directory / "disk.img", "raw", directory / "vmlinuz", directory / "initrd.img")


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One builder at a time; the kernel frees the lock of a builder that dies."""
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("testbed: another test bed builds an image; waiting for it")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _as_root(argv: list[str]) -> list[str]:
    """Files of the guest belong to its root: without ours, a user namespace lends one (unshare(1))."""
    return argv if os.geteuid() == 0 else ["unshare", "--map-root-user", "--map-auto", "--", *argv]


def _build(plan: recipe.Recipe, work: Path) -> None:
    (work / "overlay.tar").write_bytes(overlay.pack())
    (work / "tmp").mkdir()
    # In the work directory, a killed build leaves its root file system where the next run clears it away.
    # Not without root: mmdebstrap's user namespace may not enter a private home directory.
    environment = {"TMPDIR": str(work / "tmp")} if os.geteuid() == 0 else {}
    with step(f"install {plan.suite} with {len(plan.packages)} packages and what they need"):
        run.logged(
            recipe.mmdebstrap(plan, str(work / "overlay.tar"), str(work / "root.tar")),
            work, "mmdebstrap.log", "building the guest's root file system", environment,
        )
    with step("make the disk"):
        size = f"{plan.disk_gigabytes}G"
        run.logged(_as_root(["sh", str(_SCRIPT), size]), work, "disk.log", "making the guest's disk")


def _publish(work: Path, target: Path) -> None:
    for name in ("root.tar", "overlay.tar"):
        (work / name).unlink()
    shutil.rmtree(work / "tmp")
    for path in work.iterdir():
        sync(path)
    work.rename(target)
    sync(target.parent)


def _clear(images: Path) -> None:
    """Remove what killed builds left. Called under the lock, so nobody else is building."""
    for leftover in images.glob(".build-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def obtain(settings: Settings) -> Image:
    """The image for these settings, built if the cache lacks it. Raises Failure."""
    if settings.image is not None:
        return Image(settings.image, "qcow2")
    plan = recipe_of(settings)
    images = settings.cache / "images"
    target = images / plan.key()
    if target.is_dir():
        return opened(target)
    run.need_programs({"mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs"})
    try:
        images.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"cannot make the image cache {images}: {error.strerror}. Set XDG_CACHE_HOME.") from error
    with _lock(images / ".lock"):
        _clear(images)
        if target.is_dir():
            return opened(target)
        need_space(images, BUILD_MEGABYTES, "building an image")
        work = images / f".build-{plan.key()}"
        work.mkdir()
        try:
            _build(plan, work)
            _publish(work, target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return opened(target)
