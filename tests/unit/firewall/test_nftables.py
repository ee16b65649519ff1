# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the module reads nft's answers, with answers recorded from nft 1.0.6 and util-linux 2.38."""
from __future__ import annotations

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils import _nftables as nftables

NO_TABLE = "Error: No such file or directory\nlist table inet cordon\n                ^^^^^^\n"
NOT_ROOT = """\
Operation not permitted (you must be root)
netlink: Error: cache initialization failed: Operation not permitted
"""
NO_NAMESPACE = "unshare: unshare failed: Operation not permitted\n"
SYNTAX = "/dev/stdin:4:15-15: Error: syntax error, unexpected '}'\nchain x { foo }}\n              ^\n"


class Answers:
    """Plays recorded answers, in order, and keeps what was asked."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def __call__(self, argv, data):
        self.asked.append((argv, data))
        return self.answers.pop(0)


def test_an_absent_table_is_no_error():
    assert nftables.listing(Answers((1, "", NO_TABLE)), "nft") is None


def test_a_kernel_that_cannot_be_read_is_an_error_that_says_so():
    with pytest.raises(nftables.NftablesError, match=r"cannot read table inet cordon.*you must be root"):
        nftables.listing(Answers((1, "", NOT_ROOT)), "nft")


def test_without_a_namespace_nft_still_judges_the_text():
    run = Answers((1, "", NO_NAMESPACE), (0, "", ""))
    assert nftables.canonical(run, "nft", "text") is None
    assert run.asked[1] == (("nft", "--check", "--file", "-"), "text")


@pytest.mark.parametrize("answers", [[(0, "", ""), (1, "", SYNTAX)], [(1, "", NO_NAMESPACE), (1, "", SYNTAX)]])
def test_nft_s_objection_is_passed_on(answers):
    with pytest.raises(nftables.NftablesError, match="unexpected '}'"):
        nftables.canonical(Answers(*answers), "nft", "text")


def test_a_table_that_vanishes_after_the_load_is_an_error():
    with pytest.raises(nftables.NftablesError, match="another program flushes"):
        nftables.load(Answers((0, "", ""), (1, "", NO_TABLE)), "nft", "text")


def test_the_file_names_our_table_only_and_defines_the_users():
    text = nftables.source("\tchain x {\n\t}\n", {"uid_b": ("999", "agent-b"), "uid_a": ("998", "agent-a")})
    assert text == (
        "table inet cordon {}\ndelete table inet cordon\n"
        "define uid_a = 998  # agent-a\ndefine uid_b = 999  # agent-b\n"
        "table inet cordon {\n\tchain x {\n\t}\n}\n"
    )


@pytest.mark.parametrize("body", ["}\nflush ruleset\ntable inet cordon {\n", "chain x {", "}", 'log prefix "}" }\n{'])
def test_a_body_that_leaves_our_table_is_refused(body):
    with pytest.raises(nftables.NftablesError, match="braces"):
        nftables.source(body, {})


def test_braces_in_strings_and_comments_do_not_count():
    nftables.source('chain x { log prefix "}} " # }\n }\n', {})


LISTED = """\
table inet cordon {
\tset metadata4 {
\t\ttype ipv4_addr
\t\tflags interval
\t\telements = { 168.63.129.16, 169.254.0.0/16 }
\t}

\tset named4_a {
\t\ttype ipv4_addr . inet_proto . inet_service
\t\tsize 65535
\t\tflags timeout
%s\t}

\tcounter denied_a {
\t}

\tchain egress_a {
\t\tip daddr . meta l4proto . th dport @named4_a accept
\t\tlog prefix "elements = { } " flags skuid
\t}
}
"""
ELEMENTS = """\
\t\telements = { 192.0.2.1 . tcp . 22 timeout 1m expires 58s,
\t\t\t     192.0.2.2 . tcp . 22 timeout 1m comment "}" }
"""


def test_what_the_resolver_adds_is_no_difference_and_all_else_is():
    assert nftables.comparable(LISTED % ELEMENTS) == nftables.comparable(LISTED % "") == LISTED % ""
    for changed in (("65535", "65536"), ("169.254.0.0/16", "169.254.0.0/17"), ("@named4_a accept", "accept")):
        assert nftables.comparable((LISTED % ELEMENTS).replace(*changed)) != LISTED % ""
    assert nftables.comparable((LISTED % ELEMENTS).replace("flags timeout", "flags dynamic,timeout")) == (
        LISTED % "").replace("flags timeout", "flags dynamic,timeout")


@pytest.mark.parametrize(("running", "text", "record", "expected"), [
    ("rules", "text", ("text", "rules"), True),
    (None, "text", ("text", "rules"), False),
    ("rules changed by hand", "text", ("text", "rules"), False),
    ("rules", "another text", ("text", "rules"), False),
    ("rules", "text", None, False),
])
def test_the_kernel_stands_only_as_the_last_run_left_it_from_this_text(running, text, record, expected):
    known = record and nftables.Record(*map(nftables.digest, record))
    assert nftables.stands(running, text, known) is expected
