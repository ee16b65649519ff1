# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions and answers on the wire, by dnspython."""

from __future__ import annotations

import struct
from typing import Iterable, NamedTuple, Optional, Sequence, Union

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from .policy import TYPES

# A question is a header, a name (255 at most), and an EDNS record with a cookie or so. Parsing more is work for nothing.
LONGEST_QUESTION = 512
PAYLOAD = 1232  # what reaches everybody in one packet (DNS flag day 2020)
PLAIN = 512  # without EDNS, RFC 1035 2.3.4
STREAM = 65535


class Request(NamedTuple):
    """A question that can be answered. The message itself is needed for its spelling and its id only."""

    message: dns.message.Message

    @property
    def labels(self) -> Sequence[bytes]:
        """The name's labels without the root's."""
        return self.message.question[0].name.labels[:-1]

    @property
    def kind(self) -> int:
        """The type that is asked for, as its number."""
        return int(self.message.question[0].rdtype)

    @property
    def kind_text(self) -> str:
        """The same for people: "A", "TYPE1234"."""
        return dns.rdatatype.to_text(self.message.question[0].rdtype)

    @property
    def internet(self) -> int:
        """The class as its number."""
        return int(self.message.question[0].rdclass)

    @property
    def name(self) -> str:
        """The name for people, escaped where it has to be."""
        return self.message.question[0].name.to_text(omit_final_dot=True)

    def room(self) -> int:
        """How many octets of an answer the asker takes in one datagram."""
        return min(PAYLOAD, max(PLAIN, self.message.payload)) if self.message.edns >= 0 else PLAIN


def read(wire: bytes) -> Union[Request, bytes, None]:
    """A request; or the answer to what is none; or None for what must not be answered (RFC 1035, 7.3: a response)."""
    if len(wire) < 12 or wire[2] & 0x80:
        return None
    if wire[2] >> 3 & 15:
        return _bare(wire, dns.rcode.NOTIMP)
    if len(wire) > LONGEST_QUESTION:
        return _bare(wire, dns.rcode.FORMERR)
    try:
        message = dns.message.from_wire(wire)
    # Hostile octets: whatever they raise in the parser, they are no question.
    except Exception:
        return _bare(wire, dns.rcode.FORMERR)
    if len(message.question) != 1 or message.answer or message.authority:
        return _bare(wire, dns.rcode.FORMERR)
    request = Request(message)
    return write(request, dns.rcode.BADVERS) if message.edns > 0 else request


def _bare(wire: bytes, rcode: int) -> bytes:
    """A header and nothing else: what could not be read is not repeated."""
    return struct.pack("!2sHHHHH", wire[:2], 0x8000 | (wire[2] & 0x79) << 8 | rcode, 0, 0, 0, 0)


def write(request: Request, rcode: int, addresses: Iterable[str] = (), ttl: int = 0, room: Optional[int] = None) -> bytes:
    """The answer under the name and in the spelling that was asked; aliases of the upstream are not told.

    Where it does not fit, it is empty and marked: the asker comes again by TCP.
    """
    response = dns.message.make_response(request.message, recursion_available=True, our_payload=PAYLOAD)
    if request.message.edns >= 0:
        response.use_edns(0, 0, PAYLOAD)  # none of the asker's options comes back
    response.set_rcode(dns.rcode.Rcode(rcode))
    listed = list(addresses)
    if listed:
        question = request.message.question[0]
        response.answer.append(dns.rrset.from_text(question.name, ttl, "IN", TYPES[request.kind], *listed))
    try:
        return response.to_wire(max_size=request.room() if room is None else room)
    except dns.exception.TooBig:
        response.answer.clear()
        response.flags |= dns.flags.TC
        return response.to_wire()
