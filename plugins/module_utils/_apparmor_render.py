# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. From one agent of the resolved manifest and the tool catalogue to its profiles.

The cage cordon.NAME is what the agent may ever do. Stacked on it is one inner profile at a time: cordon.NAME.main for
the agent's own program and all that runs with its rights, others for tools that need more or deserve less (_place). A
process needs the leave of both layers.
Pure: same input, same text, no clock, no host. docs/apparmor.md has the picture.
"""
from __future__ import annotations

import re
from typing import Any, Dict, List, NamedTuple, Tuple

from ._apparmor_lint import lint
from ._apparmor_policy import (
    ABIS,
    CAGE_READS,
    DENIED,
    FLAGS,
    GPU,
    INNER_SANDBOX,
    NETWORK,
    NO_NAMESPACES,
    SCRATCH,
    SCRATCH_RUNS,
    USERNS,
    Block,
    peers,
)
from ._apparmor_rules import Refused, Rule, lines, literal, pattern, rule, transition

ENTRY = "/usr/lib/cordon/entry"
# entry's one write; the kernel refuses every later one (EPERM).
AUDIT_SESSION = Block("entry begins a session of the kernel's audit system", ["owner /proc/[0-9]*/loginuid rw,"])
NAME = re.compile(r"[a-z][a-z0-9_]{0,25}")
# Tools without network that start nothing and hold nothing have the same rights, so they share a profile.
READERS, WRITERS, MAIN = "readers", "writers", "main"
# Any other tool with a profile of its own lends it its name.
TOOL = re.compile(r"(?!(?:main|readers|writers)$)[a-z0-9][a-z0-9-]{0,40}")
# To how many others a profile can lead: four bits of the kernel's table, four values of which mean something else
# (apparmor_parser, "too many specified profile transitions").
TRANSITIONS = 12
# Of the home, only what the contract with the role `agent` leaves to the agent; the rest of it belongs to root.
OWN = (".cache", ".config", ".local")
# A directory's own path ends with / when the kernel asks; a single file's does not.
BELOW = "{,/,/**}"
INDENT = "  "

Catalogue = Dict[str, Dict[str, Any]]


class Grant(NamedTuple):
    """One tool that the agent has.

    title: why, the line of the manifest or that everybody has it. place: the inner profile that it runs in.
    """

    name: str
    title: str
    tool: Dict[str, Any]
    place: str = MAIN

    @property
    def programs(self) -> List[str]:
        """What starts it."""
        return [pattern(path) for path in self.tool.get("executables", [])]

    @property
    def helpers(self) -> List[str]:
        """What only the tool itself starts."""
        return [pattern(path) for path in self.tool.get("helpers", [])]

    @property
    def profile(self) -> Dict[str, Any]:
        """What the catalogue says of the tool's rights; {} for a tool that has those of its caller."""
        return self.tool.get("profile") or {}

    @property
    def everywhere(self) -> bool:
        """Whether every profile of every agent holds it: an implicit tool that starts nothing is a base."""
        return bool(self.tool.get("implicit")) and not self.programs

    def allowed(self, executed: List[str]) -> Block:
        """The tool's rules, with these programs running in the profile that they are started from."""
        rules = [Rule(path, "mrx") for path in executed]
        return Block(self.title, lines(rules + [rule(entry) for entry in self.tool.get("rules", [])]))


class Layer(NamedTuple):
    """What every block of one profile is made from. mode: enforce or complain. abi: one of ABIS."""

    agent: Dict[str, Any]
    grants: List[Grant]
    cage: str
    mode: str
    abi: str


def profiles(agent: Dict[str, Any], catalogue: Catalogue, abi: str = ABIS[0]) -> List[Dict[str, str]]:
    """Return the agent's profiles, [{name, agent, mode, text}], mode being enforce or complain.

    abi: the newest of ABIS that the host's parser has.
    Raises Refused for a value that must not stand in a profile, and for a tool that the catalogue lacks.
    """
    name = agent["name"]
    if abi not in ABIS:
        raise Refused("abi %r is not one that profiles are written for: use %s" % (abi, " or ".join(ABIS)))
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise Refused("%r is not an agent's name: use a lower-case letter, then up to 25 of a-z, 0-9 and _" % (name,))
    cage, inner = "cordon." + name, "enforce" if agent["mode"] == "enforce" else "complain"
    grants = _placed(agent, _granted(agent, catalogue))
    outer, layer = Layer(agent, grants, cage, "enforce", abi), Layer(agent, grants, cage, inner, abi)
    found = [_profile(outer, cage, "the cage: all that this agent may ever do", _cage(outer)),
             _profile(layer, cage + ".main", "its own program, stacked inside " + cage, _main(layer))]
    for place in _places(grants):
        names = ", ".join(grant.name for grant in grants if grant.place == place)
        purpose = "its %s, stacked inside %s: %s" % ("tool" if names == place else place, cage, names)
        found.append(_profile(layer, "%s.%s" % (cage, place), purpose, _tool(layer, place)))
    return found


def places(agent: Dict[str, Any], catalogue: Catalogue) -> Dict[str, str]:
    """The inner profile that each of the agent's tools runs in, {"git": "git", "jq": "writers", "python": "main"}."""
    return {grant.name: grant.place for grant in _placed(agent, _granted(agent, catalogue))}


def packages(agents: List[Dict[str, Any]], catalogue: Catalogue) -> List[str]:
    """The Debian packages of every tool that an agent has, sorted. Raises Refused where the catalogue lacks a tool."""
    tools = {grant.name for agent in agents for grant in _granted(agent, catalogue)}
    return sorted({package for name in tools for package in catalogue[name]["packages"]})


def _profile(layer: Layer, name: str, purpose: str, blocks: List[Block]) -> Dict[str, str]:
    flags = list(FLAGS) + (["complain"] if layer.mode == "complain" else [])
    head = "profile %s flags=(%s) {" % (name, ", ".join(flags))
    text = ["# Agent %s, %s." % (layer.agent["name"], purpose),
            "# Rendered by cordon.agent_host from agent_host_agents; the next run undoes an edit of this file.",
            "# Each comment names the manifest line or the tool that a block comes from.",
            "abi <abi/%s>," % layer.abi, "", head]
    for block in blocks:
        if block.lines:
            text += ["", INDENT + "# " + block.title] + [INDENT + line for line in block.lines]
    body = "\n".join(text + ["}", ""])
    problems = lint(body, [line for block in blocks if block.title == INNER_SANDBOX.title for line in block.lines])
    if problems:
        raise Refused("profile %s: %s" % (name, "; ".join(problems)))
    return {"name": name, "agent": layer.agent["name"], "mode": layer.mode, "text": body}


def _cage(layer: Layer) -> List[Block]:
    agent = layer.agent
    entry = Block("the way in: this exec stacks the inner profile (plain transitions fail under NoNewPrivileges)",
                  ["%s pix -> &%s.main," % (ENTRY, layer.cage)])
    wide = Block("what everybody on the host may read", lines(CAGE_READS))
    # Only the inner layer logs a secret being read: both would write the same record twice.
    return [entry, AUDIT_SESSION, *[grant.allowed(grant.programs + grant.helpers) for grant in layer.grants], _command(agent),
            _home(agent, "rw", "x"), _secrets(agent, agent["secrets"], ""), _shared(agent, "rw"), _devices(agent),
            NETWORK, *_sandbox(layer), *_always(layer, SCRATCH_RUNS), wide, *_denied(agent)]


def _main(layer: Layer) -> List[Block]:
    agent = layer.agent
    inherited = [grant.allowed(grant.programs + grant.helpers) for grant in layer.grants if grant.place == MAIN]
    secrets = [secret for secret in agent["secrets"] if not secret["tools"]]
    return [AUDIT_SESSION, *inherited, *_starts(layer, MAIN), _command(agent, layer.grants), _home(agent, "rw", "x"),
            _secrets(agent, secrets, "audit"), _shared(agent, "rw"), _devices(agent), NETWORK,
            *_sandbox(layer), *_always(layer, SCRATCH_RUNS), *_denied(agent)]


def _tool(layer: Layer, place: str) -> List[Block]:
    agent, here = layer.agent, [grant for grant in layer.grants if grant.place == place]
    base = [other.allowed([]) for other in layer.grants if other.everywhere]
    own = [grant.allowed(grant.programs + grant.helpers) for grant in here]
    # "none" < "r" < "rw", as words too.
    access = max(grant.profile.get("workspace", "r") for grant in here if grant.profile)
    places = [_home(agent, access), _shared(agent, access)] if access in ("r", "rw") else []
    secrets = [secret for secret in agent["secrets"] if not secret["tools"] or place in secret["tools"]]
    network = [NETWORK] if any(grant.profile.get("network") for grant in here) else []
    return [*base, *own, *_starts_of_tool(layer, place, any(grant.profile.get("runs") for grant in here)), *places,
            _secrets(agent, secrets, "audit"), *network, *_always(layer, []), *_denied(agent)]


def _starts_of_tool(layer: Layer, place: str, runs: bool) -> List[Block]:
    if runs:
        return _starts(layer, place)
    if layer.mode == "enforce":
        return []
    # In enforce these starts are refused. In burn-in they leave a record and run with the main program's rights:
    # without a rule the kernel would make up a profile //null-PROGRAM, in which no socket is ever logged.
    return [Block(block.title + "; only in burn-in", ["audit " + line for line in block.lines])
            for block in _starts(layer, place)]


def _always(layer: Layer, more: List[Rule]) -> List[Block]:
    return [Block("scratch space; PrivateTmp makes it the agent's own", lines(SCRATCH + more)),
            Block("among this agent's own processes", peers(layer.cage))]


def _starts(layer: Layer, here: str) -> List[Block]:
    """What a profile may start that runs in another one: tools in their own, everything else in main.

    The way into a tool scrubs the environment (Px): LD_PRELOAD and its like would run the agent's code with what only
    the tool may read. The way back gains nothing and scrubs nothing.
    """
    taken = {path for grant in layer.grants if grant.place == here for path in grant.programs + grant.helpers}
    blocks = []
    for grant in layer.grants:
        if grant.place != here:
            scrub, paths = grant.place != MAIN, sorted(set(grant.programs) - taken)
            blocks.append(Block("%s, in profile %s" % (grant.title, grant.place),
                                [transition(path, "%s.%s" % (layer.cage, grant.place), scrub) for path in paths]))
    return blocks + ([] if here == MAIN else _starts_own(layer))


def _starts_own(layer: Layer) -> List[Block]:
    """What a tool starts of the agent's own: hooks, scripts, its command. They run in main, without the tool's rights."""
    agent, main = layer.agent, layer.cage + ".main"
    home = literal(agent["home"])
    taken = {path for grant in layer.grants for path in grant.programs}
    paths = [literal(agent["command"][0])] if literal(agent["command"][0]) not in taken else []
    paths += [literal(path) + BELOW for path in agent["programs"]]
    paths += [home + "/[^.]{,**}"] + ["%s/%s/{,**}" % (home, place) for place in OWN] + ["/{,var/}tmp/**"]
    return [Block("what the agent wrote, and its command", [transition(path, main, False) for path in paths])]


def _sandbox(layer: Layer) -> List[Block]:
    allowed = layer.agent["inner_sandbox"] == "allow"
    return [INNER_SANDBOX._replace(lines=INNER_SANDBOX.lines + USERNS[layer.abi])] if allowed else []


def _denied(agent: Dict[str, Any]) -> List[Block]:
    tables = DENIED if agent["inner_sandbox"] == "allow" else [*DENIED, NO_NAMESPACES]
    found = [Block("never: " + title, lines(rules)) for title, rules in tables]
    asked = [Rule(literal(path) + BELOW, "mrwklx", verdict="audit deny") for path in agent["denied"]]
    if not agent["workspace"]["execute"]:
        home = literal(agent["home"])
        own = [literal(agent["workspace"]["path"])] + ["%s/%s" % (home, place) for place in OWN]
        own += [literal(path) for path in agent["workspace"]["read_write"]]
        rules = [Rule(path + "/{,**}", "mx", verdict="audit deny") for path in [*own, "/{,var/}tmp", "/dev/shm"]]
        found.append(Block("agents[%s].workspace.execute: false" % agent["name"], lines(rules)))
    return found + [Block("agents[%s].denied" % agent["name"], lines(asked))]


def _granted(agent: Dict[str, Any], catalogue: Catalogue) -> List[Grant]:
    """The agent's tools: first those that everybody has."""
    granted = set(agent["tools"])
    missing = sorted(granted - set(catalogue))
    if missing:
        raise Refused("agents[%s].tools: the catalogue lacks %s" % (agent["name"], ", ".join(missing)))
    implicit = {name for name, tool in catalogue.items() if tool.get("implicit")}
    asked = "agents[%s].tools: %%s" % agent["name"]
    return ([Grant(name, "every agent has tool " + name, catalogue[name]) for name in sorted(implicit)]
            + [Grant(name, asked % name, catalogue[name]) for name in sorted(granted - implicit)])


def _placed(agent: Dict[str, Any], grants: List[Grant]) -> List[Grant]:
    """Each tool in its inner profile; one that AppArmor has no room for runs in main, unless it must not."""
    found = [grant._replace(place=_place(agent, grant)) for grant in grants]
    unfit = [grant.name for grant in found if grant.place == grant.name and not TOOL.fullmatch(grant.name)]
    if unfit:
        raise Refused("tool %s cannot lend a profile its name: use a-z, 0-9 and -, and none of main, readers, writers"
                      % ", ".join(unfit))
    fixed = {grant.place for grant in found if _exclusive(agent, grant)}
    if len(fixed) > TRANSITIONS:
        raise Refused("agents[%s].tools: %d tools hold what others must not have (%s), and AppArmor leads from one"
                      " profile to %d others at most: split the agent"
                      % (agent["name"], len(fixed), ", ".join(sorted(fixed)), TRANSITIONS))
    others = [place for place in _places(found) if place not in fixed]
    room = fixed | set(others[:TRANSITIONS - len(fixed)])
    return [grant if grant.place in room else grant._replace(place=MAIN) for grant in found]


def _place(agent: Dict[str, Any], grant: Grant) -> str:
    wanted = grant.profile
    if not wanted:
        return MAIN
    if _exclusive(agent, grant) or wanted.get("network") or wanted.get("runs"):
        return grant.name
    return WRITERS if wanted.get("workspace") == "rw" else READERS


def _exclusive(agent: Dict[str, Any], grant: Grant) -> bool:
    """Whether this tool has what nothing else may have: a socket, a key ring, a secret."""
    return bool(grant.profile.get("exclusive")) or any(grant.name in secret["tools"] for secret in agent["secrets"])


def _places(grants: List[Grant]) -> List[str]:
    """The inner profiles beside main; those that many tools share first."""
    found = {grant.place for grant in grants} - {MAIN}
    return sorted(found, key=lambda place: (place not in (READERS, WRITERS), place))


def _command(agent: Dict[str, Any], grants: Tuple[Grant, ...] | List[Grant] = ()) -> Block:
    # Through a link, e.g. venv/bin/python, the kernel asks for the program it leads to, which a tool has to grant.
    command = literal(agent["command"][0])
    elsewhere = any(command in grant.programs for grant in grants if grant.place != MAIN)
    rules = [] if elsewhere else [Rule(command, "mrx")]
    rules += [Rule(literal(path) + BELOW, "mrx") for path in agent["programs"]]
    return Block("agents[%s].command, .programs" % agent["name"], lines(rules))


def _home(agent: Dict[str, Any], access: str, execute: str = "") -> Block:
    """access: r or rw. execute: "x" where what lies there may run, and be mapped, in the same profile.

    So hooks, virtual environments and build results run. [^.] keeps the dot directories, .vault among them, out of
    what the rest of the home may do.
    """
    home, workspace = literal(agent["home"]), literal(agent["workspace"]["path"])
    mapped = "mx" if execute else ""
    own = "rwkl" + mapped if access == "rw" else "r"
    rules = [Rule(home + "/", "r"), Rule(home + "/[^.]{,**}", "r" + mapped), Rule(home + "/.ssh/{,**}", "r"),
             Rule(workspace + "/{,**}", own)]
    rules += [Rule("%s/%s/{,**}" % (home, place), own) for place in OWN]
    # Nothing in there runs: the vault is mounted noexec.
    rules += [Rule("%s/.vault/own/{,**}" % home, own.replace("mx", ""))] if agent["vault"]["writable"] else []
    return Block("agents[%s].workspace.path, and the home around it" % agent["name"], lines(rules))


def _secrets(agent: Dict[str, Any], secrets: List[Dict[str, Any]], verdict: str) -> Block:
    vault = literal(agent["home"]) + "/.vault/"
    rules = [Rule(literal(vault + secret["name"]), "r", verdict=verdict) for secret in secrets if not secret.get("broker")]
    title = "agents[%s].secrets%s" % (agent["name"], ": each read leaves a record" if verdict else "")
    return Block(title, lines(rules + [Rule(vault, "r")]) if rules else [])


def _shared(agent: Dict[str, Any], access: str) -> Block:
    workspace = agent["workspace"]
    rules = [Rule(literal(path) + BELOW, "r") for path in workspace["read_only"]]
    rules += [Rule(literal(path) + BELOW, "rwkl" if access == "rw" else "r") for path in workspace["read_write"]]
    return Block("agents[%s].workspace.read_only, .read_write" % agent["name"], lines(rules))


def _devices(agent: Dict[str, Any]) -> Block:
    limits = agent["limits"]
    rules = [Rule(literal(device), "rw") for device in limits["devices"]] + (GPU if limits["gpu"] else [])
    return Block("agents[%s].limits.devices, .gpu" % agent["name"], lines(rules))
