# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The facts: what the kernel and the system say about this host and its agents, right now.

Not what our configuration files say: an edited file that was never loaded, or a loaded policy
whose file is gone, must show. The few records in /etc/cordon (what we loaded, and its hash) appear
only under `expected`, for the checks to compare with.

collect() returns
    schema            1
    collected_at      "2026-11-23T04:30:00Z"
    support           {apparmor, audit: bool|null}   what this kernel offers at all
                      {webhook, heartbeat: true|"declined"|null}   whether anybody is to be told
    allow_unenforced  [str]    what the operator accepted to live without
    unreadable        {what: why}  every file and command that could not be read
    expected          {apparmor: {profile: {mode, hash}}|null, firewall: str|null}
    os, kernel, swap, sysctl, memory   see _facts_host.py
    files             {records, code, logs: [metadata]}         see _facts_host.py
    apparmor          see _facts_apparmor.py
    audit             see _facts_audit.py
    firewall          see _facts_firewall.py
    services          {unit: {state, enabled, result}}  the host's own units, in systemd's words
    monitoring        see _facts_monitoring.py
    strays            [{user, processes}]  users agent-* that no manifest names
    agents            {NAME: facts of one agent, see _facts_agent.py}

A value that could not be read is null. Checks treat null as a failure, so forgetting to handle one
costs a false alarm and never a false assurance.
"""

from __future__ import annotations

import time
from typing import Any, Dict, List, Mapping, Optional, Sequence

from . import (
    _facts_agent,
    _facts_apparmor,
    _facts_audit,
    _facts_firewall,
    _facts_host,
    _facts_monitoring,
    _facts_processes,
    _facts_promotion,
    _facts_units,
    _facts_users,
)
from ._facts_source import Run, Source
from ._promotions import effective

SCHEMA = 1
MANIFEST = "/etc/cordon/manifest.json"


def collect(run: Run, agents: Optional[Sequence[Mapping[str, Any]]] = None, agent: Optional[str] = None,
            preflight: bool = False, allow_unenforced: Optional[Sequence[str]] = None,
            root: str = "/") -> Dict[str, Any]:
    """Read the host once and return its facts (shape: module docstring). Must run as root.

    run: run(argv, data=None) -> (rc, stdout, stderr), in the C locale; argv[0] is an absolute path.
    agents: the resolved manifest's list, without promotions; None takes the host's own record, MANIFEST.
    agent: only this one. A name that the list lacks gives no facts, which evaluate() reports.
    preflight: leave out what says nothing of the start that is about to happen (units, processes, audit
        rules, sudo, cron, file walks): a fraction of the time, and the checks marked `preflight` need none
        of it. Something is about to start, hence `session.active` is true.
    allow_unenforced: the accepted gaps; None takes the host's record.
    root: where the host's files are; not "/" in tests only.
    """
    source = Source(run, root)
    recorded = source.record(MANIFEST) if agents is None or allow_unenforced is None else {}
    recorded = recorded if isinstance(recorded, dict) else {}
    manifest: List[Mapping[str, Any]] = list(_ordered(recorded) if agents is None else agents)
    waived = recorded.get("allow_unenforced") or [] if allow_unenforced is None else allow_unenforced
    chosen = [entry for entry in manifest if agent is None or entry["name"] == agent]

    users = _facts_users.Users(source)
    units = None if preflight else _facts_units.read(source, [entry["name"] for entry in chosen])
    processes = None if preflight else _facts_processes.read(source, users.agent_uids())
    promotions = _facts_promotion.read(source)
    apparmor = _facts_apparmor.read(source)
    audit = _facts_audit.read(source, preflight)
    monitoring = _facts_monitoring.read(source)
    host: Dict[str, Any] = {
        "schema": SCHEMA,
        "collected_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "support": dict(monitoring["receivers"], apparmor=apparmor["supported"], audit=audit["supported"]),
        "allow_unenforced": sorted(waived),
        "expected": {"apparmor": _facts_apparmor.recorded(source), "firewall": _facts_firewall.recorded(source)},
        "apparmor": apparmor,
        "audit": audit,
        "firewall": _steady(_facts_firewall.read(source), units),
        "monitoring": monitoring,
        "services": _facts_units.services(units),
        "strays": _facts_users.strays(users, processes, [entry["user"] for entry in manifest]),
    }
    host.update(_facts_host.read(source, preflight))
    view = _facts_agent.View(source=source, users=users, units=units, processes=processes, host=host,
                             preflight=preflight)
    loaded = host["expected"]["apparmor"]
    host["agents"] = {
        entry["name"]: dict(_facts_agent.read(view, effective([entry], promotions or {})[0]),
                            promotion=_facts_promotion.of_agent(source, entry, promotions, loaded))
        for entry in chosen
    }
    host["unreadable"] = dict(sorted(source.unreadable.items()))
    return host


def _steady(firewall: Dict[str, Any], units: _facts_units.Units) -> Dict[str, Any]:
    """What systemd says of the services behind names, beside what they serve."""
    for service, unit in (("proxy", "cordon-proxy.service"), ("resolver", "cordon-resolver.service")):
        facts = firewall[service]
        facts["unsteady"] = _facts_units.unsteady(units, unit, facts["wanted"], time.monotonic())
    return firewall


def _ordered(recorded: Mapping[str, Any]) -> List[Mapping[str, Any]]:
    """The host's own manifest with the modes that the inventory ordered: the record has promoted agents in enforce."""
    ordered = recorded.get("ordered") or {}
    return [dict(entry, mode=ordered.get(entry["name"], entry["mode"])) for entry in recorded.get("agents") or []]
