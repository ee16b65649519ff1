# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. Is each process of an agent's user confined as it must be? What cordon-watch decides by.

Root alone can start a process of an agent outside its unit: systemd-run --uid, runuser, a removed profile. Nothing
in the kernel refuses that, so it is looked for.
"""

from __future__ import annotations

from typing import Any, Dict, Hashable, Iterable, List, Mapping, NamedTuple, Optional, Tuple

from ._services import owner

HOMES = "/srv/agents/"
PREFIX = "agent-"
# systemd sets the user before the label, and the label comes with the exec (systemd.exec(5)): so long its child is
# the agent's user, unconfined. Since 254 the child is systemd-executor.
SYSTEMD = tuple(
    "%s/lib/systemd/%s" % (top, name) for top in ("", "/usr") for name in ("systemd", "systemd-executor")
)
START_SECONDS = 30  # a start on a host that is busy enough to swap; nothing of the agent runs before its exec
# A mode that site.yml changed reaches a running process by the restart at the end of that run.
MODE_SECONDS = 300


class Process(NamedTuple):
    """What /proc says of one process. program, cgroup and parent are for people, and to know a start by."""

    pid: int
    started: int  # ticks since boot: with the pid it names one process for ever
    user: str
    program: str
    label: Optional[str]
    mode: Optional[str]
    profiles: Tuple[str, ...]  # the layers of the label
    cgroup: str
    parent: str

    @property
    def key(self) -> Tuple[int, int]:
        """Names this process and no other of this boot."""
        return self.pid, self.started


class Finding(NamedTuple):
    """What is wrong with a process, and for how many seconds that may be a start or a change under way."""

    problem: str
    patience: float


class Policy(NamedTuple):
    """The expectations: agents of the manifest by user, the record of what was loaded, what drifted from it.

    labelled: whether the kernel labels processes here at all. False where the host was accepted without AppArmor.
    """

    agents: Mapping[str, Mapping[str, Any]]
    record: Mapping[str, Mapping[str, Any]]
    drifted: Mapping[str, str]
    labelled: bool


def users(passwd: str, agents: Iterable[Mapping[str, Any]]) -> Dict[int, str]:
    """{uid: user} of the manifest's agents, and of those that left it.

    Another agent-* account, whose home is not below ours, is somebody else's.
    """
    listed = {agent["user"] for agent in agents}
    rows = [line.split(":") for line in passwd.splitlines()]
    return {
        int(row[2]): row[0]
        for row in rows
        if len(row) == 7 and (row[0] in listed or (row[0].startswith(PREFIX) and row[5].startswith(HOMES)))
    }


def judge(process: Process, policy: Policy) -> Optional[Finding]:
    """What is wrong with a process of one of these users; None where it is as it must be."""
    agent = policy.agents.get(process.user)
    if agent is None:
        return Finding("no agent of the manifest has this user", 0)
    if not policy.labelled:
        return None
    layers, cage = process.profiles, "cordon." + agent["name"]
    if len(layers) == 2 and layers[0] == cage and layers[1].startswith(cage + "."):
        return _mode(process, agent, policy)
    if _starting(process, agent["name"], cage):
        return Finding("it was started, and has not come into its profiles", START_SECONDS)
    return Finding("it is outside the confinement of agent %s" % agent["name"], 0)


def _mode(process: Process, agent: Mapping[str, Any], policy: Policy) -> Optional[Finding]:
    learning = (
        agent["mode"] == "burn_in" or policy.record.get(process.profiles[1], {}).get("mode") == "complain"
    )
    if process.mode == "enforce" or (process.mode == "mixed" and learning):
        return None
    # Neither label nor mode comes back to a running process, so what a changed profile made of it stays.
    changed = any(name in policy.drifted for name in process.profiles)
    return Finding("its profiles do not enforce as they must", 0 if changed else MODE_SECONDS)


def _starting(process: Process, agent: str, cage: str) -> bool:
    """Whether it is in a unit of the agent, and either still systemd's child, or in the cage and not yet beyond."""
    if agent not in (owner(part) for part in process.cgroup.split("/")):
        return False
    if process.label in (None, "unconfined"):
        return process.program.partition(" (deleted)")[0] in SYSTEMD
    return process.profiles == (cage,) and process.mode == "enforce"


class Patience:
    """Remembers since when each finding holds."""

    def __init__(self) -> None:
        self._since: Dict[Hashable, float] = {}

    def spent(self, found: Mapping[Hashable, Finding], now: float) -> List[Hashable]:
        """Keys of the findings that have lasted longer than they may; forgets what is no longer found."""
        self._since = {key: self._since.get(key, now) for key in found}
        return [key for key, finding in found.items() if now - self._since[key] >= finding.patience]


def describe(process: Process, finding: Finding) -> str:
    """One process in one line."""
    label = "unconfined" if process.label is None else process.label
    return "pid %d %s, label %s%s, started by %s in %s: %s" % (
        process.pid, process.program, label, " (%s)" % process.mode if process.mode else "", process.parent,
        process.cgroup, finding.problem,
    )  # fmt: skip


def by_agent(
    drifted: Iterable[Mapping[str, str]], agents: Iterable[str]
) -> Dict[Optional[str], List[Mapping[str, str]]]:
    """Drifted profiles under the agent that they confine; None for one that is of no agent."""
    known, found = set(agents), {}  # type: Tuple[Any, Dict[Optional[str], List[Mapping[str, str]]]]
    for one in drifted:
        name = (one["profile"].split(".") + [""])[1]
        found.setdefault(name if name in known else None, []).append(one)
    return found


def shorten(lines: List[str], most: int = 5) -> str:
    """Lines as one sentence, the number of the rest instead of the rest."""
    return "; ".join(lines[:most] + (["and %d more" % (len(lines) - most)] if len(lines) > most else []))
