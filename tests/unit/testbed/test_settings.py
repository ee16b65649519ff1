# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Variables become settings, and every mistake is told at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed import settings
from testbed.show import Failure


def test_defaults(tmp_path):
    chosen = settings.read({"HOME": str(tmp_path)})
    assert (chosen.guests, chosen.suite, chosen.packages, chosen.accelerator) == (1, "bookworm", "full", "auto")
    assert chosen.directory == Path("build/testbed").resolve()
    assert chosen.cache == tmp_path / ".cache" / "cordon-testbed"


def test_the_cache_follows_xdg(tmp_path):
    assert settings.read({"XDG_CACHE_HOME": str(tmp_path)}).cache == tmp_path / "cordon-testbed"


def test_all_mistakes_come_in_one_message():
    with pytest.raises(Failure) as failure:
        settings.read({"VMS": "0", "SUITE": "sid", "TESTBED_MEMORY": "2G", "TESTBED_IMAGE": "/nowhere.qcow2"})
    message = str(failure.value)
    for part in ("VMS=0", "SUITE=sid", "bookworm, trixie", "TESTBED_MEMORY=2G", "/nowhere.qcow2"):
        assert part in message


@pytest.mark.parametrize("vms", ["17", "-1", "1.5", "two", "²"])
def test_a_number_of_guests_is_a_small_whole_number(vms):
    with pytest.raises(Failure, match="VMS="):
        settings.read({"VMS": vms})


@pytest.mark.parametrize("directory", ["with space", "a,b", "a'b"])
def test_a_directory_that_qemu_or_ssh_would_misread_is_refused(directory):
    with pytest.raises(Failure, match="TESTBED_DIR"):
        settings.read({"TESTBED_DIR": directory})
