# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: evidence
short_description: Judge the facts of a host by checks, and arrange the result for a report
version_added: 0.1.0
author: the cordon.agent_host authors (@cordon)
description:
  - Evaluates each check, a JMESPath expression beside the expected value, over the facts that
    M(cordon.agent_host.agent_host_info) returned.
  - Needs the Python package C(jmespath) on the controller.
options:
  _input:
    description: The facts of one host.
    type: dict
    required: true
  checks:
    description: The checks, see docs/evidence.md.
    type: list
    elements: dict
    required: true
  catalogue:
    description: The frameworks and their controls, in the order of the report.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Judge the host
  ansible.builtin.debug:
    msg: "{{ host.facts | cordon.agent_host.evidence(checks, catalogue) }}"
  vars:
    checks: "{{ lookup('ansible.builtin.file', 'checks.yml') | from_yaml }}"
    catalogue: "{{ lookup('ansible.builtin.file', 'controls.yml') | from_yaml }}"
"""

RETURN = r"""
_value:
  description: The judged facts.
  type: dict
  contains:
    facts:
      description: The facts.
      type: dict
    sha256:
      description: SHA-256 of the facts as JSON with sorted keys and without spaces.
      type: str
    results:
      description: One result per check, and agent where it is an agent's. Those that need attention come first.
      type: list
      elements: dict
    summary:
      description: The number of results by status, C(pass), C(fail), C(not_enforced) and C(error).
      type: dict
    controls:
      description: The worst status of each control of ours, C(agent), C(vault), C(apparmor), C(firewall) and
        C(monitoring).
      type: dict
    matrix:
      description: Frameworks with their controls, each with its worst status and the checks that speak to it.
      type: list
      elements: dict
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.cordon.agent_host.plugins.module_utils import _checks


def evidence(facts: Mapping[str, Any], checks: Sequence[Mapping[str, Any]],
             catalogue: Mapping[str, Any]) -> dict[str, Any]:
    """Return the judged facts (shape: RETURN); AnsibleFilterError for checks that cannot be used."""
    facts, checks = plain(facts), plain(checks)
    try:
        results = _checks.evaluate(checks, facts)
    except _checks.ChecksError as problem:
        raise AnsibleFilterError(f"evidence: {problem}") from problem
    unknown = uncatalogued(checks, catalogue)
    if unknown:
        raise AnsibleFilterError("evidence: controls.yml does not list " + ", ".join(unknown))
    return {
        "facts": facts,
        "sha256": digest(facts),
        "results": sorted(results, key=_attention),
        "summary": _checks.summary(results),
        "controls": {control: _checks.worst(r["status"] for r in results if r["control"] == control)
                     for control in _checks.CONTROLS},
        "matrix": matrix(results, catalogue),
    }


def digest(facts: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON, which an auditor computes again from the file."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def plain(value: Any) -> Any:
    """Return built-in types only: jmespath asks for a value's type by name, and ansible-core 2.19's
    tagged list is called _AnsibleTaggedList."""
    return json.loads(json.dumps(value))


def matrix(results: Sequence[Mapping[str, Any]], catalogue: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Arrange the results under each framework's controls. A control without results has the status None."""
    frameworks = []
    for name, framework in catalogue.items():
        rows = []
        for number, title in framework["controls"].items():
            mine = sorted((r for r in results if number in r["controls"].get(name, [])), key=_attention)
            rows.append({"id": number, "title": title, "status": _checks.worst(r["status"] for r in mine),
                         "checks": _worst_of_each(mine)})
        frameworks.append({"id": name, "title": framework["title"], "controls": rows})
    return frameworks


def _worst_of_each(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Name each check once, with the agent on which it asks for most attention. results: attention first."""
    found: dict[str, dict[str, Any]] = {}
    for result in results:
        found.setdefault(result["id"], {key: result[key] for key in ("id", "agent", "status")})
    return list(found.values())


def uncatalogued(checks: Sequence[Mapping[str, Any]], catalogue: Mapping[str, Any]) -> list[str]:
    """Name the controls of checks that the catalogue lacks: they would be missing from the report."""
    return sorted({f"{framework} {number} (check {check['id']})" for check in checks
                   for framework, numbers in check["controls"].items() for number in numbers
                   if number not in catalogue.get(framework, {}).get("controls", {})})


def _attention(result: Mapping[str, Any]) -> tuple[int, int]:
    """Sort by status only, so that within one status the order of checks.yml stays; the host before agents."""
    return _checks.STATUSES.index(result["status"]), 0 if result["agent"] is None else 1


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Any]:
        return {"evidence": evidence}
