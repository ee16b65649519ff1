# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the resolver's package importable, and give tests a client and a packet filter that is a list."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(REPOSITORY / "roles" / "firewall" / "files"))

from cordon_firewall import settings
from cordon_firewall.settings import Client

DATA: Dict[str, Any] = {
    "servers": ["192.0.2.53"],
    "clients": [
        {
            "name": "autopilot",
            "address": "127.99.3.7",
            "set": "autopilot",
            "names": [
                {"name": "git.example.org", "ports": [["tcp", 22]], "networks": []},
                {"name": "*.example.net", "ports": [["tcp", 5432], ["udp", 443]], "networks": []},
                {"name": "db.example.net", "ports": [["tcp", 5432]], "networks": ["10.20.0.0/24"]},
            ],
        }
    ],
}


class Filter:
    """Does as libnftables: all commands or none. Holds {set: {element: seconds}} of the sets that it was given."""

    def __init__(self, *names: str) -> None:
        self.sets: Dict[str, Dict[str, int]] = {name: {} for name in names}
        self.calls: List[str] = []

    def __call__(self, commands: str) -> Optional[str]:
        self.calls.append(commands)
        after = {name: dict(elements) for name, elements in self.sets.items()}
        try:
            for line in commands.splitlines():
                self._apply(after, line)
        except KeyError as error:
            return f"Error: No such file or directory: {error}"
        self.sets = after
        return None

    @staticmethod
    def _apply(sets: Dict[str, Dict[str, int]], line: str) -> None:
        match = re.fullmatch(r"(add element|delete element|flush set) inet cordon (\S+)(?: { (.*?)(?: timeout (\d+)s)? })?", line)
        assert match, line
        verb, name, key, seconds = match.groups()
        held = sets[name]
        if verb == "flush set":
            held.clear()
        elif verb == "delete element":
            del held[key]
        else:
            held.setdefault(key, int(seconds))  # a kernel before 6.12


@pytest.fixture
def client() -> Client:
    """autopilot."""
    return settings.parse(DATA).clients[0]


@pytest.fixture
def packets() -> Filter:
    """A packet filter with autopilot's sets."""
    return Filter("named4_autopilot", "named6_autopilot")
