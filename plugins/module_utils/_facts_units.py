# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of systemd units, all of them by one `systemctl show`.

read() returns {unit: {property: str}} or null when systemctl is missing or fails. Properties are
systemd's own names and words; sessions appear only while they are loaded.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Optional, Sequence

from ._facts_source import Source

Units = Optional[Dict[str, Dict[str, str]]]

HOST_UNITS = ("cordon-firewall.service", "cordon-events.service", "cordon-watch.service", "cordon-heartbeat.service",
              "cordon-heartbeat.timer", "apparmor.service", "auditd.service", "cordon-proxy.service", "cordon-resolver.service")
SERVICE = {"state": "ActiveState", "enabled": "UnitFileState", "result": "Result"}
STATE = ("Id", "LoadState", "ActiveState", "SubState", "UnitFileState", "Result", "NRestarts", "ControlGroup",
         "NeedDaemonReload", "ActiveEnterTimestampMonotonic")
SANDBOX = ("User", "AppArmorProfile", "NoNewPrivileges", "CapabilityBoundingSet", "AmbientCapabilities", "PrivateTmp",
           "PrivateDevices", "DevicePolicy", "ProtectSystem", "ProtectHome", "ProtectProc", "ProtectKernelModules",
           "ProtectKernelTunables", "ProtectControlGroups", "RestrictNamespaces", "RestrictAddressFamilies",
           "RestrictSUIDSGID", "SystemCallArchitectures", "LimitCORE", "CoredumpFilter", "Slice")
LIMITS = ("CPUQuotaPerSecUSec", "MemoryMax", "MemorySwapMax", "TasksMax")
PROPERTIES = STATE + SANDBOX + LIMITS
# systemd.time(7), as `systemctl show` prints time spans.
SPAN = {"us": 1, "ms": 1000, "s": 10 ** 6, "min": 60 * 10 ** 6, "h": 3600 * 10 ** 6}
# What a preflight runs for: asking systemd again would cost more than the rest of it.
STARTING = {"active": True, "sessions": []}
# A service that ends again and again is up whenever somebody looks: one start by systemd itself within this time shows.
STEADY = 600  # seconds
RUNNING = ("active", "activating", "reloading", "deactivating")


def agent_unit(agent: str) -> str:
    """Name the service of an agent."""
    return "cordon-agent@%s.service" % agent


def slice_unit(agent: str) -> str:
    """Name the slice that holds an agent's service and sessions."""
    return "cordon-%s.slice" % agent


def vault_unit(agent: str) -> str:
    """Name the service that keeps an agent's vault open."""
    return "cordon-vault@%s.service" % agent


def read(source: Source, agents: Sequence[str]) -> Units:
    """Return the properties of the units of these agents and of the host's own."""
    wanted = list(HOST_UNITS)
    for agent in agents:
        wanted += [agent_unit(agent), slice_unit(agent), vault_unit(agent), "cordon-session-%s-*.service" % agent]
    text = source.output("systemctl", "show", "--no-pager", "--property=" + ",".join(PROPERTIES), *wanted)
    return None if text is None else parse_show(text)


def parse_show(text: str) -> Dict[str, Dict[str, str]]:
    """Return {unit: {property: value}} of `systemctl show`: one block per unit, empty lines between."""
    found: Dict[str, Dict[str, str]] = {}
    for block in re.split(r"\n\s*\n", text.strip()):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "Id" in values:
            found[values.pop("Id")] = values
    return found


def services(units: Units) -> Dict[str, Dict[str, Optional[str]]]:
    """Return {unit: {state, enabled, result}} of the host's own units; nulls where systemd gave no answer."""
    known = units or {}
    return {name: {key: known.get(name, {}).get(prop) for key, prop in SERVICE.items()} for name in HOST_UNITS}


def unsteady(units: Units, name: str, wanted: Optional[bool], now: float) -> Optional[List[str]]:
    """Say what is wrong with how a service runs, in words; null where systemd gave no answer.

    wanted: whether it is needed at all. now: seconds of the clock that does not jump, as time.monotonic() has it.
    """
    if not wanted:
        return None if wanted is None else []
    if units is None:
        return None
    unit = units.get(name, {})
    found = []
    if unit.get("ActiveState") != "active":
        words = (unit.get(key) for key in ("LoadState", "ActiveState", "SubState", "Result"))
        said = [word for word in words if word and word not in ("loaded", "success")]
        found.append("%s is %s" % (name, ", ".join(said) or "unknown"))
    # systemd counts its own starts, and begins anew with one that somebody asked for.
    restarts, since = int(unit.get("NRestarts") or 0), int(unit.get("ActiveEnterTimestampMonotonic") or 0) / 1e6
    if restarts and now - since < STEADY:
        found.append("%s has ended by itself: systemd has started it again %d times, the last time %d seconds ago"
                     % (name, restarts, now - since))
    return found


def session(units: Units, agent: str) -> Optional[Dict[str, Any]]:
    """Return {active, sessions}: is anything of this agent running or about to?"""
    if units is None:
        return None
    prefix = "cordon-session-%s-" % agent
    sessions = sorted(name for name, unit in units.items()
                      if name.startswith(prefix) and unit.get("ActiveState") in RUNNING)
    state = units.get(agent_unit(agent), {}).get("ActiveState")
    return {"active": state in RUNNING or bool(sessions), "sessions": sessions}


def span_us(text: Optional[str]) -> Optional[int]:
    """Return the microseconds of a time span such as `1min 30s` or `1.500s`; null for infinity."""
    if not text or text == "infinity":
        return None
    parts = [re.match(r"^([0-9.]+)(us|ms|s|min|h)$", word) for word in text.split()]
    if not all(parts):
        return None
    return round(sum(float(part.group(1)) * SPAN[part.group(2)] for part in parts if part))
