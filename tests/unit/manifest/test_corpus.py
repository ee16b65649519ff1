# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter and the JSON Schema judge one corpus of manifests, and agree."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ansible.errors import AnsibleFilterError

from ansible_collections.cordon.agent_host.plugins.filter.agents import agents as resolve

HERE = Path(__file__).resolve().parent
SCHEMA = json.loads((HERE.parents[2] / "docs" / "manifest.schema.json").read_text(encoding="utf-8"))
CORPUS = yaml.safe_load((HERE / "corpus.yml").read_text(encoding="utf-8"))
SMALLEST = {"name": "smallest", "command": ["/usr/bin/true"]}


def ecma_pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Any:
    """Editors read patterns as ECMAScript, where $ is the very end; Python's $ also stands before a line break."""
    if isinstance(instance, str) and not re.search(pattern.replace("$", r"\Z"), instance):
        yield jsonschema.ValidationError(f"{instance!r} does not match {pattern!r}")


VALIDATOR = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": ecma_pattern})(SCHEMA)


def manifest(case: dict[str, Any]) -> Any:
    return copy.deepcopy(case["agents"] if "agents" in case else [{**SMALLEST, **case["agent"]}])


def schema_accepts(agents: Any) -> bool:
    # what a person writes in YAML reaches an editor's validator as JSON
    return bool(VALIDATOR.is_valid({"agent_host_agents": json.loads(json.dumps(agents, default=str))}))


def cases(kind: str) -> list[Any]:
    return [pytest.param(case, id=case["title"]) for case in CORPUS[kind]]


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("case", cases("valid"))
def test_both_accept(case: dict[str, Any]) -> None:
    agents = manifest(case)
    resolved = resolve(agents)
    assert [agent["name"] for agent in resolved] == [agent["name"] for agent in agents]
    assert schema_accepts(agents)


@pytest.mark.parametrize("case", cases("valid"))
def test_resolving_a_resolved_manifest_changes_nothing(case: dict[str, Any]) -> None:
    resolved = resolve(manifest(case))
    assert resolve(resolved) == resolved
    assert schema_accepts(resolved)


@pytest.mark.parametrize("case", cases("invalid"))
def test_the_filter_names_every_mistake(case: dict[str, Any]) -> None:
    with pytest.raises(AnsibleFilterError) as caught:
        resolve(manifest(case))
    count, *lines = str(caught.value).splitlines()
    says = case["says"]
    assert count.startswith("1 mistake in" if len(says) == 1 else f"{len(says)} mistakes in"), lines
    for line, expected in zip(lines, says, strict=True):
        assert line.startswith(expected)


@pytest.mark.parametrize("case", cases("invalid"))
def test_the_schema_refuses_too(case: dict[str, Any]) -> None:
    assert schema_accepts(manifest(case)) is ("filter_only" in case)
