# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cached image is whole or absent."""

from __future__ import annotations

import dataclasses

import pytest

from testbed import image, recipe, settings
from testbed.show import Failure, Interrupted

PLAN = recipe.Recipe("bookworm", (), (), "", "")


@pytest.fixture
def chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(image, "recipe_of", lambda _: PLAN)
    monkeypatch.setattr(image.run, "need_programs", lambda _: None)
    return settings.Settings(directory=tmp_path / "bed", cache=tmp_path / "cache")


def half(error):
    def build(_plan, work):
        (work / "disk.img").write_text("half")
        raise error
    return build


@pytest.mark.parametrize("error", [Failure("the disk is full"), Interrupted("SIGINT")])
def test_a_build_that_ends_early_leaves_nothing(chosen, monkeypatch, error):
    monkeypatch.setattr(image, "_build", half(error))
    with pytest.raises(type(error)):
        image.obtain(chosen)
    assert [path.name for path in (chosen.cache / "images").iterdir()] == [".lock"]


def test_a_finished_build_is_published_once_and_clears_what_a_killed_one_left(chosen, monkeypatch):
    killed = chosen.cache / "images" / ".build-old"
    killed.mkdir(parents=True)
    built = []

    def build(_plan, work):
        built.append(work)
        (work / "tmp").mkdir()
        for name in ("disk.img", "vmlinuz", "initrd.img", "root.tar", "overlay.tar"):
            (work / name).write_text(name)

    monkeypatch.setattr(image, "_build", build)
    first, second = image.obtain(chosen), image.obtain(chosen)
    assert first == second and len(built) == 1 and not killed.exists()
    assert sorted(path.name for path in first.disk.parent.iterdir()) == ["disk.img", "initrd.img", "vmlinuz"]


def test_too_little_space_is_refused_before_anything_is_written(chosen, monkeypatch):
    monkeypatch.setattr(image, "BUILD_MEGABYTES", 10**9)
    with pytest.raises(Failure, match="MB free"):
        image.obtain(chosen)
    assert not list((chosen.cache / "images").glob("*build*"))


def test_somebodys_image_is_used_as_it_is(chosen, tmp_path):
    mine = dataclasses.replace(chosen, image=tmp_path / "mine.qcow2")
    assert image.obtain(mine) == image.Image(tmp_path / "mine.qcow2", "qcow2")
