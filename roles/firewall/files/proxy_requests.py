# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""squid asks this program whether the manifest grants an agent a request inside an inspected connection.

    proxy_requests.py FILE      FILE: {AGENT: [entries of egress with name, port and requests]}

One question a line, "NUMBER AGENT HOST PORT METHOD PATH OVERRIDE...", the path as the agent wrote it (squid encodes
spaces and the like, and leaves "%" alone), "-" standing for a header that is not there; the answer is "NUMBER OK" or
"NUMBER ERR" (external_acl_type with concurrency). Anything that is not understood is answered ERR. Ends with its input;
squid starts it anew with each configuration.
"""
import json
import os
import sys
from typing import Any, Dict, List

# Beside this file is the package in which the role installs what the collection and the host share.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from cordon import _egress, _egress_requests


def answer(line: str, agents: Dict[str, List[Dict[str, Any]]]) -> str:
    """The answer to one question."""
    number, *words = line.rstrip("\n").split(" ")
    try:
        return f"{number} OK" if _granted(agents, *words) else f"{number} ERR"
    except (TypeError, ValueError):
        return f"{number} ERR"


def _granted(agents: Dict[str, List[Dict[str, Any]]], agent: str, host: str, port: str, method: str, path: str,
             *overrides: str) -> bool:
    entry = _egress.entry_for(agents.get(agent, []), host, int(port))
    overridden = any(word != "-" for word in overrides[:len(_egress_requests.OVERRIDES)])
    return entry is not None and _egress_requests.granted(entry, method, path, overridden)


def main(path: str) -> None:
    """Answer until squid closes the pipe."""
    with open(path, encoding="utf-8") as stream:
        agents = json.load(stream)
    for line in sys.stdin:
        sys.stdout.write(answer(line, agents) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
