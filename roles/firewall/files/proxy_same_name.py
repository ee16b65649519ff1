# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""squid asks this program whether two names are the same: that of the request, and that of the TLS handshake.

One question a line, "NUMBER NAME SNI -", "-" standing for no name; the answer is "NUMBER OK" or "NUMBER ERR"
(external_acl_type with concurrency). Anything that is not understood is answered ERR. Ends with its input.
"""
import sys


def answer(line: str) -> str:
    """The answer to one question."""
    number, _space, question = line.strip().partition(" ")
    words = question.split(" ")
    return f"{number} OK" if len(words) >= 2 and same(words[0], words[1]) else f"{number} ERR"


def same(name: str, sni: str) -> bool:
    """Case and a dot at the end do not count (RFC 4343, RFC 6066 section 3)."""
    return plain(name) == plain(sni) and plain(sni) not in ("", "-")


def plain(name: str) -> str:
    """As the manifest writes names."""
    return name.lower()[:-1] if name.endswith(".") else name.lower()


def main() -> None:
    """Answer until squid closes the pipe."""
    for line in sys.stdin:
        sys.stdout.write(answer(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
