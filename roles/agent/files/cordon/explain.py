# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""cordonctl explain: may an agent reach a place, by which line of its manifest, and what would allow it."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Tuple

from . import _egress, _egress_explain, host, words
from ._apparmor_suggest_text import flow
from ._manifest import DEFAULTS

WAYS = {
    _egress_explain.DIRECT: "straight to the address",
    _egress_explain.BY_NAME: "straight to an address that its resolver answered with",
    _egress_explain.BY_PROXY: "through its proxy",
    _egress_explain.SERVICE: "over loopback",
}
WIDTH = 12  # of the words in front


def report(name: str, destination: str, port: Optional[int] = None, protocol: Optional[str] = None) -> Dict[str, Any]:
    """The answer as data; its shape: _egress_explain.explain()."""
    host.require(name)
    try:
        target = _egress_explain.read(destination, port, protocol)
    except _egress_explain.ExplainError as error:
        raise host.HostError(str(error)) from error
    return _egress_explain.explain(host.agents(), name, target)


def line(entry: Mapping[str, Any]) -> str:
    """An entry of egress as a person writes it, without what the manifest fills in."""
    kept = {key: value for key, value in entry.items() if key == "port" or value != DEFAULTS.get(f"egress[].{key}", key)}
    by_default = "https" if "name" in entry and entry.get("port", 443) == 443 else "tcp"
    if kept.get("protocol") == by_default:
        del kept["protocol"]
    if "name" in entry and kept.get("port") == 443:
        del kept["port"]
    return str(flow(kept))


def text(found: Mapping[str, Any]) -> str:
    """The answer for a terminal."""
    place = found["host"] if found["address"] in (None, found["host"]) else f"{found['host']} ({found['address']})"
    may = "may reach" if found["allowed"] else "may NOT reach"
    lines = [words.plain(f"{found['agent']} {may} {place}, port {found['port']} ({found['protocol']})", words.LONGEST * 2)]
    rows = [("way", WAYS[found["way"]])] if found["allowed"] else []
    if found["decided_by"]:
        rows.append(("decided by", f"{found['decided_by']['path']}: {line(found['decided_by']['entry'])}"))
    rows.append(("because", found["because"]))
    if found["never"]:
        rows.append(("to allow it", "nothing can"))
    elif found["to_allow"]:
        rows.append(("to allow it", f"add to the egress of {found['agent']}: {line(found['to_allow'])}"))
    rows += [("note", note) for note in found["notes"]]
    return "\n".join(lines + [_row(name, said) for name, said in rows])


def _row(name: str, said: str) -> str:
    return f"    {(name + ':').ljust(WIDTH)} {words.plain(said, 400)}"


# --- What was refused on the network, for cordonctl denials --------------------------------------------

#: What the proxy says of a connection that it refused, and whether a line of the manifest can help.
BY_PROXY = {
    "method": "the proxy connects https only (CONNECT): a plain http request is refused",
    "request": "the name is granted, but not this request: its method, its path or its query",
    "host": "the request inside the connection was for another host than the connection: no line allows that",
    "sni": "the TLS handshake named another host than CONNECT, or none: no line allows that",
    "unresolved": "the name had no address that the agent may be led to: none at all, or private ones that the entry's"
                  " networks do not grant",
}  # fmt: skip


def denied(act: Mapping[str, Any], agents: List[Dict[str, Any]], agent: Mapping[str, Any]) -> Dict[str, Any]:
    """The answer to an act of class network that was refused, with a remark for people.

    act: with address or name, port, protocol, reason; `name` also where the resolver led the agent to this address.
    """
    dns = act["operation"] == "resolve"
    port, protocol = _looked_up(agent, str(act["name"])) if dns else (act.get("port"), _said(act))
    target = _egress_explain.read(str(act.get("name") or act["address"]), port, protocol)
    found = _egress_explain.explain(agents, agent["name"], target)
    remarks = [BY_PROXY[str(act["detail"])]] if act.get("detail") in BY_PROXY else []
    if act.get("request") and found["decided_by"]:
        place = found["decided_by"]["path"]
        remarks.append(f"to allow it: add {act['request']!r} to the requests of {place}, with its query if it has one")
    remarks += found["notes"] if not found["allowed"] else _although(found, act, dns)
    if dns and act.get("detail"):
        remarks.insert(0, f"the resolver's reason: {act['detail']}")
    if dns and found["to_allow"]:
        remarks.append("it only asked for the name: where it wants another port than 443, write that port")
    return {**found, "remark": "; ".join(remarks)}


def _said(act: Mapping[str, Any]) -> Optional[str]:
    """The protocol to ask for; where the resolver led to the address, an https line of that name counts too."""
    return None if act.get("name") and act["protocol"] == "tcp" else act["protocol"]


def _looked_up(agent: Mapping[str, Any], name: str) -> Tuple[Optional[int], Optional[str]]:
    """Port and protocol of the agent's line for a name that it asked the resolver for, which tells neither."""
    entry = _egress.entry_for(_egress.direct_names(agent), name) or _egress.entry_for(_egress.https_names(agent), name)
    return (entry["port"], entry["protocol"]) if entry else (None, None)


def _although(found: Mapping[str, Any], act: Mapping[str, Any], dns: bool) -> List[str]:
    """Why something is refused that the manifest allows."""
    decided = (found["decided_by"] or {}).get("path", "its names")
    if dns and found["way"] == _egress_explain.BY_PROXY:
        return [f"{decided} grants it through the proxy, which resolves it: this program asks DNS itself, so it does not"
                " use https_proxy"]
    if act["reason"] == "filtered":
        return [f"{decided} grants the name, but not to lead there: add the network to its networks, if it is the service's"]
    if dns:
        return [f"{decided} grants the name; of names only the types A and AAAA are answered"]
    if act.get("address") and found["way"] == _egress_explain.BY_PROXY:
        return [f"{decided} grants it through the proxy only: this program does not use https_proxy"]
    if act.get("detail") in BY_PROXY:
        return []
    return [f"{decided} grants it by now: it happened before the last change, or beside the resolver's answers"]
