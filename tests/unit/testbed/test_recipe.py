# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An image's key changes when the image would, and only then."""

from __future__ import annotations

import dataclasses
import os

import pytest

from ansible_collections.cordon.agent_host.plugins.plugin_utils._catalogue import load_catalogue
from testbed import overlay, recipe, settings

PLAN = recipe.Recipe("bookworm", ("deb http://m.example/d bookworm main",), ("systemd",), "abc", "mke2fs")


@pytest.mark.parametrize("change", [
    {"suite": "trixie"}, {"sources": ("deb http://n.example/d bookworm main",)}, {"packages": ("systemd", "git")},
    {"overlay": "abd"}, {"script": "mke2fs -q"}, {"disk_gigabytes": 9},
])
def test_another_recipe_is_another_image(change):
    assert dataclasses.replace(PLAN, **change).key() != PLAN.key()


def test_the_same_recipe_is_the_same_image():
    assert dataclasses.replace(PLAN).key() == PLAN.key()
    assert PLAN.key().startswith("bookworm-")


def test_minimal_leaves_out_what_the_roles_install():
    assert set(recipe.packages("full")) - set(recipe.packages("minimal")) == set(recipe.ROLES)
    assert {"auditd", "nftables", "gocryptfs", "apparmor"} <= set(recipe.ROLES)
    assert {"openssh-server", "python3"} <= set(recipe.packages("minimal"))


def test_the_tools_image_has_every_package_of_the_catalogue():
    assert set(recipe.TOOLS) == {package for tool in load_catalogue().values() for package in tool["packages"]}
    assert set(recipe.packages("full")) < set(recipe.packages("tools"))
    assert len(recipe.packages("tools")) == len(set(recipe.packages("tools")))


def test_neighbours_sleep_in_their_image_and_other_images_keep_their_names():
    names = recipe.packages("neighbours")
    assert set(recipe.packages("full")) < set(names)
    with_them = dataclasses.replace(PLAN, packages=names)
    units = recipe.asleep(with_them)
    assert {"docker.service", "docker.socket", "ufw.service", "firewalld.service", "fail2ban.service"} <= set(units)
    (disable,) = [word for word in recipe.mmdebstrap(with_them, "o.tar", "r.tar") if " disable " in word]
    assert set(units) <= set(disable.split())
    assert not recipe.asleep(PLAN)
    assert not any(" disable " in word for word in recipe.mmdebstrap(PLAN, "o.tar", "r.tar"))


@pytest.mark.parametrize("kind", settings.PACKAGE_SETS)
def test_every_set_of_packages_can_be_had(kind):
    assert set(recipe.BASE) <= set(recipe.packages(kind))


def test_suite_target_and_sources_end_the_command():
    argv = recipe.mmdebstrap(PLAN, "o.tar", "r.tar")
    assert argv[-3:] == ["bookworm", "r.tar", "deb http://m.example/d bookworm main"]
    assert "--include=systemd" in argv


def test_the_overlay_is_the_same_bytes_whatever_owner_and_time(tmp_path):
    packed = []
    for name, mode, when in (("one", 0o600, 1), ("two", 0o664, 2)):
        path = tmp_path / name / "etc" / "hosts"
        path.parent.mkdir(parents=True)
        path.write_text("localhost\n")
        path.chmod(mode)
        os.utime(path, (when, when))
        packed.append(overlay.pack(tmp_path / name))
    assert packed[0] == packed[1]
    path.write_text("other\n")
    assert overlay.pack(tmp_path / "two") != packed[0]
