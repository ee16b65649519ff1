# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions and answers on the wire."""

from __future__ import annotations

from typing import Optional

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import dns.update
import pytest
from cordon_firewall import message
from cordon_firewall.message import Request
from hypothesis import given
from hypothesis import strategies as st


def asked(name: str = "git.example.org", kind: str = "A", **more: object) -> dns.message.Message:
    return dns.message.make_query(name, kind, **more)  # type: ignore[arg-type]


def request(query: dns.message.Message) -> Request:
    found = message.read(query.to_wire())
    assert isinstance(found, Request)
    return found


def rcode(wire: object) -> int:
    assert isinstance(wire, bytes)
    return int(dns.message.from_wire(wire).rcode())


def test_a_question_is_read() -> None:
    found = request(asked("GIT.example.org", "TXT"))
    assert (list(found.labels), found.kind, found.kind_text) == ([b"GIT", b"example", b"org"], 16, "TXT")


def test_the_answer_has_the_askers_spelling_and_id_and_the_address() -> None:
    query = asked("GiT.example.org")
    answer = dns.message.from_wire(message.write(request(query), dns.rcode.NOERROR, ["203.0.113.9"], 42))
    assert query.is_response(answer)
    assert answer.question[0].name.to_text() == "GiT.example.org."
    assert answer.answer == [dns.rrset.from_text("git.example.org.", 42, "IN", "A", "203.0.113.9")]
    assert answer.answer[0].ttl == 42
    assert answer.flags & dns.flags.RA


def test_no_option_of_the_asker_comes_back() -> None:
    cookie, own = dns.edns.GenericOption(10, b"12345678"), dns.edns.GenericOption(65001, b"x")
    options = [dns.edns.ECSOption("198.51.100.0", 24), cookie, own]
    query = asked(use_edns=0, payload=4096, options=options)
    answer = dns.message.from_wire(message.write(request(query), dns.rcode.NOERROR, ["203.0.113.9"], 1))
    assert (answer.edns, answer.payload, answer.options) == (0, message.PAYLOAD, ())
    assert dns.message.from_wire(message.write(request(asked()), 0)).edns == -1


@pytest.mark.parametrize(("payload", "room"), [(None, 512), (0, 512), (1000, 1000), (4096, 1232), (65535, 1232)])
def test_what_does_not_fit_is_marked_and_empty(payload: Optional[int], room: int) -> None:
    query = asked("a.example.net", "AAAA") if payload is None else asked("a.example.net", "AAAA", use_edns=0, payload=payload)
    found = request(query)
    many = [f"2001:db8::{number:x}" for number in range(1, 60)]
    wire = message.write(found, dns.rcode.NOERROR, many, 1)
    answer = dns.message.from_wire(wire)
    assert (found.room(), len(answer.answer), bool(answer.flags & dns.flags.TC)) == (room, 0, True)
    assert len(wire) <= room
    whole = dns.message.from_wire(message.write(found, dns.rcode.NOERROR, many, 1, message.STREAM))
    assert len(whole.answer[0]) == 59


def test_what_is_no_question_gets_a_header_or_nothing() -> None:
    query = asked()
    response = dns.message.make_response(query).to_wire()
    assert message.read(response) is None
    assert message.read(b"") is None
    assert message.read(b"\0" * 11) is None
    assert rcode(message.read(query.to_wire() + b"\0" * 600)) == dns.rcode.FORMERR
    assert rcode(message.read(query.to_wire()[:-1])) == dns.rcode.FORMERR
    assert rcode(message.read(dns.message.Message(5).to_wire())) == dns.rcode.FORMERR
    two = asked()
    two.question.append(asked("b.example.org").question[0])
    assert rcode(message.read(two.to_wire())) == dns.rcode.FORMERR
    newer = asked()
    newer.use_edns(1, 0x10000)  # dnspython 2.1 takes the version from the flags only
    assert rcode(message.read(newer.to_wire())) == dns.rcode.BADVERS
    notify = asked()
    notify.set_opcode(4)
    assert message.read(notify.to_wire())[3] & 15 == dns.rcode.NOTIMP  # type: ignore[index]
    update = dns.update.UpdateMessage("example.org")
    assert message.read(update.to_wire())[3] & 15 == dns.rcode.NOTIMP  # type: ignore[index]


@given(st.binary(max_size=700))
def test_any_octets_are_read_without_an_error(wire: bytes) -> None:
    found = message.read(wire)
    if isinstance(found, Request):
        assert message.write(found, dns.rcode.REFUSED)[:2] == wire[:2]
    elif found is not None:
        assert found[:2] == wire[:2]
        assert len(found) <= 12 or rcode(found) == dns.rcode.BADVERS


@given(st.data())
def test_a_damaged_question_is_read_without_an_error(data: st.DataObject) -> None:
    wire = bytearray(asked(use_edns=0, options=[dns.edns.GenericOption(10, b"12345678")]).to_wire())
    for _ in range(data.draw(st.integers(1, 6))):
        wire[data.draw(st.integers(2, len(wire) - 1))] = data.draw(st.integers(0, 255))
    wire[2] &= 0x7F
    found = message.read(bytes(wire))
    answer = message.write(found, dns.rcode.REFUSED) if isinstance(found, Request) else found
    assert answer is not None
    assert answer[:2] == wire[:2]
