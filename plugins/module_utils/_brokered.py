# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. Secrets that the egress proxy adds to requests, as the part of squid.conf that holds them.

Pure. The text is sealed by systemd-creds and exists in the clear only in the memory-backed directory of
cordon-proxy.service, which the proxy's user and root read. It stands by itself: whom and where a value is for is in the
same text, so no change of squid.conf, and no agent that is gone, leads a value to another host.
"""

from __future__ import annotations

import base64
import re
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

CREDENTIAL = "brokered"  # systemd's name for it, which systemd-creds seals into it
SEALED = "/etc/cordon/proxy/brokered.cred"
INCLUDED = f"/run/credentials/cordon-proxy.service/{CREDENTIAL}"

# squid ends at a quoted word that is longer (CONFIG_LINE_LIMIT in its ConfigParser.h), and with it the proxy of all agents.
LONGEST = 2047
_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")
_HEAD = re.compile(r"^# ([a-z][a-z0-9_]*)/([a-z][a-z0-9_]*)$", re.M)


class Secret(NamedTuple):
    """One secret that the manifest has brokered: whose it is, and where it goes."""

    agent: str
    name: str
    host: str
    port: int
    header: str
    prefix: str
    user: Optional[str]

    @property
    def path(self) -> str:
        """The secret in messages, and in the text."""
        return f"{self.agent}/{self.name}"

    @property
    def shown(self) -> str:
        """Where it goes, for people."""
        return f"{self.header} to {self.host}:{self.port}"


class Change(NamedTuple):
    """One secret that differs: what a diff says of it, never its value."""

    name: str
    before: str
    after: str


def declared(agents: Iterable[Mapping[str, Any]]) -> List[Secret]:
    """The brokered secrets of a resolved manifest, sorted."""
    return sorted(Secret(agent["name"], secret["name"], **secret["broker"])
                  for agent in agents for secret in agent.get("secrets", ()) if secret.get("broker"))


def mistakes(secrets: Sequence[Secret], values: Mapping[str, Any]) -> List[str]:
    """What is wrong with the values, by the path of each; no value is ever part of a message."""
    found = []
    for secret in secrets:
        given = values.get(secret.agent)
        value = given.get(secret.name) if isinstance(given, Mapping) else None
        wrong = _mistake(secret, value)
        if wrong:
            found.append(f"{secret.agent}.{secret.name}: {wrong}")
    return found


def _mistake(secret: Secret, value: Any) -> str:
    if value is None:
        return "no value; the manifest declares it, so give one from your secret store"
    if not isinstance(value, str):
        return f"the value is of type {type(value).__name__}, not text: put it in quotes"
    if not value:
        return "the value is empty"
    if not _VALUE.fullmatch(value):
        return ("the value has a line break, a space at an end or another character that no header holds: take it away in the "
                "lookup, e.g. by the filter trim")
    length = len(_formatted(_field(secret, value)))
    if length > LONGEST:
        return f"the header would have {length} characters, of which squid reads {LONGEST}; a % counts as two"
    return ""


def render(secrets: Sequence[Secret], values: Mapping[str, Mapping[str, str]]) -> str:
    """The text that squid includes.

    Each secret has lists of its own for its agent's listener, host and port. What the agent sends in that header is taken
    away, then the secret is added (request_header_access, request_header_add). Only to requests inside an opened connection:
    squid gives the CONNECT by which it asks another proxy for a way the headers of the request that needs the way
    (Http::Tunneler), and that goes in the clear.
    """
    lines = [
        "acl broker.opened connections_encrypted",
        "acl broker.connect method CONNECT",
        "acl broker.asks at_step GeneratingCONNECT",
    ] if secrets else []
    for number, secret in enumerate(secrets):
        name = f"broker.{number}"
        where = f"{name}.agent {name}.host {name}.port broker.opened !broker.connect !broker.asks"
        lines += [
            f"# {secret.path}",
            f"acl {name}.agent myportname agent.{secret.agent}.tls",
            f"acl {name}.host dstdomain -n {secret.host}",
            f"acl {name}.port port {int(secret.port)}",
            f"request_header_access {secret.header} deny {where}",
            f'request_header_add {secret.header} "{_escaped(_field(secret, values[secret.agent][secret.name]))}" {where}',
        ]
    return "".join(f"{line}\n" for line in lines)


def _field(secret: Secret, value: str) -> str:
    """The header's value; with a user, RFC 7617."""
    if secret.user is None:
        return secret.prefix + value
    return "Basic " + base64.b64encode(f"{secret.user}:{value}".encode()).decode("ascii")


def _escaped(text: str) -> str:
    # squid replaces ${process_name} and the like before all else, then takes the quotes away and reads \ as an escape.
    return _formatted(text).replace("\\", "\\\\").replace('"', '\\"').replace("${", "$\\{")


def _formatted(text: str) -> str:
    # What is in the quotes is a logformat, in which % begins a code.
    return text.replace("%", "%%")


def parts(text: str) -> Dict[str, str]:
    """The text of each secret by its path, without the number that its place gave it."""
    heads = list(_HEAD.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    return {f"{head[1]}/{head[2]}": re.sub(r"\bbroker\.\d+\.", "broker.", text[head.end():end]) for head, end in zip(heads, ends)}


def changes(wanted: str, present: Optional[str]) -> List[Change]:
    """What differs between two texts; present: None for one that cannot be unsealed."""
    new, old = parts(wanted), parts(present or "")
    lost = "absent" if present is not None else "unreadable"
    found = [Change(path, "set" if path in old else lost, "set to another value or place" if path in old else "set")
             for path in sorted(new) if new[path] != old.get(path)]
    return found + [Change(path, "set", "removed") for path in sorted(set(old) - set(new))]


def diff(found: Sequence[Change]) -> Dict[str, str]:
    """Changes as Ansible's diff: names and states, never values."""
    return {"before": "".join(f"{change.name}: {change.before}\n" for change in found),
            "after": "".join(f"{change.name}: {change.after}\n" for change in found)}


def split(agents: Iterable[Mapping[str, Any]], values: Mapping[str, Any]) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """The operator's values: those for the vaults, and those for the proxy. What nobody declares stays with the vaults'."""
    brokered = {(secret.agent, secret.name) for secret in declared(agents)}
    vaults: Dict[str, Any] = {}
    proxy: Dict[str, Any] = {}
    for agent, given in values.items():
        if not isinstance(given, Mapping):
            vaults[agent] = given
            continue
        vaults[agent] = {name: value for name, value in given.items() if (agent, name) not in brokered}
        proxy[agent] = {name: value for name, value in given.items() if (agent, name) in brokered}
    return vaults, proxy
