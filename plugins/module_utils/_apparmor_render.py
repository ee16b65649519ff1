# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. From one agent of the resolved manifest and the tool catalogue to its two profiles.

The cage cordon.NAME is what the agent may ever do. The inner profile cordon.NAME.main, stacked on it by the exec of
the entry program, is what the agent's own program may do. A process needs the leave of both.
Pure: same input, same text, no clock, no host. docs/apparmor.md has the picture.
"""
from __future__ import annotations

import re
from typing import Any, Dict, List, Tuple

from ._apparmor_lint import lint
from ._apparmor_policy import ABI, CAGE_READS, DENIED, FLAGS, GPU, NETWORK, Block, peers
from ._apparmor_rules import Refused, Rule, lines, literal, pattern, rule

ENTRY = "/usr/lib/cordon/entry"
NAME = re.compile(r"[a-z][a-z0-9_]{0,25}")
# Of the home, only what the contract with the role `agent` leaves to the agent; the rest of it belongs to root.
OWN = (".cache", ".config", ".local")
INDENT = "  "

Catalogue = Dict[str, Dict[str, Any]]


def profiles(agent: Dict[str, Any], catalogue: Catalogue) -> List[Dict[str, str]]:
    """Return the agent's profiles, [{name, agent, mode, text}], mode being enforce or complain.

    Raises Refused for a value that must not stand in a profile, and for a tool that the catalogue lacks.
    """
    name = agent["name"]
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise Refused("%r is not an agent's name: use a lower-case letter, then up to 25 of a-z, 0-9 and _" % (name,))
    cage = "cordon." + name
    inner = "enforce" if agent["mode"] == "enforce" else "complain"
    return [
        _profile(cage, name, "enforce", "the cage: all that this agent may ever do", _cage(agent, catalogue, cage)),
        _profile(cage + ".main", name, inner, "its own program, stacked inside " + cage, _main(agent, catalogue, cage)),
    ]


def packages(agents: List[Dict[str, Any]], catalogue: Catalogue) -> List[str]:
    """The Debian packages of every tool that an agent has, sorted. Raises Refused where the catalogue lacks a tool."""
    tools = {name for agent in agents for name, _title in _granted(agent, catalogue)}
    return sorted({package for name in tools for package in catalogue[name]["packages"]})


def _profile(name: str, agent: str, mode: str, purpose: str, blocks: List[Block]) -> Dict[str, str]:
    flags = list(FLAGS) + (["complain"] if mode == "complain" else [])
    head = "profile %s%s {" % (name, " flags=(%s)" % ", ".join(flags) if flags else "")
    text = ["# Agent %s, %s." % (agent, purpose),
            "# Rendered by cordon.agent_host from agent_host_agents; the next run undoes an edit of this file.",
            "# Each comment names the manifest line or the tool that a block comes from.", ABI, "", head]
    for block in blocks:
        text += ["", INDENT + "# " + block.title] + [INDENT + line for line in block.lines]
    body = "\n".join(text + ["}", ""])
    problems = lint(body)
    if problems:
        raise Refused("profile %s: %s" % (name, "; ".join(problems)))
    return {"name": name, "agent": agent, "mode": mode, "text": body}


def _cage(agent: Dict[str, Any], catalogue: Catalogue, cage: str) -> List[Block]:
    wide = Block("what everybody on the host may read", lines(CAGE_READS))
    entry = Block("the way in: this exec stacks the inner profile (plain transitions fail under NoNewPrivileges)",
                  ["%s pix -> &%s.main," % (ENTRY, cage)])
    return [entry] + _common(agent, catalogue, cage, audit_secrets=False) + [wide] + _denied()


def _main(agent: Dict[str, Any], catalogue: Catalogue, cage: str) -> List[Block]:
    # Only the inner layer logs a secret being read: both would write the same record twice.
    return _common(agent, catalogue, cage, audit_secrets=True) + _denied()


def _common(agent: Dict[str, Any], catalogue: Catalogue, cage: str, audit_secrets: bool) -> List[Block]:
    found = _tools(agent, catalogue)
    found += [_command(agent), _home(agent), _secrets(agent, audit_secrets), _shared(agent), _devices(agent)]
    found += [NETWORK, Block("among this agent's own processes", peers(cage))]
    return [block for block in found if block.lines]


def _denied() -> List[Block]:
    return [Block("never: " + title, lines(rules)) for title, rules in DENIED]


def _granted(agent: Dict[str, Any], catalogue: Catalogue) -> List[Tuple[str, str]]:
    """The agent's tools, (name, why it has it): first those that everybody has."""
    granted = set(agent["tools"])
    missing = sorted(granted - set(catalogue))
    if missing:
        raise Refused("agents[%s].tools: the catalogue lacks %s" % (agent["name"], ", ".join(missing)))
    implicit = {name for name, tool in catalogue.items() if tool.get("implicit")}
    asked = "agents[%s].tools: %%s" % agent["name"]
    return ([(name, "every agent has tool " + name) for name in sorted(implicit)]
            + [(name, asked % name) for name in sorted(granted - implicit)])


def _tools(agent: Dict[str, Any], catalogue: Catalogue) -> List[Block]:
    return [_tool(catalogue[name], title) for name, title in _granted(agent, catalogue)]


def _tool(tool: Dict[str, Any], title: str) -> Block:
    programs = [Rule(pattern(path), "mrx") for path in tool.get("executables", [])]
    return Block(title, lines(programs + [rule(entry) for entry in tool.get("rules", [])]))


def _command(agent: Dict[str, Any]) -> Block:
    # Through a link, e.g. venv/bin/python, the kernel asks for the program it leads to, which a tool has to grant.
    return Block("agents[%s].command" % agent["name"], lines([Rule(literal(agent["command"][0]), "mrx")]))


def _home(agent: Dict[str, Any]) -> Block:
    home, workspace = literal(agent["home"]), literal(agent["workspace"]["path"])
    # x: hooks, virtual environments and build results run, but as ix, inside the same cage. [^.] keeps the dot
    # directories, .vault among them, out of what the rest of the home may do.
    rules = [Rule(home + "/", "r"), Rule(home + "/[^.]{,**}", "mrx"), Rule(home + "/.ssh/{,**}", "r"),
             Rule(workspace + "/{,**}", "mrwklx")]
    rules += [Rule("%s/%s/{,**}" % (home, place), "mrwklx") for place in OWN]
    return Block("agents[%s].workspace.path, and the home around it" % agent["name"], lines(rules))


def _secrets(agent: Dict[str, Any], audited: bool) -> Block:
    vault, verdict = literal(agent["home"]) + "/.vault/", "audit" if audited else ""
    rules = [Rule(literal(vault + secret["name"]), "r", verdict=verdict) for secret in agent["secrets"]]
    title = "agents[%s].secrets%s" % (agent["name"], ": each read leaves a record" if audited else "")
    return Block(title, lines(rules + [Rule(vault, "r")]) if rules else [])


def _shared(agent: Dict[str, Any]) -> Block:
    # A directory's own path ends with / when the kernel asks; a single file's does not.
    rules = [Rule(literal(path) + "{,/,/**}", "r") for path in agent["workspace"]["read_only"]]
    return Block("agents[%s].workspace.read_only" % agent["name"], lines(rules))


def _devices(agent: Dict[str, Any]) -> Block:
    limits = agent["limits"]
    rules = [Rule(literal(device), "rw") for device in limits["devices"]] + (GPU if limits["gpu"] else [])
    return Block("agents[%s].limits.devices, .gpu" % agent["name"], lines(rules))
