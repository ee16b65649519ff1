# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference and the JSON Schema say what the code does: the same keys, defaults and refusals."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from ansible_collections.cordon.agent_host.plugins.filter.agents import agents as resolve
from ansible_collections.cordon.agent_host.plugins.module_utils import _manifest
from ansible_collections.cordon.agent_host.plugins.module_utils import _manifest_refused as refused

DOCS = Path(__file__).resolve().parents[3] / "docs"
REFERENCE = (DOCS / "manifest.md").read_text(encoding="utf-8")
SCHEMA = json.loads((DOCS / "manifest.schema.json").read_text(encoding="utf-8"))
AGENT = SCHEMA["$defs"]["agent"]
SMALLEST: dict[str, Any] = {"name": "a", "command": ["/bin/true"]}


def schema_keys(schema: dict[str, Any], above: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key below one agent with its schema, as ("egress[].port", {...})."""
    for key, member in schema.get("properties", {}).items():
        yield above + key, member
        yield from schema_keys(member, f"{above}{key}.")
        yield from schema_keys(member.get("items", {}), f"{above}{key}[].")
        for choice in member.get("anyOf", []):
            yield from schema_keys(choice, f"{above}{key}.")


KEYS = dict(schema_keys(AGENT))


def resolved_keys(value: dict[str, Any], above: str = "") -> Iterator[str]:
    for key, member in value.items():
        yield above + key
        if isinstance(member, dict) and key != "environment":
            yield from resolved_keys(member, f"{above}{key}.")
        for item in member if isinstance(member, list) else []:
            if isinstance(item, dict):
                yield from resolved_keys(item, f"{above}{key}[].")


def rows() -> dict[str, list[str]]:
    """The table of keys: key -> its other cells."""
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in REFERENCE.splitlines()]
    return {row[0].strip("`| "): row[1:] for row in cells if row[0].startswith("`") and len(row) == 4}


def accepted(agent: dict[str, Any]) -> bool:
    return bool(jsonschema.Draft202012Validator(SCHEMA).is_valid({"agent_host_agents": [{**SMALLEST, **agent}]}))


def test_the_schema_has_the_defaults_of_the_code() -> None:
    assert {key: member["default"] for key, member in KEYS.items() if "default" in member} == _manifest.DEFAULTS


def test_the_schema_has_every_key_that_the_filter_returns_and_no_other() -> None:
    egress = [{"cidr": "192.0.2.1"}, {"name": "a.org"}]
    secrets = [{"name": "a"}, {"name": "b", "broker": {"host": "a.org", "header": "Authorization"}}]
    (agent,) = resolve([{**SMALLEST, "secrets": secrets, "egress": egress}])
    assert set(KEYS) == set(resolved_keys(agent))


def test_every_key_of_the_schema_says_what_it_means() -> None:
    assert [key for key, member in KEYS.items() if not member.get("description")] == []


def test_the_reference_has_every_key_of_the_schema_and_no_other() -> None:
    assert set(rows()) == set(KEYS)


@pytest.mark.parametrize("key", sorted(_manifest.DEFAULTS))
def test_the_reference_has_the_default_of_the_code(key: str) -> None:
    assert yaml.safe_load(rows()[key][1].strip("`")) == _manifest.DEFAULTS[key]


@pytest.mark.parametrize("key", sorted(set(KEYS) - set(_manifest.DEFAULTS)))
def test_the_reference_has_no_default_where_the_code_has_none(key: str) -> None:
    assert rows()[key][1] in {"mandatory", "derived", "none"}


def names(table: refused.Refusals) -> list[str]:
    return [name for _reason, names in table for name in names]


@pytest.mark.parametrize("name", names(refused.ENVIRONMENT))
def test_the_schema_refuses_the_variables_that_the_filter_refuses(name: str) -> None:
    assert not accepted({"environment": {name.replace("*", "X"): "x"}})
    assert accepted({"environment": {"X" + name.replace("*", ""): "x"}})


@pytest.mark.parametrize("path", names(refused.PATHS) + [f"/srv/x/{name}" for name in refused.CREDENTIAL_DIRECTORIES])
def test_the_schema_refuses_the_paths_that_the_filter_refuses(path: str) -> None:
    assert not accepted({"workspace": {"read_only": [path]}})
    assert not accepted({"workspace": {"read_only": [path + "/x"]}})
    assert accepted({"workspace": {"read_only": ["/x" + path + "x"]}})


@pytest.mark.parametrize("path", names(refused.OUTPUT_PATHS))
def test_the_schema_refuses_to_write_where_the_filter_does(path: str) -> None:
    assert not accepted({"workspace": {"read_write": [path]}})
    assert not accepted({"workspace": {"read_write": [path + "/x"]}})
    assert accepted({"workspace": {"read_write": ["/x" + path + "x"]}})


@pytest.mark.parametrize("path", names(refused.PROGRAM_PATHS))
def test_the_schema_refuses_to_run_what_the_filter_refuses(path: str) -> None:
    assert not accepted({"programs": [path]})
    assert not accepted({"programs": [path + "/x"]})
    assert accepted({"programs": ["/x" + path + "x", "/usr/local/bin/x"]})


@pytest.mark.parametrize(
    "path",
    names(refused.PATHS)
    + names(refused.OUTPUT_PATHS)
    + names(refused.PROGRAM_PATHS)
    + [f"any directory {n}" for n in refused.CREDENTIAL_DIRECTORIES],
)
def test_the_reference_lists_the_refused_paths(path: str) -> None:
    section = REFERENCE[REFERENCE.index("### Paths") : REFERENCE.index("### Environment")]
    listed = set(re.findall(r"`([^`]+)`", section)) | {"/etc/shadow-", "/etc/gshadow-"}  # "and their backups"
    assert path.split()[-1] in listed


@pytest.mark.parametrize("beginning", names(refused.DEVICES))
def test_the_schema_refuses_the_devices_that_the_filter_refuses(beginning: str) -> None:
    assert not accepted({"limits": {"devices": [beginning + "0"]}})


def examples(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", REFERENCE, re.DOTALL)


def test_the_examples_of_the_reference_resolve() -> None:
    manifests = [yaml.safe_load(text) for text in examples("yaml") if "agent_host_agents" in text]
    assert [len(resolve(manifest["agent_host_agents"])) for manifest in manifests] == [1, 1]
    for manifest in manifests:
        jsonschema.validate(manifest, SCHEMA, jsonschema.Draft202012Validator)


def test_the_mistakes_of_the_reference_are_what_the_filter_says() -> None:
    agents = [
        {**SMALLEST, "limits": {"memory": 4096}},
        {**SMALLEST, "name": "b", "egres": [], "tools": ["gti"]},
    ]
    with pytest.raises(_manifest.ManifestError) as caught:
        _manifest.resolve(agents, {"git", "python"})
    (shown,) = examples("text")
    assert shown == f"{caught.value}\n"


def test_the_inventory_of_the_readme_resolves() -> None:
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    (inventory,) = (text for text in re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL) if "agent_host_agents" in text)
    manifest = yaml.safe_load(inventory)["all"]["vars"]["agent_host_agents"]
    assert len(resolve(manifest)) == 1
    jsonschema.validate({"agent_host_agents": manifest}, SCHEMA, jsonschema.Draft202012Validator)
