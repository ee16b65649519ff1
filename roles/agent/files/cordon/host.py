# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""This host as the tools see it: its manifest, its facts, its checks judged."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any, Dict, List, Optional, Tuple

from . import _checks, _facts

MANIFEST = "/etc/cordon/manifest.json"
CHECKS = "/etc/cordon/checks.json"
TIMEOUT = 30  # seconds; nft and systemctl answer in one


class HostError(Exception):
    """This host cannot answer; the message says why and what to do."""


def run(argv: List[str], data: Optional[str] = None) -> Tuple[int, str, str]:
    """Run a command in the C locale; return its exit code, standard output and standard error."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            argv,
            input=data,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, "", f"{argv[0]} did not answer within {TIMEOUT} s"
    except OSError as error:
        return 127, "", str(error)
    return done.returncode, done.stdout, done.stderr


def load(path: str) -> Any:
    """A record of this host; HostError where it is missing or damaged."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        raise HostError(
            f"{path} is missing: this host is not provisioned. Run the playbook cordon.agent_host.site."
        ) from None
    except PermissionError:
        raise HostError(f"{path} is for root: use sudo.") from None
    except ValueError as error:
        raise HostError(f"{path} is damaged ({error}): run the playbook cordon.agent_host.site.") from None


def agents() -> List[Dict[str, Any]]:
    """The resolved manifest that this host was provisioned with."""
    found: List[Dict[str, Any]] = load(MANIFEST)["agents"]
    return found


def require(name: str) -> Dict[str, Any]:
    """One agent of the manifest; HostError that lists the others."""
    listed = {agent["name"]: agent for agent in agents()}
    if name not in listed:
        raise HostError(
            f"there is no agent {name!r} on this host; it has: {', '.join(sorted(listed)) or 'none'}"
        )
    return listed[name]


def judge(
    agent: Optional[str] = None, preflight: bool = False
) -> Tuple[Dict[str, Any], List[Dict[str, Any]]]:
    """Read the kernel and the system once and judge them: facts and check results."""
    checks = load(CHECKS)
    facts = _facts.collect(run, agent=agent, preflight=preflight)
    try:
        return facts, _checks.evaluate(checks, facts, agent=agent, preflight=preflight)
    except _checks.ChecksError as error:
        raise HostError(str(error)) from error
