# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of one agent, gathered from the other modules under the agent's name.

    name, mode   as in the manifest, but a promoted agent is in enforce
    expected     {user, profile, slice, main_mode, limits, idle, private_devices}: the manifest's wishes, in the
                 words and units of the facts
    user         see _facts_users.py; null when the user does not exist
    session      {active: bool, sessions: [str]}|null, see _facts_units.py
    unit         the properties of cordon-agent@NAME.service | null
    vault_unit   the properties of cordon-vault@NAME.service | null
    processes    [process]|null, see _facts_processes.py
    misplaced    [str]|null: processes that are not in the cage and an inner profile, in the mode asked for
    weakened     [str]|null: processes without NoNewPrivs, without a seccomp filter, or with capabilities
    apparmor     {cage, main, others}, see _facts_apparmor.of_agent
    audit        {rules: [str]|null, calls: [str]|null}: loaded rules that record this user
    firewall     {bound: bool|null}: the table matches this user's uid
    limits       see _facts_limits.py
    vault        see _facts_vault.py
    promotion    see _facts_promotion.py
    home         {top, ssh: metadata|null}: the home itself and its .ssh: root's, so that no rc file
                 and no key can be planted
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, NamedTuple, Optional

from . import _facts_apparmor, _facts_audit, _facts_limits, _facts_units, _facts_vault
from ._facts_source import Source
from ._facts_units import Units
from ._facts_users import Users

SECCOMP_FILTER = 2  # prctl(2), PR_GET_SECCOMP


class View(NamedTuple):
    """What was read once for the whole host."""

    source: Source
    users: Users
    units: Units
    processes: Optional[List[Dict[str, Any]]]
    host: Mapping[str, Any]
    preflight: bool


def read(view: View, entry: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the facts of one agent (shape: module docstring)."""
    name, user = entry["name"], view.users.read(entry["user"], view.preflight)
    uid = user["uid"] if user else None
    own = None if view.processes is None or user is None else [p for p in view.processes if p["user"] == entry["user"]]
    rules = _facts_audit.rules_of(view.host["audit"]["rules"], uid)
    units = view.units or {}
    return {
        "name": name, "mode": entry["mode"], "expected": _expected(entry), "user": user,
        "session": _facts_units.STARTING if view.preflight else _facts_units.session(view.units, name),
        "unit": units.get(_facts_units.agent_unit(name)),
        "vault_unit": units.get(_facts_units.vault_unit(name)),
        "processes": own,
        "misplaced": _facts_apparmor.labels_out_of_place(own, name, entry["mode"]),
        "weakened": weakened(own, entry.get("inner_sandbox") == "allow"),
        "apparmor": _facts_apparmor.of_agent(view.host["apparmor"], view.host["expected"]["apparmor"], name),
        "audit": {"rules": rules, "calls": _facts_audit.system_calls(rules)},
        "firewall": {"bound": _bound(view.host["firewall"]["uids"], uid)},
        "limits": _facts_limits.read(view.source, view.units, name),
        "vault": _facts_vault.read(view.source, entry, view.preflight, view.host["swap"]),
        "home": {"top": view.source.metadata(entry["home"]), "ssh": view.source.metadata(entry["home"] + "/.ssh")},
    }


def _expected(entry: Mapping[str, Any]) -> Dict[str, Any]:
    limits = entry["limits"]
    return {
        "user": entry["user"], "profile": _facts_apparmor.PREFIX + entry["name"],
        "slice": _facts_units.slice_unit(entry["name"]),
        "main_mode": _facts_apparmor.expected_modes(entry["mode"])["main"],
        "limits": _facts_limits.wanted(limits),
        "restrict_namespaces": "no" if entry.get("inner_sandbox") == "allow" else "yes",
        "idle": entry.get("vault", {}).get("idle"),
        "private_devices": "no" if limits["gpu"] or limits["devices"] else "yes",
    }


def _bound(uids: Optional[List[int]], uid: Optional[int]) -> Optional[bool]:
    return None if uids is None or uid is None else uid in uids


def weakened(processes: Optional[List[Dict[str, Any]]], inner_sandbox: bool = False) -> Optional[List[str]]:
    """Name every process that the second layer, systemd's sandbox, does not hold.

    inner_sandbox: capabilities are accepted, since a process in a user namespace of its own has all of them over it.
    """
    if processes is None:
        return None
    return ["pid %d (%s): NoNewPrivs %s, Seccomp %s, CapBnd %s" % (
        p["pid"], p["program"], p["no_new_privs"], p["seccomp"], p["capabilities"]) for p in processes
        if not (p["no_new_privs"] == 1 and p["seccomp"] == SECCOMP_FILTER
                and (inner_sandbox or set(p["capabilities"] or "?") == {"0"}))]
