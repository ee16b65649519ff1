# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests are built from the archive that the machine itself uses."""

from __future__ import annotations

import pytest

from testbed import mirror
from testbed.show import Failure

TARGETS = """\
Debian|Debian-Security|main|Packages|http://mirror.example/debian-security
Other|Other|main|Packages|http://other.example/apt
Debian|Debian|contrib|Packages|http://contrib.example/debian
Debian|Debian|main|Translation-en|http://translation.example/debian
Debian|Debian|main|Packages|http://mirror.example/debian
"""


def test_the_machines_own_archive_is_found_among_others():
    assert mirror.parse_targets(TARGETS) == mirror.Mirror(
        "http://mirror.example/debian", "http://mirror.example/debian-security"
    )


@pytest.mark.parametrize("text", ["", "|||\n", "Ubuntu|Ubuntu|main|Packages|http://u.example/ubuntu\n"])
def test_no_debian_archive_is_a_failure_that_names_the_variable(text):
    with pytest.raises(Failure, match="TESTBED_MIRROR"):
        mirror.parse_targets(text)


def test_the_variable_wins_and_loses_its_trailing_slash():
    assert mirror.discover("http://m.example/debian/", "") == mirror.Mirror("http://m.example/debian", "")


def test_sources_of_a_guest():
    lines = mirror.source_lines(mirror.Mirror("http://m.example/d", "http://m.example/s"), "trixie")
    assert lines == [
        "deb http://m.example/d trixie main",
        "deb http://m.example/d trixie-updates main",
        "deb http://m.example/s trixie-security main",
    ]
    assert len(mirror.source_lines(mirror.Mirror("http://m.example/d", ""), "trixie")) == 2
