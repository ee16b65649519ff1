# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings and the agents, read from the host's own records."""

from __future__ import annotations

import json
import pwd
from pathlib import Path
from typing import Any, Mapping, NamedTuple

from cordon import _egress

SETTINGS = Path("/etc/cordon/monitoring.json")
MANIFEST = Path("/etc/cordon/manifest.json")


class Settings(NamedTuple):
    """What the role monitoring wrote to /etc/cordon/monitoring.json (0600: an address may hold a token)."""

    host: str
    webhook_url: str | None  # None: the operator said `none`
    heartbeat_url: str | None
    alert_window: int  # seconds within which the same alert is not sent again
    audit_required: bool  # False where the operator accepted a host without audit
    sensitive_paths: list[str]  # shell patterns; `*` spans directories
    api_failures: int = 3  # calls of a critical API that fail within critical_api.WINDOW before somebody is woken


def settings(path: Path = SETTINGS) -> Settings:
    """Read the settings; unknown keys are an error, because they would be silently without effect."""
    return Settings(**json.loads(path.read_text()))


class Agents(NamedTuple):
    """Who is an agent: by uid (audit records) and by name (kernel log lines), and which of them are in burn-in."""

    by_uid: dict[int, str]
    names: frozenset[str]
    burning: frozenset[str] = frozenset()
    by_address: Mapping[str, str] = {}  # the address on which the proxy serves an agent -> its name
    named: Mapping[str, list[dict[str, Any]]] = {}  # egress by name, of the agents that have a line with `log: false`
    critical: Mapping[str, list[str]] = {}  # critical_apis, of each agent
    secrets: Mapping[str, Mapping[str, list[str]]] = {}  # of each agent, its secrets and the only tools that may read them

    def wants(self, event: Mapping[str, Any]) -> bool:
        """Whether an allowed call or question is to be logged, by the line of the manifest that allowed it."""
        entries = self.named.get(event["agent"] or "", []) if event["outcome"] == "allowed" else []
        entry = _egress.entry_for(entries, event.get("name") or "", event.get("port"))
        return entry is None or bool(entry["log"])


def agents(path: Path = MANIFEST) -> Agents:
    """Read the manifest's agents; one whose user does not exist yet has no uid and is known by name only."""
    listed: list[dict[str, Any]] = json.loads(path.read_text())["agents"]
    by_uid = {}
    for agent in listed:
        try:
            by_uid[pwd.getpwnam(agent["user"]).pw_uid] = agent["name"]
        except KeyError:
            continue
    # The role agent writes the mode that holds on this host, promotions included.
    burning = frozenset(agent["name"] for agent in listed if agent.get("mode") == "burn_in")
    named = {agent["name"]: [entry for entry in agent.get("egress", []) if "name" in entry] for agent in listed}
    quiet = {name: entries for name, entries in named.items() if not all(entry["log"] for entry in entries)}
    by_address = {address: name for name, address in _egress.addresses(listed).items()}
    critical = {agent["name"]: agent.get("critical_apis", []) for agent in listed}
    secrets = {agent["name"]: {one["name"]: one["tools"] for one in agent.get("secrets", [])} for agent in listed}
    return Agents(by_uid, frozenset(named), burning, by_address, quiet, critical, secrets)


class LiveAgents:
    """The agents, read again when the manifest changes, so that a new agent needs no restart."""

    def __init__(self, path: Path = MANIFEST) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._agents = Agents({}, frozenset())

    def current(self) -> Agents:
        """The agents now; the last known ones while the manifest is missing or being replaced."""
        try:
            stat = self._path.stat()
            if (stat.st_ino, stat.st_mtime_ns) != self._seen:
                self._agents = agents(self._path)
                # An agent without a user yet: look again next time.
                complete = len(self._agents.by_uid) == len(self._agents.names)
                self._seen = (stat.st_ino, stat.st_mtime_ns) if complete else None
        except (OSError, ValueError, KeyError):
            self._seen = None
        return self._agents
