# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel is asked about an address, and what its answer means. With addresses: tests/integration/firewall."""

from __future__ import annotations

import struct

import pytest
from cordon_firewall import routes


@pytest.mark.parametrize(("address", "family", "bits"), [("203.0.113.9", 2, 32), ("2001:db8::1", 10, 128)])
def test_the_question_is_about_the_whole_address(address: str, family: int, bits: int) -> None:
    asked = routes.question(address)
    length, kind, flags = struct.unpack_from("=IHH", asked)
    assert (length, kind, flags) == (len(asked), 26, 1)
    assert struct.unpack_from("=BB", asked, 16) == (family, bits)
    assert struct.unpack_from("=HH", asked, 28) == (4 + bits // 8, 1)


@pytest.mark.parametrize(("kind", "own"), [(1, False), (2, True), (3, True), (4, True), (5, False), (6, False), (7, False)])
def test_the_type_of_the_route_decides(kind: int, own: bool) -> None:
    answer = struct.pack("=IHHII", 28, 24, 0, 1, 0) + struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 0, 0, kind, 0)
    assert routes.its_own(answer) is own


def test_no_route_is_no_address_of_ours() -> None:
    assert not routes.its_own(struct.pack("=IHHIIi", 36, 2, 0, 1, 0, -101) + bytes(16))


def test_the_kernel_itself() -> None:
    assert routes.leads_back("127.0.0.1")
    assert routes.leads_back("127.200.3.4")
