# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host on which an agent has burnt in as it should; each test spoils one thing of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils._apparmor_unenforced import REQUIRED
from ansible_collections.cordon.agent_host.plugins.module_utils._burn_in_seen import DAY, Seen, day
from ansible_collections.cordon.agent_host.plugins.module_utils._manifest import resolve
from ansible_collections.cordon.agent_host.plugins.plugin_utils._catalogue import known_tools

NOW = 1_795_000_000.0
PROFILES = {"cordon.scribe": "enforce", "cordon.scribe.main": "complain", "cordon.scribe.git": "complain"}


def stamp(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(at))


@dataclass
class Host:
    """What the gate is given; spoil() parts of it by assigning."""

    agent: dict[str, Any]
    collected: Any = None
    record: Any = None
    writer: Any = None
    applied: Any = None
    facts: Any = None
    rendered: Any = field(default_factory=lambda: {name: "text-" + name for name in PROFILES})
    replay: Any = None
    now: float = NOW

    def seen(self) -> Seen:
        return Seen(self.collected, self.record, self.writer, self.applied, self.facts, self.now)


@pytest.fixture
def manifest() -> list[dict[str, Any]]:
    return resolve(
        [
            {"name": "scribe", "command": ["/usr/bin/sleep", "infinity"], "tools": ["git"]},
            {"name": "scout", "command": ["/usr/bin/sleep", "infinity"], "mode": "enforce"},
        ],
        known_tools(),
    )


@pytest.fixture
def host(manifest: list[dict[str, Any]]) -> Host:
    """Fifteen days of burn-in, all well."""
    return well(manifest[0])


def well(agent: dict[str, Any], now: float = NOW) -> Host:
    start = now - 15 * DAY
    found = Host(agent, now=now)
    found.collected = {
        "agent": agent["name"], "collecting_since": start - DAY, "boot": "b", "audit_lost": 2, "lost": [],
        "days": [day(now - number * DAY) for number in (12, 2, 1)], "execs": 900, "last_exec": now - 60,
        "acts": [_act("denied", now - 2 * DAY, 3), _act("allowed", start - 10, 1)],
    }
    found.record = {"enforced": True, "profiles": {
        name: {"mode": mode, "hash": "hash-" + name, "source_sha256": "text-" + name, "since": start}
        for name, mode in PROFILES.items()}}
    found.writer = {"collected_until": stamp(now), "audit_enabled": True, "audit_daemon": True}
    found.applied = dict(agent)
    found.facts = {
        "support": {"apparmor": True}, "audit": {"lost": 2},
        "apparmor": {
            "features": [path for path, _what in REQUIRED],
            "unenforced": [{"class": "userns", "why": "", "control": "RestrictNamespaces=", "remains": ""}],
            "profiles": {name: {"mode": mode, "hash": "hash-" + name} for name, mode in PROFILES.items()},
        },
        "agents": {agent["name"]: {
            "processes": [{"pid": 7}], "misplaced": [], "weakened": [], "firewall": {"bound": True}}},
    }
    found.replay = [{"argv": ["git", "--version"], "exit": 0, "seconds": 1.5, "acts": [], "said": "git version 2"}]
    return found


def _act(verdict: str, last: float, count: int) -> dict[str, Any]:
    return {"verdict": verdict, "class": "file", "profile": "cordon.scribe.main", "operation": "open", "path": "/etc/fstab",
            "access": "r", "family": None, "sock_type": None, "protocol": None, "detail": None, "program": "/usr/bin/cat",
            "count": count, "first": last, "last": last}


@pytest.fixture
def act():
    """act(VERDICT, LAST, COUNT): a collected act."""
    return _act
