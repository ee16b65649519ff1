# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""cordonctl: the hand tool of the person on call."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from datetime import datetime, timedelta, timezone
from typing import List

from . import _checks, burn_in, denials, events, explain, gate, host, sessions, status, unlock, vaults

DURATION = re.compile(r"([0-9]+)([smhd])")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def since(text: str) -> str:
    """A duration such as 30m, 4h or 2d as the ISO 8601 UTC time that long ago; a time as it is."""
    match = DURATION.fullmatch(text)
    if match:
        moment = datetime.now(timezone.utc) - timedelta(**{UNITS[match[2]]: int(match[1])})
        return moment.strftime("%Y-%m-%dT%H:%M:%S")
    if re.match(r"\d{4}-\d{2}-\d{2}", text):
        return text
    raise argparse.ArgumentTypeError(f"{text!r}: write for example 30m, 4h, 2d or 2026-11-23T04:00")


def _status(options: argparse.Namespace) -> int:
    chosen = [host.require(options.agent)] if options.agent else host.agents()
    facts, results = host.judge(options.agent)
    found = status.report(chosen, facts, results)
    print(json.dumps(found, indent=2) if options.json else status.text(found))
    bad = found["summary"][_checks.FAIL] + found["summary"][_checks.ERROR]
    return 1 if bad else 0


def _events(options: argparse.Namespace) -> int:
    if options.agent:
        host.require(options.agent)
    try:
        found = events.read(options.since, options.agent, options.denied)
    except OSError as error:
        raise host.HostError(
            f"the event log cannot be read: {error}. See 'systemctl status cordon-events'."
        ) from error
    print("\n".join(json.dumps(event) for event in found) if options.json else events.rows(found))
    return 0


def _denials(options: argparse.Namespace) -> int:
    agent = host.require(options.agent)
    try:
        found = denials.report(agent, options.since, agents=host.agents())
    except OSError as error:
        raise host.HostError(
            f"the event log cannot be read: {error}. See 'systemctl status cordon-events'."
        ) from error
    print(json.dumps(found, indent=2) if options.json else denials.text(agent, options.since, found))
    return 0


def _secrets(options: argparse.Namespace) -> int:
    found = vaults.read([host.require(options.agent)] if options.agent else host.agents())
    print(json.dumps(found, indent=2) if options.json else vaults.text(found))
    return 0 if vaults.readable(found) else 1


def _explain(options: argparse.Namespace) -> int:
    found = explain.report(options.agent, options.destination, options.port, options.protocol)
    print(json.dumps(found, indent=2) if options.json else explain.text(found))
    return 0 if found["allowed"] else 1


def _burn_in(options: argparse.Namespace) -> int:
    if options.notify:
        print("\n".join(gate.notify(burn_in.chosen(options.agent))) or "no agent is ready to leave burn-in")
        return 0
    found = [burn_in.report(agent) for agent in burn_in.chosen(options.agent)]
    shown = "\n\n".join(map(burn_in.text, found)) or "no agent of this host is in burn-in"
    print(json.dumps(found, indent=2) if options.json else shown)
    return 0


def _run(options: argparse.Namespace) -> int:
    host.require(options.agent)
    if not options.command:
        raise host.HostError(f"nothing to run: write cordonctl run {options.agent} -- COMMAND")
    return sessions.run(options.agent, options.command, terminal=sys.stdin.isatty() and sys.stdout.isatty())


def _shell(options: argparse.Namespace) -> int:
    host.require(options.agent)
    return sessions.shell(options.agent)


def _unlock(options: argparse.Namespace) -> int:
    try:
        if options.list:
            print(json.dumps(unlock.states(), indent=2))
            return 0
        if options.json:
            return unlock.several()
        if not options.agent:
            raise host.HostError("which vault? Write cordonctl unlock NAME")
        return unlock.one(options.agent)
    except unlock.Refused as refused:
        print(f"cordonctl: {refused}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cordonctl", description="See and use the confined AI agents of this host."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    show = commands.add_parser(
        "status", help="each agent's controls as the kernel has them; exit code 1 when one fails"
    )
    show.add_argument("agent", nargs="?", help="only this agent")
    show.add_argument("--json", action="store_true", help="the same as data")
    show.set_defaults(act=_status)

    log = commands.add_parser("events", help="what agents did, from the event log")
    log.add_argument("agent", nargs="?", help="only this agent")
    log.add_argument("--since", type=since, default=since("1h"), help="30m, 4h, 2d or a UTC time; default 1h")
    log.add_argument("--denied", action="store_true", help="only what was denied")
    log.add_argument("--json", action="store_true", help="one event a line, as data")
    log.set_defaults(act=_events)

    refused = commands.add_parser("denials", help="what an agent was refused, by whom and why, and what would allow it")
    refused.add_argument("agent")
    refused.add_argument("--since", type=since, default=since("1h"), help="30m, 4h, 2d or a UTC time; default 1h")
    refused.add_argument("--json", action="store_true", help="the same as data")
    refused.set_defaults(act=_denials)

    kept = commands.add_parser("secrets", help="which secrets agents have, whether they can be read now, and how to open a"
                               " closed vault; exit code 1 when one cannot be read")
    kept.add_argument("agent", nargs="?", help="only this agent")
    kept.add_argument("--json", action="store_true", help="the same as data")
    kept.set_defaults(act=_secrets)

    why = commands.add_parser("explain", help="whether an agent may reach a host, which line decides, what would allow it;"
                              " exit code 1 when it may not")
    why.add_argument("agent")
    why.add_argument("destination", metavar="HOST[:PORT]", help="a name, an address or a URL; the port is 443 unless given")
    why.add_argument("--port", type=int, help="the same as :PORT")
    why.add_argument("--protocol", choices=["https", "tcp", "udp", "ssh"], help="where the port does not tell")
    why.add_argument("--json", action="store_true", help="the same as data")
    why.set_defaults(act=_explain)

    burning = commands.add_parser(
        "burn-in", help="what agents in burn-in did that enforce would refuse, and what would allow it"
    )
    burning.add_argument("agent", nargs="?", help="only this agent")
    burning.add_argument("--json", action="store_true", help="the same as data")
    burning.add_argument("--notify", action="store_true", help="only leave an alert for each agent that is ready to be promoted")
    burning.set_defaults(act=_burn_in)

    opening = commands.add_parser(
        "unlock", help="open the vault of an agent with an operator's password, from the terminal or standard input;"
        " exit code 1 while it stays closed"
    )
    opening.add_argument("agent", nargs="?")
    opening.add_argument("--json", action="store_true", help='several: {"AGENT": "PASSWORD"} on standard input, outcomes as data')
    opening.add_argument("--list", action="store_true", help="only tell which vaults an operator opens, and which are locked")
    opening.set_defaults(act=_unlock)

    run = commands.add_parser(
        "run", help="run a command as the agent, confined like its service: run NAME -- COMMAND"
    )
    run.add_argument("agent")
    run.add_argument("command", nargs="*")
    run.set_defaults(act=_run)

    shell = commands.add_parser("shell", help="open a shell as the agent, confined like its service")
    shell.add_argument("agent")
    shell.set_defaults(act=_shell)
    return parser


def main(arguments: List[str]) -> int:
    """Entry point; exit code 2 for a call that cannot be served."""
    options = _parser().parse_args(arguments)
    if os.geteuid() != 0:
        print(
            "cordonctl: only root may read the kernel's policy and start sessions: use sudo", file=sys.stderr
        )
        return 2
    try:
        return int(options.act(options))
    except host.HostError as error:
        print(f"cordonctl: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
