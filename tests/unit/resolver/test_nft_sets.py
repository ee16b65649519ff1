# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is put into the packet filter, and what is done when it cannot be."""

from __future__ import annotations

import struct

import pytest
from cordon_firewall import table_watch
from cordon_firewall.nft_sets import SetError, Sets

from .conftest import Filter

SSH, SIX = ("203.0.113.9", "tcp", 22), ("2001:db8::9", "udp", 443)


def test_an_element_stands_with_its_time(packets: Filter) -> None:
    Sets(packets).place("autopilot", {SSH: 1120.0, SIX: 1060.5}, 1000.0)
    assert packets.sets == {
        "named4_autopilot": {"203.0.113.9 . tcp . 22": 120},
        "named6_autopilot": {"2001:db8::9 . udp . 443": 61},
    }
    assert len(packets.calls) == 1


def test_its_time_is_prolonged_and_never_shortened(packets: Filter) -> None:
    sets = Sets(packets)
    sets.place("autopilot", {SSH: 1120.0}, 1000.0)
    sets.place("autopilot", {SSH: 1100.0}, 1010.0)
    assert len(packets.calls) == 1
    sets.place("autopilot", {SSH: 1400.0}, 1100.0)
    assert packets.sets["named4_autopilot"] == {"203.0.113.9 . tcp . 22": 300}


def test_one_that_another_process_left_is_prolonged_too(packets: Filter) -> None:
    packets.sets["named4_autopilot"]["203.0.113.9 . tcp . 22"] = 1
    Sets(packets).place("autopilot", {SSH: 1120.0}, 1000.0)
    assert packets.sets["named4_autopilot"] == {"203.0.113.9 . tcp . 22": 120}


def test_a_missing_set_is_an_error_that_says_what_to_do() -> None:
    packets = Filter("named4_autopilot")
    with pytest.raises(SetError, match=r"named6_autopilot.*systemctl reload cordon-firewall"):
        Sets(packets).place("autopilot", {SSH: 1120.0, SIX: 1120.0}, 1000.0)
    assert packets.sets == {"named4_autopilot": {}}, "all or nothing"


def test_after_an_error_nothing_counts_as_placed(packets: Filter) -> None:
    sets = Sets(packets)
    sets.place("autopilot", {SSH: 1120.0}, 1000.0)
    held, packets.sets = packets.sets, {}
    with pytest.raises(SetError):
        sets.place("autopilot", {SIX: 1120.0}, 1000.0)
    packets.sets = held
    packets.sets["named4_autopilot"].clear()
    sets.place("autopilot", {SSH: 1120.0}, 1000.0)
    assert packets.sets["named4_autopilot"]


def test_one_failure_is_tried_again(packets: Filter) -> None:
    """An element may run out between two commands of a transaction."""
    problems = ["Error: Could not process rule: No such file or directory", None]
    sets = Sets(lambda commands: problems.pop(0))
    sets.place("autopilot", {SSH: 1120.0}, 1000.0)
    assert problems == []


def test_replace_leaves_nothing_else(packets: Filter) -> None:
    packets.sets["named6_autopilot"]["2001:db8::66 . tcp . 22"] = 1000
    sets = Sets(packets)
    sets.place("autopilot", {SIX: 1120.0}, 1000.0)
    sets.replace("autopilot", {SSH: 1120.0}, 1060.0)
    assert packets.sets == {"named4_autopilot": {"203.0.113.9 . tcp . 22": 60}, "named6_autopilot": {}}
    sets.place("autopilot", {SIX: 1120.0}, 1060.0)
    assert packets.sets["named6_autopilot"]


def test_what_ran_out_is_placed_anew(packets: Filter) -> None:
    sets = Sets(packets)
    sets.place("autopilot", {SSH: 1120.0}, 1000.0)
    sets.forget_old(1121.0)
    packets.sets["named4_autopilot"].clear()
    sets.place("autopilot", {SSH: 1240.0}, 1121.0)
    assert packets.sets["named4_autopilot"] == {"203.0.113.9 . tcp . 22": 119}


def frame(kind: int, body: bytes = b"") -> bytes:
    length = 16 + len(body)
    return struct.pack("=IHHII", length, kind, 0, 1, 1) + body + b"\0" * (-length % 4)


def test_the_kernels_words_about_tables_are_understood() -> None:
    new_table, del_table, new_element, generation = 0xA00, 0xA02, 0xA0C, 0xA0F
    assert table_watch.tables(frame(new_table, b"abc"))
    assert table_watch.tables(frame(new_element, b"abcde") + frame(del_table) + frame(generation))
    assert not table_watch.tables(frame(new_element, b"x") + frame(generation))
    assert not table_watch.tables(b"")
    assert not table_watch.tables(b"\0" * 64)
