# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. The manifest: from what the inventory says to what every role relies on.

resolve() is the whole of it: defaults filled in, every mistake found, each with its path and the remedy. It
is pure, and resolving a resolved manifest changes nothing, so each role may resolve on its own. Reference:
docs/manifest.md.
"""

from __future__ import annotations

from typing import Any, Collection, Dict, List, Mapping, Tuple

from . import _egress as by_name
from . import _manifest_broker as brokered
from ._manifest_network import read_api, read_cidr, read_host, read_private_network, read_request
from ._manifest_place import Place, near, show
from ._manifest_values import (
    DAYS,
    INNER_SANDBOX,
    MODES,
    NAME,
    PROTOCOLS,
    PROTOCOLS_BY_NAME,
    UNCONFINED,
    UNLOCK,
    Reader,
    choice,
    command_in,
    list_of,
    number_to,
    read_cpu,
    read_data_path,
    read_device,
    read_environment,
    read_flag,
    read_idle,
    read_memory,
    read_name,
    read_output_path,
    read_path,
    read_port,
    read_program_path,
    read_replay,
    read_secret_name,
    read_silence,
    read_tasks,
    read_text,
)

#: What a key is worth when it is left out, by its place below one agent. The only table of defaults: the
#: reference and the JSON Schema are tested against it. Other keys are mandatory, derived, or one of a choice.
DEFAULTS: Dict[str, Any] = {
    "tools": [],
    "programs": [],
    "environment": {},
    "workspace": {},
    "workspace.read_only": [],
    "workspace.read_write": [],
    "workspace.execute": True,
    "denied": [],
    "inner_sandbox": "deny",
    "secrets": [],
    "secrets[].tools": [],
    "secrets[].broker": None,
    "secrets[].broker.port": 443,
    "secrets[].broker.prefix": "",
    "secrets[].broker.user": None,
    "vault": {},
    "vault.unlock": "sealed",
    "vault.writable": False,
    "vault.idle": None,
    "egress": [],
    "egress[].port": 443,
    "egress[].log": True,
    "egress[].inspect": False,
    "egress[].networks": [],
    "egress[].requests": [],
    "critical_apis": [],
    "limits": {},
    "limits.cpu": "200%",
    "limits.memory": "4G",
    "limits.tasks": 512,
    "limits.gpu": False,
    "limits.devices": [],
    "monitoring": {},
    "monitoring.silence": "4h",
    "monitoring.unconfined": "stop",
    "burn_in": {},
    "burn_in.days": 14,
    "burn_in.active_days": 3,
    "burn_in.replay": [],
    "mode": "burn_in",
}

#: `protocol: ssh` is written for people: it is tcp, and only its default port differs.
SSH_PORT = 22
HTTPS_PORT = 443
DESTINATIONS = 16384  # of one agent; ten thousand are resolved and rendered within two seconds

USER_PREFIX = "agent-"
HOMES = "/srv/agents"


class ManifestError(ValueError):
    """The manifest has mistakes; problems holds one line for each."""

    def __init__(self, problems: List[str]) -> None:
        count = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
        super().__init__("\n".join([f"{count} in the manifest:", *problems]))
        self.problems = problems


def resolve(agents: Any, tools: Mapping[str, bool], root: str = "agents") -> List[Dict[str, Any]]:
    """The resolved manifest: every key present, plain types only.

    agents: the list as the inventory gives it.
    tools: names of the tools that the catalogue knows, and whether each has an AppArmor profile of its own.
    root: how messages call the list, e.g. "agent_host_agents".
    Raises ManifestError with every mistake at once.
    """
    place = Place(root)
    resolved = list_of(lambda value, at: _agent(value, at, tools))(agents, place)
    _refuse_shared_names(resolved, place)
    if place.problems:
        raise ManifestError(place.problems)
    return resolved


def _refuse_shared_names(resolved: List[Dict[str, Any]], place: Place) -> None:
    first: Dict[str, int] = {}
    for index, agent in enumerate(resolved):
        name = agent.get("name")
        if name and first.setdefault(name, index) != index:
            place.item(index).member("name").refuse(
                f"{name} is the name of {place.item(first[name]).path} already",
                "give each agent its own name; it owns a user, a vault and a profile",
            )


def _agent(value: Any, place: Place, tools: Mapping[str, bool]) -> Dict[str, Any]:
    given = value.get("name") if isinstance(value, dict) else None
    name = given if isinstance(given, str) and NAME.fullmatch(given) else "NAME"
    home = f"{HOMES}/{name}"
    readers: Dict[str, Reader[Any]] = {
        "name": read_name,
        "user": _Derived(f"{USER_PREFIX}{name}"),
        "home": _Derived(home),
        "command": command_in(home),
        "tools": _tools(tools),
        "programs": list_of(read_program_path, str),
        "environment": read_environment,
        "workspace": _record({"path": _Derived(f"{home}/workspace"), **WORKSPACE}),
        "denied": list_of(read_path, str),
        "inner_sandbox": choice(INNER_SANDBOX),
        "secrets": list_of(_record({**SECRET, "tools": _tools(tools)}), lambda secret: secret["name"]),
        "vault": _record(VAULT),
        "egress": list_of(_egress, _destination, DESTINATIONS),
        "critical_apis": list_of(read_api, str),
        "limits": _record(LIMITS),
        "monitoring": _record({"silence": read_silence, "unconfined": choice(UNCONFINED)}),
        "mode": choice(MODES),
        "burn_in": _record(BURN_IN),
    }
    before = len(place.problems)
    resolved = _record(readers)(value, place)
    if len(place.problems) == before:
        _refuse_contradictions(resolved, place, tools)
        _inspect_critical_apis(resolved, value, place)
        _inspect_brokered(resolved, value, place)
    return resolved


def _refuse_contradictions(agent: Dict[str, Any], place: Place, tools: Mapping[str, bool]) -> None:
    """What each key alone cannot tell."""
    brokered.refuse_contradictions(agent["secrets"], place.member("secrets"))
    for index, secret in enumerate(agent["secrets"]):
        for tool in secret["tools"]:
            _refuse_reader(tool, agent["tools"], place.member("secrets").item(index).member("tools"), tools)
            if agent["inner_sandbox"] == "allow":
                place.member("inner_sandbox").refuse(
                    f"an agent that mounts reads the secret {secret['name']} by another path than its tools do",
                    "leave inner_sandbox out, or the secret's tools",
                )
    if agent["burn_in"]["active_days"] > agent["burn_in"]["days"]:
        place.member("burn_in").member("active_days").refuse(
            f"{agent['burn_in']['active_days']} active days do not fit into {agent['burn_in']['days']}",
            "use at most burn_in.days",
        )
    for path in sorted(set(agent["workspace"]["read_only"]) & set(agent["workspace"]["read_write"])):
        place.member("workspace").member("read_write").refuse(
            f"{path} is in read_only too", "leave it in one of the two"
        )


def _inspect_critical_apis(agent: Dict[str, Any], given: Dict[str, Any], place: Place) -> None:
    """Have the proxy look at what critical APIs answer. given: the agent as the inventory has it."""
    entries = by_name.https_names(agent)
    for index, api in enumerate(agent["critical_apis"]):
        ports = sorted({entry["port"] for entry in entries if by_name.matches(entry["name"], api)})
        if not ports:
            place.member("critical_apis").item(index).refuse(
                f"{api} is none of the agent's https names, so nobody sees what it answers",
                f"add {{name: {api}}} to egress, with protocol: https if its port is not {HTTPS_PORT}, or take it out here",
            )
        for port in ports:
            entry = by_name.entry_for(entries, api, port)
            if entry:
                number = next(index for index, other in enumerate(agent["egress"]) if other is entry)
                _inspect(agent, given, number, (f"{api} is one of critical_apis, and what it answers is seen only where it is"
                                                " inspected", "take the name out of critical_apis"), place)


def _inspect_brokered(agent: Dict[str, Any], given: Dict[str, Any], place: Place) -> None:
    """Have the proxy open what it is to add a secret to."""
    for index, secret in enumerate(agent["secrets"]):
        broker = secret["broker"]
        number = brokered.entry_of(broker, agent["egress"]) if broker else None
        if number is not None:
            _inspect(agent, given, number, (f"the proxy adds the secret {secret['name']} to its requests, and must open them",
                                            "take broker out of the secret"), place)
        elif broker:
            port = "" if broker["port"] == HTTPS_PORT else f", port: {broker['port']}, protocol: https"
            place.member("secrets").item(index).member("broker").member("host").refuse(
                f"{broker['host']}:{broker['port']} is none of the agent's https names, written out",
                f"add {{name: {broker['host']}{port}}} to egress; a wildcard is not enough, the secret is for one host",
            )


def _inspect(agent: Dict[str, Any], given: Dict[str, Any], number: int, why: Tuple[str, str], place: Place) -> None:
    """why: the reason, and what to do instead."""
    # The resolved manifest has true; who writes false himself must hear that he cannot have both.
    if given["egress"][number].get("inspect") is False:
        place.member("egress").item(number).member("inspect").refuse(
            f"false, but {why[0]}", f"leave inspect out, or {why[1]}"
        )
    agent["egress"][number]["inspect"] = True


def _refuse_reader(tool: str, granted: List[str], place: Place, tools: Mapping[str, bool]) -> None:
    if not tools.get(tool):
        with_profile = ", ".join(sorted(name for name in granted if tools.get(name)))
        place.refuse(
            f"{tool} has no profile of its own, so whatever the agent runs could read the secret",
            f"use one of this agent's tools that have one ({with_profile or 'none yet'}), or leave tools out",
        )
    elif tool not in granted:
        place.refuse(f"the agent does not have the tool {tool}", f"add {tool} to the agent's tools")


WORKSPACE: Dict[str, Reader[Any]] = {
    "read_only": list_of(read_data_path, str),
    "read_write": list_of(read_output_path, str),
    "execute": read_flag,
}
BURN_IN: Dict[str, Reader[Any]] = {
    "days": number_to(DAYS, "a number of days"),
    "active_days": number_to(DAYS, "a number of days"),
    "replay": list_of(read_replay),
}
BROKER: Dict[str, Reader[Any]] = {
    "host": read_api,
    "port": read_port,
    "header": brokered.read_header,
    "prefix": brokered.read_prefix,
    "user": brokered.read_user,
}
SECRET: Dict[str, Reader[Any]] = {
    "name": read_secret_name,
    "broker": lambda value, place: None if value is None else _record(BROKER)(value, place),
}
VAULT: Dict[str, Reader[Any]] = {
    "unlock": choice(UNLOCK),
    "writable": read_flag,
    "idle": read_idle,
}
LIMITS: Dict[str, Reader[Any]] = {
    "cpu": read_cpu,
    "memory": read_memory,
    "tasks": read_tasks,
    "gpu": read_flag,
    "devices": list_of(read_device, str),
}
BY_CIDR: Dict[str, Reader[Any]] = {
    "cidr": read_cidr,
    "port": read_port,
    "protocol": choice(PROTOCOLS),
    "log": read_flag,
}
BY_NAME: Dict[str, Reader[Any]] = {
    "name": read_host,
    "port": read_port,
    "protocol": choice(PROTOCOLS_BY_NAME),
    "log": read_flag,
    "inspect": read_flag,
    "networks": list_of(read_private_network, str),
    "requests": list_of(read_request, str),
}


class _Derived:
    """A reader of a key that only the collection chooses. What it would be anyway is accepted."""

    def __init__(self, expected: str) -> None:
        self.expected = expected

    def __call__(self, value: Any, place: Place) -> str:
        if value != self.expected:
            place.refuse(f"{show(value)} cannot be chosen", f"leave the key out; it is {self.expected}")
        return self.expected


def _record(readers: Dict[str, Reader[Any]]) -> Reader[Dict[str, Any]]:
    """A reader of a mapping that has these keys and no others; what is left out takes its default."""

    def read(value: Any, place: Place) -> Dict[str, Any]:
        if not isinstance(value, dict):
            example = next(key for key in readers if not isinstance(readers[key], _Derived))
            place.refuse(f"{show(value)} is not a mapping", f"write keys and values, {{{example}: ...}}")
            return {}
        _refuse_unknown(value, place, readers)
        return {key: _member(value, place.member(key), key, reader) for key, reader in readers.items()}

    return read


def _refuse_unknown(value: Dict[Any, Any], place: Place, readers: Dict[str, Reader[Any]]) -> None:
    for key in value:
        if key not in readers:
            place.refuse(f"unknown key {show(key)}", near(key, readers))


def _member(value: Dict[Any, Any], place: Place, key: str, reader: Reader[Any]) -> Any:
    if key in value:
        return reader(value[key], place)
    if isinstance(reader, _Derived):
        return reader.expected
    if place.key in DEFAULTS:
        return reader(DEFAULTS[place.key], place)
    place.refuse("it is missing", MANDATORY[place.key])
    return None


MANDATORY: Dict[str, str] = {
    "name": "every agent has a name, e.g. autopilot",
    "command": "write what the agent runs, [/absolute/path/to/program, argument, ...]",
    "secrets[].name": "write the secret's name; its value stays in the operator's secret store",
    "secrets[].broker.host": "write whose requests get the secret, e.g. api.example.org",
    "secrets[].broker.header": "write the header that carries the secret, e.g. Authorization",
    "egress[].cidr": "write where to, e.g. {name: api.example.org} or {cidr: 10.20.0.0/24, port: 5432}",
}


def _egress(value: Any, place: Place) -> Dict[str, Any]:
    """One allowed destination. Exactly one of cidr and name says where; ssh becomes tcp."""
    if not isinstance(value, dict):
        return _record(BY_CIDR)(value, place)
    if "name" in value and "cidr" in value:
        place.refuse("it has both cidr and name", "write one entry for each")
        return _record({**BY_CIDR, **BY_NAME})(_with_protocol(value), place)
    if "name" not in value:
        return _record(BY_CIDR)(_without_names_keys(_with_protocol(value), place), place)
    entry = _record(BY_NAME)(_with_protocol(value), place)
    if entry["inspect"] and entry["protocol"] in ("tcp", "udp"):
        place.member("inspect").refuse(
            f"only https can be inspected, and the protocol is {entry['protocol']}",
            "write protocol: https, or leave inspect out",
        )
    if entry["requests"] and not entry["inspect"]:
        place.member("requests").refuse("the proxy sees requests only where it inspects", "write inspect: true beside it")
    return entry


def _with_protocol(value: Dict[Any, Any]) -> Dict[Any, Any]:
    if value.get("protocol") == "ssh":
        return {"port": SSH_PORT, **value, "protocol": "tcp"}
    by_proxy = "name" in value and value.get("port", HTTPS_PORT) == HTTPS_PORT
    return {"protocol": "https" if by_proxy else "tcp", **value}


def _without_names_keys(value: Dict[Any, Any], place: Place) -> Dict[Any, Any]:
    """Say what a key is for that only a name can have, instead of that it is unknown."""
    for key in sorted((set(BY_NAME) - set(BY_CIDR)).intersection(value)):
        place.member(key).refuse("it is for names, and this entry has a cidr", "leave it out, or write name")
    if value["protocol"] == "https":
        place.member("protocol").refuse("https is for names, and this entry has a cidr", "write tcp")
        value = {**value, "protocol": "tcp"}
    return {key: item for key, item in value.items() if key in BY_CIDR or key not in BY_NAME}


def _destination(entry: Dict[str, Any]) -> Tuple[Any, ...]:
    """What makes two entries one: the way to a name does not count, since one name cannot have two."""
    return entry.get("cidr"), entry.get("name"), entry["port"], entry["protocol"] == "udp"


def _tools(known: Collection[str]) -> Reader[List[str]]:
    def read_tool(value: Any, place: Place) -> str:
        text = read_text(value, place, empty=False)
        if text and text not in known:
            place.refuse(f"the catalogue has no tool {show(text)}", near(text, known))
        return text

    def read(value: Any, place: Place) -> List[str]:
        return sorted(list_of(read_tool, str)(value, place))

    return read
