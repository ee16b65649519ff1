# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. From what an agent was refused, or would be in enforce, to the smallest change of its
manifest or of the tool catalogue that would allow it, or to the reason why it never should be.

Pure, and nothing is decided here: a person reads each change before it is made. What the manifest would refuse is not
suggested, since every change is put before the manifest's own validation first.
"""
from __future__ import annotations

import re
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from . import _apparmor_never as never
from . import _apparmor_render
from ._apparmor_general import covers, directory, gathered, glob
from ._apparmor_match import matches
from ._apparmor_render import MAIN
from ._apparmor_suggest_text import catalogue_diff, changed, manifest_diff
from ._manifest import ManifestError, resolve

Act = Mapping[str, Any]
Agent = Mapping[str, Any]
Tools = Dict[str, Dict[str, Any]]
Suggestion = Dict[str, Any]

READ = frozenset("r")
#: What is read here belongs to a program, not to the data that an agent works on: a rule of its tool.
SYSTEM = ("/proc/", "/sys/", "/run/", "/dev/")
SCRATCH = ("/tmp/", "/var/tmp/", "/dev/shm/")
NOT_RUN = "the manifest says that what the agent wrote does not run"


class Answer(NamedTuple):
    """What would allow one act. place: the key of the manifest or of the tool's file that changes. value: what it gets."""

    kind: str
    place: str
    value: Any
    why: str


def reduced(catalogue: Mapping[str, Mapping[str, Any]]) -> Dict[str, Dict[str, Any]]:
    """The catalogue as the host keeps it (/usr/lib/cordon/tools.json) and as suggest() takes it."""
    return {name: _reduced(tool) for name, tool in sorted(catalogue.items())}


def _reduced(tool: Mapping[str, Any]) -> Dict[str, Any]:
    kept = {"packages": [], "executables": [], "helpers": [], "rules": [], "implicit": False, "profile": {}}
    return {**{key: tool.get(key) or empty for key, empty in kept.items()}, "own_profile": bool(tool.get("profile"))}


def suggest(acts: Iterable[Act], agent: Agent, tools: Tools) -> List[Suggestion]:
    """One suggestion for each change, the most frequent first, those that are never to be allowed last.

    acts: as collected (docs/burn-in.md); of a refused connection also `address`, `port` and `protocol`.
    agent: of the resolved manifest. tools: reduced(). An act that the manifest allows by now has no suggestion.
    Each: {agent, kind, change, why, acts, count, manifest, catalogue}. `manifest`: {key: what is added}, `catalogue`:
    {tool: {key: what is added}}; `change` says the same as a diff.
    """
    answers = [(act, answer) for act in acts for answer in [_answer(act, agent, tools)] if answer]
    groups: Dict[Tuple[str, str, str], List[Tuple[Act, Answer]]] = {}
    for act, answer in _settled(answers, agent, tools):
        # What is never allowed for one reason is one entry, with all paths that a line under `denied` has to name.
        key = (answer.kind, answer.place, answer.why if answer.kind == "never" else repr(answer.value))
        groups.setdefault(key, []).append((act, answer))
    found = [_suggestion(group, agent, tools) for group in groups.values()]
    return sorted(found, key=lambda one: (one["kind"] == "never", -one["count"], one["change"]))


def combined(suggestions: Sequence[Suggestion], agent: Agent) -> str:
    """All suggested changes of the manifest as one diff."""
    added: Dict[str, Any] = {}
    for one in suggestions:
        for place, value in one["manifest"].items() if one["kind"] != "never" else ():
            added[place] = added.get(place, []) + value if isinstance(value, list) else value
    return manifest_diff(agent, added) if added else ""


# --- one act ---------------------------------------------------------------------------------------


def _answer(act: Act, agent: Agent, tools: Tools) -> Optional[Answer]:
    """What would allow one act; None if it is allowed by now."""
    act = {**act, "path": never.one_process(act["path"])}
    why = never.reason(act, agent)
    if why:
        return _never(act, why)
    if act["class"] == "network":
        return _network(act, agent, tools)
    layer = _Layer(act, agent, tools)
    return layer.execution() if act["class"] == "exec" else layer.file()


def _never(act: Act, why: str) -> Answer:
    """The answer to burn-in is then a line under `denied`, unless something refuses the act in burn-in already."""
    path = str(act["path"])
    open_yet = act["class"] in ("file", "exec") and act["verdict"] == "allowed" and directory(path) == path.rstrip("/")
    open_yet = open_yet and why != never.ANSWERED
    return Answer("never", "denied", [path.rstrip("/")] if open_yet else [], why)


def _network(act: Act, agent: Agent, tools: Tools) -> Optional[Answer]:
    if act.get("address"):
        length = 128 if ":" in str(act["address"]) else 32
        entry = {"cidr": "%s/%d" % (act["address"], length), "port": act["port"], "protocol": act["protocol"]}
        return Answer("egress", "egress", [entry], "the packet filter refuses every destination that egress does not name")
    layer = _Layer(act, agent, tools)
    if layer.may("network"):
        return None
    return Answer("catalogue", layer.user, {"profile.network": True}, "the tool %s may open no connection" % layer.user)


class _Layer:
    """An act, and what its inner profile has. An act that only the cage saw counts as the main program's."""

    def __init__(self, act: Act, agent: Agent, tools: Tools) -> None:
        self.act, self.agent, self.tools = act, agent, tools
        self.path = str(act["path"])
        self.asked = set(act["access"] or "r")
        place = str(act["profile"] or "")[len("cordon.%s." % agent["name"]):] or MAIN
        placed = _apparmor_render.places(dict(agent), tools)
        self.granted = list(placed)
        self.here = [name for name, where in placed.items() if where == place]
        self.everywhere = [name for name in placed if tools[name]["implicit"] and not tools[name]["executables"]]
        # A profile that no tool has any more, since the manifest changed: whatever asks runs in main now.
        self.main = place == MAIN or not self.here

    @property
    def user(self) -> str:
        """The tool of this profile that asks; of several, the one whose program it is."""
        return min(self.here, key=lambda name: not self._runs_program_of(name))

    def may(self, right: str) -> bool:
        """Whether the profile has a right that the catalogue gives to tools: network, runs."""
        return self.main or any(self.tools[name]["profile"].get(right) for name in self.here)

    @property
    def reach(self) -> str:
        """Its access to the workspace: rw, r or none."""
        wanted = [self.tools[name]["profile"].get("workspace", "r") for name in self.here if self.tools[name]["profile"]]
        return "rw" if self.main else max(wanted)

    def execution(self) -> Optional[Answer]:
        """A program that may not be started."""
        home = self.agent["home"]
        if covers(home, self.path) or self.path.startswith(SCRATCH):
            return self._own_program()
        provider = self._provider()
        if provider and provider not in self.granted:
            return Answer("tool", "tools", [provider], "%s belongs to the tool %s" % (self.path, provider))
        if provider:
            if provider in self.here or self.may("runs"):
                return None
            return Answer("catalogue", self.user, {"profile.runs": True}, "the tool %s may start no other program" % self.user)
        why = never.program_reason(self.path)
        if why:
            return _never(self.act, why)
        if any(matches(one, self.path) for name in self.here for one in self.tools[name]["helpers"]):
            return None
        return self._unknown_program()

    def file(self) -> Optional[Answer]:
        """A file that may not be read or written."""
        if self._allowed():
            return None
        if self._only_for_owner():
            return _never(self.act, "its rule is for the agent's own files and processes, and this is somebody else's")
        if covers(self.agent["home"], self.path) or self.path.startswith(SCRATCH):
            return self._own_file()
        if self.path.startswith(SYSTEM):
            return self._system()
        if self.asked <= READ | {"m"}:
            return self._read()
        return self._data("read_write")

    def _own_program(self) -> Optional[Answer]:
        if self.path.startswith("/dev/shm/"):
            return _never(self.act, "nothing runs from shared memory; programs belong into the workspace")
        if not self.agent["workspace"]["execute"]:
            return Answer("read_write", "workspace.execute", True, NOT_RUN)
        if not self.may("runs"):
            why = "the tool %s may not start what the agent wrote" % self.user
            return Answer("catalogue", self.user, {"profile.runs": True}, why)
        return None if _place_of_own(self.path, self.agent) else _never(
            self.act, "nothing of the home runs but what lies in the workspace and in directories without a dot")

    def _unknown_program(self) -> Answer:
        why = "no tool of the catalogue brings %s" % self.path
        if self.path.startswith(SYSTEM):
            return _never(self.act, "no program lies there; " + why)
        if any(covers(one, self.path) for one in self.agent["workspace"]["read_write"]):
            return _never(self.act, "the agent can write there; its programs belong into the workspace")
        name = re.sub("[^a-z0-9.+-]", "", self.path.rpartition("/")[2].lower()).lstrip(".+-")[:64] or "program"
        return Answer("catalogue", name + "-local" if name in self.tools else name, {"new": glob(self.path)}, why)

    def _provider(self) -> Optional[str]:
        """The tool that brings a program: one that the agent has, else its namesake, else the one that brings least."""
        found = [name for name, tool in self.tools.items() if any(matches(one, self.path) for one in tool["executables"])]
        program = self.path.rpartition("/")[2]
        return min(found, default=None, key=lambda name: (
            name not in self.granted, not program.startswith(name), len(self.tools[name]["executables"]), name))

    def _allowed(self) -> bool:
        """Whether the manifest and the catalogue, as they are now, allow it."""
        workspace = self.agent["workspace"]
        reach = self.reach
        if reach != "none" and any(covers(one, self.path) for one in workspace["read_only"]) and self.asked <= READ:
            return True
        letters = set("rwkl") if reach == "rw" else READ if reach == "r" else set()
        if any(covers(one, self.path) for one in workspace["read_write"]) and self.asked <= letters:
            return True
        return any(_grants(self.tools[name], self.path, self.asked) for name in self._lending())

    def _lending(self) -> List[str]:
        """Tools whose rules stand in this profile."""
        return [*self.everywhere, *self.here]

    def _only_for_owner(self) -> bool:
        return any(_grants(self.tools[name], self.path, self.asked, owner=True) for name in self._lending())

    def _own_file(self) -> Optional[Answer]:
        """In the home or the scratch space: main has all that can be had there."""
        if not self.main and not self.asked & set("mx"):
            wanted = "rw" if self.asked & set("wkl") else "r"
            if self.reach == "rw" or wanted == self.reach:
                return self._outside_home()
            why = "the tool %s has access %s to the workspace" % (self.user, self.reach)
            return Answer("catalogue", self.user, {"profile.workspace": wanted}, why)
        if not self.main:
            return _never(self.act, "what the agent wrote is never mapped into a tool that has rights of its own")
        if self.asked & set("mx") and not self.agent["workspace"]["execute"]:
            return Answer("read_write", "workspace.execute", True, NOT_RUN)
        return self._outside_home()

    def _outside_home(self) -> Answer:
        home = self.agent["home"]
        if self.path.startswith(SCRATCH):
            return _never(self.act, "there an agent has its own files only, and this one is somebody else's")
        places = "%s, %s" % (self.agent["workspace"]["path"], ", ".join(home + one for one in ("/.cache", "/.config", "/.local")))
        return _never(self.act, "the home around the workspace belongs to root. Write below " + places)

    def _system(self) -> Answer:
        if self.path.startswith("/dev/") and self.asked <= set("rw") and self.main:
            return Answer("read_write", "limits.devices", [self.path], "a device that the manifest does not name")
        if self.asked & set("wkl"):
            return _never(self.act, "it changes the kernel's or a daemon's state")
        return self._rule("it is read by a program, not data that the agent works on")

    def _read(self) -> Answer:
        provider = self._reader()
        if provider:
            return Answer("tool", "tools", [provider], "%s is read by programs of the tool %s" % (self.path, provider))
        system = self.path.startswith(("/etc/", "/usr/", "/var/lib/"))
        if "m" in self.asked or (not self.main and (system or self.reach == "none")):
            return self._rule("it is part of the program")
        return self._data("read_only")

    def _reader(self) -> Optional[str]:
        """A tool that the agent lacks, and whose rules, once it has it, let the main program read this."""
        if not self.main:
            return None
        found = [name for name, tool in self.tools.items()
                 if name not in self.granted and not tool["own_profile"] and _grants(tool, self.path, self.asked)]
        return min(found, default=None, key=lambda name: (
            not self._runs_program_of(name), len(self.tools[name]["executables"]) + len(self.tools[name]["rules"]), name))

    def _runs_program_of(self, tool: str) -> bool:
        program = str(self.act["program"] or "")
        return any(matches(one, program) for one in self.tools[tool]["executables"])

    def _rule(self, why: str) -> Answer:
        """A rule for the tool whose program asks; for all of them if that is none of the catalogue's."""
        user = next((name for name in self.here if self._runs_program_of(name)), "base" if self.main else self.user)
        entry: Dict[str, Any] = {"path": glob(self.path), "access": "".join(one for one in "mrwkl" if one in self.asked)}
        if entry["path"].startswith("/proc/[0-9]*/"):
            entry["owner"] = True
        return Answer("catalogue", user, {"rules": [entry]}, why)

    def _data(self, kind: str) -> Answer:
        named = any(covers(one, self.path) for one in self.agent["workspace"]["read_write"])
        if named and kind == "read_write" and self.reach != "rw":
            return Answer("catalogue", self.user, {"profile.workspace": "rw"}, "the tool %s may write no data" % self.user)
        what = "read" if kind == "read_only" else "written"
        return Answer(kind, "workspace." + kind, [self.path], "no line of the manifest lets it be " + what)


def _place_of_own(path: str, agent: Agent) -> bool:
    """Whether something there runs, as far as the home and the scratch space go."""
    inside = path[len(agent["home"]) + 1:] if covers(agent["home"], path) else ""
    return not inside.startswith(".") or inside.startswith((".cache/", ".config/", ".local/"))


def _grants(tool: Mapping[str, Any], path: str, asked: Iterable[str], owner: bool = False) -> bool:
    """Whether a tool's rules allow this; owner: those that are for own files only."""
    about = [one for one in tool["rules"] if bool(one.get("owner")) == owner and matches(one["path"], path)]
    had = {letter for one in about for letter in one["access"]}
    if not owner and any(matches(one, path) for one in tool["executables"]):
        had |= set("mrx")
    return set(asked) <= had


# --- all acts together -----------------------------------------------------------------------------


def _settled(answers: List[Tuple[Act, Answer]], agent: Agent, tools: Tools) -> List[Tuple[Act, Answer]]:
    """Paths of the manifest gathered into as few as possible, and what the manifest refuses turned into never."""
    chosen = {}
    for kind in ("read_only", "read_write"):
        paths = [answer.value[0] for _act, answer in answers if answer.place == "workspace." + kind]
        chosen[kind] = _places(paths, kind, agent, tools)
    return [(act, _settle(act, answer, chosen, agent, tools)) for act, answer in answers]


def _places(paths: List[str], kind: str, agent: Agent, tools: Tools) -> List[str]:
    stable = {_stable(path, kind, agent, tools) for path in paths}
    parents = {path.rpartition("/")[0] for path in stable}
    accepted = {one for one in parents if one and not refusal(agent, "workspace." + kind, [one], tools)}
    return gathered(stable, accepted)


def _stable(path: str, kind: str, agent: Agent, tools: Tools) -> str:
    """The nearest directory with a lasting name, or the path itself where that is too much to give."""
    found = directory(path)
    whole = path.rstrip("/")
    return whole if found != whole and refusal(agent, "workspace." + kind, [found], tools) else found


def _settle(act: Act, answer: Answer, chosen: Mapping[str, List[str]], agent: Agent, tools: Tools) -> Answer:
    answer = _placed(answer, chosen)
    why = None if answer.kind == "catalogue" else refusal(agent, answer.place, answer.value, tools)
    if why:
        return answer._replace(value=[]) if answer.kind == "never" else _never(act, why)
    return answer


def _placed(answer: Answer, chosen: Mapping[str, List[str]]) -> Answer:
    """A path's answer with the entry that stands for it; what is to be written anyway needs no second line to be read."""
    kinds = {"workspace.read_only": ("read_write", "read_only"), "workspace.read_write": ("read_write",)}
    for kind in kinds.get(answer.place, ()):
        entry = next((one for one in chosen[kind] if covers(one, answer.value[0])), None)
        if entry:
            return answer._replace(kind=kind, place="workspace." + kind, value=[entry])
    return answer


def refusal(agent: Agent, place: str, value: Any, tools: Tools) -> Optional[str]:
    """Why the manifest would refuse this addition, in its own words; None if it takes it."""
    names = {name: bool(tool["own_profile"]) for name, tool in tools.items()}
    before, after = (_problems([one], names) for one in (agent, changed(agent, {place: value})))
    return next((line.partition(": ")[2] for line in after if line not in before), None)


def _problems(agents: List[Any], names: Dict[str, bool]) -> List[str]:
    try:
        resolve(agents, names)
    except ManifestError as error:
        return error.problems
    return []


def _suggestion(group: List[Tuple[Act, Answer]], agent: Agent, tools: Tools) -> Suggestion:
    kind, place, value, why = group[0][1]
    acts = [act for act, _answer in group]
    catalogue: Dict[str, Any] = {}
    if kind == "catalogue":
        catalogue, change = {place: value}, catalogue_diff(place, value, tools.get(place))
        manifest: Dict[str, Any] = {"tools": [place]} if "new" in value else {}
    else:
        if kind == "never":
            value = sorted({path for _act, answer in group for path in answer.value})
        manifest = {place: value} if value else {}
        change = manifest_diff(agent, manifest) if manifest else ""
    # An agent chooses the names of its files: nothing in a line for people may be more than a line.
    why = "".join(one if one.isprintable() else "?" for one in why)
    return {"agent": agent["name"], "kind": kind, "change": change, "why": why, "acts": acts,
            "count": sum(act.get("count", 1) for act in acts), "manifest": manifest, "catalogue": catalogue}
