# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the manifest lists a program for the secret that it read. Pure.

Two opinions, and either is enough for a no: AppArmor's, which lacked a rule in some layer (and in burn-in let it pass),
and our own by the manifest, should a profile grant what the manifest does not.
"""

from __future__ import annotations

import re
from typing import Mapping, Sequence

from . import event as events
from .event import Event

# AppArmor's names for how a program comes by an open file: itself, from who started it, through a socket.
OPENINGS = frozenset({"open", "file_inherit", "file_receive"})

_INNER = re.compile(r"cordon\.[a-z][a-z0-9_]*\.([a-z0-9-]+)")

Secrets = Mapping[str, Sequence[str]]  # name of a secret -> the only tools that may read it; none: every program


def listed(event: Event, secrets: Secrets) -> bool | None:
    """None for what is no reading of a secret: a stat, a write, an error that is none of AppArmor's."""
    if event["kind"] != "secret" or event["operation"] not in OPENINGS:
        return None
    if event["reason"] in ("apparmor", "complain"):
        return False if "r" in (event["apparmor"]["access"] or "") else None
    if event["outcome"] == "denied":
        return None
    tools = secrets.get(event["secret"])
    if tools is None or events.agent_of_path(event["path"]) != event["agent"]:
        return False
    return not tools or _tool(event["profile"]) in tools


def declared(event: Event, secrets: Mapping[str, Secrets]) -> bool:
    """Whether the manifest has it: an agent may ask for any name, but only so many are an operator's. secrets: by agent."""
    return event["secret"] in secrets.get(events.agent_of_path(event["path"]) or "", {})


def _tool(label: str | None) -> str | None:
    """"git" of "cordon.scout//&cordon.scout.git": the profile that a tool with a secret of its own runs in."""
    found = [match[1] for part in (label or "").split("//&") if (match := _INNER.fullmatch(part))]
    return found[0] if len(found) == 1 else None
