# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. A suggested change, applied and as a diff that a person reads: of an agent's keys in the
manifest, or of a tool's file in the catalogue. Lines begin with a space, - or +, as in any diff.
"""
from __future__ import annotations

import copy
import json
import re
from typing import Any, Dict, List, Mapping, Optional

from ._manifest import DEFAULTS

TOOLS = "roles/apparmor/files/tools/%s.yml"
# What YAML takes for text without quotes, in a list as well.
_NONE = object()
PLAIN = re.compile(r"[A-Za-z0-9/_.][A-Za-z0-9/_.@+=-]*")


def changed(agent: Mapping[str, Any], added: Mapping[str, Any]) -> Dict[str, Any]:
    """The agent with these additions, {"tools": ["git"], "workspace.read_only": [...], "workspace.execute": True}."""
    found: Dict[str, Any] = copy.deepcopy(dict(agent))
    for place, value in added.items():
        outer, _dot, key = place.rpartition(".")
        holder = found[outer] if outer else found
        if not isinstance(value, list):
            holder[key] = value
            continue
        holder[key] = holder[key] + [one for number, one in enumerate(value) if one not in [*holder[key], *value[:number]]]
        if place == "workspace.read_write":
            # Reading is part of writing, and the manifest refuses a path in both.
            holder["read_only"] = [one for one in holder["read_only"] if one not in value]
    return found


def manifest_diff(agent: Mapping[str, Any], added: Mapping[str, Any]) -> str:
    """The agent's keys before and after."""
    after = changed(agent, added)
    lines = ["   - name: %s" % agent["name"]]
    for key in sorted({place.partition(".")[0] for place in added}):
        before, now = (_written(key, one[key]) for one in (agent, after))
        if isinstance(after[key], list) and any(isinstance(one, dict) for one in after[key]):
            lines += _longer(key, agent[key], after[key])
        elif before != now:
            lines += ["-    %s: %s" % (key, before)] if before else []
            lines += ["+    %s: %s" % (key, now)]
    return "\n".join(lines)


def _longer(key: str, before: List[Any], after: List[Any]) -> List[str]:
    """A list of mappings, of which only what is new is shown: an allowlist is long, and nothing leaves it here."""
    new = ["+      - " + flow(_chosen(one, key + "[]")) for one in after if one not in before]
    return ["%s    %s:" % (" " if before else "+", key), *new] if new else []


def catalogue_diff(tool: str, added: Mapping[str, Any], known: Optional[Mapping[str, Any]]) -> str:
    """A tool's file in the catalogue before and after."""
    path = TOOLS % tool
    if known is None:
        return "\n".join(["--- /dev/null", "+++ " + path] + ["+" + line for line in _new(tool, added["new"])])
    lines = ["--- " + path, "+++ " + path]
    for key, value in added.items():
        if key == "rules":
            lines += [" rules:"] + ["+  - " + flow(entry) for entry in value]
        else:
            outer, _dot, inner = key.rpartition(".")
            before = known.get(outer, {}).get(inner)
            lines += [" %s:" % outer] + (["-  %s: %s" % (inner, flow(before))] if before is not None else [])
            lines += ["+  %s: %s" % (inner, flow(value))]
    return "\n".join(lines)


def _new(tool: str, pattern: str) -> List[str]:
    return ["---", "name: " + tool, "description: WHAT IT IS FOR", "packages: [PACKAGE]  # dpkg -S says which",
            "executables:", "  - " + flow(pattern), "rules: []", "proof: [%s, --version]" % tool]


def _written(key: str, value: Any) -> str:
    """A value as a person would have written it, without defaults and what is derived; "" where all of it is left out."""
    shown: Any = value
    if isinstance(value, dict):
        shown = _chosen(value, key)
    elif isinstance(value, list):
        shown = [_chosen(one, key + "[]") if isinstance(one, dict) else one for one in value]
    return flow(shown) if shown else ""


def _chosen(value: Dict[str, Any], key: str) -> Dict[str, Any]:
    """A mapping without its defaults; what has none, and is not derived, stays."""
    derived = {"workspace.path"}
    return {name: one for name, one in value.items()
            if "%s.%s" % (key, name) not in derived and one != DEFAULTS.get("%s.%s" % (key, name), _NONE)}


def flow(value: Any) -> str:
    """A value in one line of YAML."""
    if isinstance(value, Mapping):
        return "{%s}" % ", ".join("%s: %s" % (key, flow(one)) for key, one in value.items())
    if isinstance(value, list):
        return "[%s]" % ", ".join(flow(one) for one in value)
    if isinstance(value, str):
        return value if PLAIN.fullmatch(value) and not value.replace(".", "").isdigit() else json.dumps(value)
    return json.dumps(value)
