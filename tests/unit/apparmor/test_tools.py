# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalogue as data: every file has the shape that docs/apparmor.md gives it, and no two contradict each other."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils._apparmor_rules import pattern, rule
from ansible_collections.cordon.agent_host.plugins.plugin_utils._catalogue import load_catalogue

CATALOGUE = load_catalogue()
REPOSITORY = Path(__file__).resolve().parents[3]
REQUIRED = {"name", "description", "packages", "executables", "rules", "proof"}
OPTIONAL = {"implicit", "profile", "helpers", "environment"}
PROFILE = {"reason", "exclusive", "network", "runs", "workspace"}
IMPLICIT = {"base", "coreutils", "shell"}
# The commands of a proof that is a shell script, of which the tool is one.
EVERYBODY = {"sh", "cd", "echo", "printf", "mktemp", "grep", "test", "cmp", "diff", "true"}
# What Debian's links lead to: AppArmor sees the program, the proof says what people type.
LINKS = {
    "psql": "/usr/share/postgresql-common/pg_wrapper", "pg_dump": "/usr/share/postgresql-common/pg_wrapper",
    "npm": "/usr/share/nodejs/npm/bin/npm-cli.js",
    "vim": "/usr/bin/vim.basic", "ctags": "/usr/bin/ctags-universal", "mysql": "/usr/bin/mariadb",
    "java": "/usr/lib/jvm/java-17-openjdk-amd64/bin/java", "gofmt": "/usr/lib/go-1.19/bin/gofmt", "go": "/usr/lib/go-1.19/bin/go",
    "fdfind": "/usr/lib/cargo/bin/fd", "php": "/usr/bin/php8.2",
}
each_tool = pytest.mark.parametrize("tool", CATALOGUE.values(), ids=list(CATALOGUE))


def plain(path: str) -> Iterator[str]:
    """The pattern's alternatives, {a,b}, written out; * and [ ] stay."""
    found = re.search(r"\{([^{}]*)\}", path)
    if found is None:
        yield path
        return
    for choice in found.group(1).split(","):
        yield from plain(path[: found.start()] + choice + path[found.end():])


def paths(tool: dict[str, Any], *keys: str) -> set[str]:
    return {one for key in keys for path in tool.get(key, []) for one in plain(path)}


def words(argv: list[str]) -> list[str]:
    """The first word of each command that the proof starts."""
    if argv[:2] != ["sh", "-c"]:
        return [argv[0]]
    script = re.sub(r"'[^']*'|\"[^\"]*\"", "QUOTED", argv[2])
    return ["sh"] + [part.split()[0].rstrip(")") for part in re.split(r"&&|\||;|\{|d=\$\(", script) if part.strip(" }\n")]


def test_there_are_enough_of_them_and_few_that_everybody_has():
    assert len(CATALOGUE) >= 33
    assert {name for name, tool in CATALOGUE.items() if tool.get("implicit")} == IMPLICIT


@each_tool
def test_the_keys_are_those_that_the_renderer_reads(tool):
    assert set(tool) >= REQUIRED
    assert set(tool) <= REQUIRED | OPTIONAL
    assert re.fullmatch(r"[a-z][a-z0-9-]*", tool["name"])
    assert re.search(r"[.!]$|[.]shell$", tool["description"])
    assert tool["packages"] == list(dict.fromkeys(tool["packages"])) != []
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", package) for package in tool["packages"])
    assert all(isinstance(word, str) for word in tool["proof"]) and tool["proof"]


@each_tool
def test_its_environment_keeps_state_where_the_agent_may_write(tool):
    for name, value in tool.get("environment", {}).items():
        assert re.fullmatch(r"[A-Za-z_]+", name) and isinstance(value, str)
        assert "{home}" not in value or value.startswith(("{home}/.cache/", "{home}/.local/"))
        assert sum(name in other.get("environment", {}) for other in CATALOGUE.values()) == 1, "two tools set it"


@each_tool
def test_its_paths_and_rules_are_policy(tool):
    for path in tool["executables"] + tool.get("helpers", []):
        pattern(path)
    for entry in tool["rules"]:
        assert "x" not in entry["access"] or tool["name"] in IMPLICIT, "what may be executed is in executables"
        rule(entry)


@each_tool
def test_an_own_profile_says_why_and_what(tool):
    if "profile" not in tool:
        assert "helpers" not in tool
        return
    profile = tool["profile"]
    assert set(profile) <= PROFILE
    assert re.match(r"[a-z]+ .{20}", profile["reason"]), "it is read as: it ..."
    assert profile.get("workspace", "r") in ("r", "rw", "none")
    assert all(isinstance(profile.get(key, False), bool) for key in ("exclusive", "network", "runs"))
    # A writable place to execute from would give away what the profile keeps.
    assert not [entry for entry in tool["rules"] if "w" in entry["access"] and set("mx") & set(entry["access"])]
    # An interpreter would run whatever the agent wrote with the profile's rights; mapping one for a script is not that.
    interpreters = {"/usr/bin/dash", "/usr/bin/bash", "/usr/bin/perl", "/usr/bin/python3", "/usr/bin/node", "/usr/bin/env"}
    assert not paths(tool, "executables", "helpers") & interpreters


@each_tool
def test_its_proof_runs_the_tool(tool):
    started = {LINKS.get(word, word if word[0] == "/" else f"/usr/bin/{word}") for word in words(tool["proof"])}
    if tool["executables"]:
        assert any(fnmatchcase(path, own) for path in started for own in paths(tool, "executables"))
    for path in started:
        known = Path(path).name in EVERYBODY or any(fnmatchcase(path, own) for own in paths(tool, "executables"))
        assert known, f"{path} is not part of {tool['name']}"


def test_no_program_has_two_places_to_run_in():
    owners = [(place(tool), path) for tool in CATALOGUE.values() for path in sorted(paths(tool, "executables"))]
    for (one, left), (other, right) in itertools.combinations(owners, 2):
        assert one == other or not overlap(left, right), f"{left} in {one} and {right} in {other}: one exec, two targets"


def test_a_helper_that_others_have_too_is_the_same_pattern_there():
    for tool in CATALOGUE.values():
        for other in CATALOGUE.values():
            if place(tool) == place(other):
                continue
            for helper, path in itertools.product(tool.get("helpers", []), other["executables"]):
                same = any(overlap(left, right) for left in plain(helper) for right in plain(path))
                assert helper == path or not same, f"{helper} of {tool['name']} and {path} of {other['name']}"


def place(tool: dict[str, Any]) -> str:
    """The inner profile that the tool runs in: one for all that only read, one for all that write, else its own."""
    profile = tool.get("profile")
    if profile is None:
        return "main"
    if {"exclusive", "network", "runs"} & {key for key, value in profile.items() if value}:
        return str(tool["name"])
    return "writers" if profile.get("workspace") == "rw" else "readers"


def overlap(left: str, right: str) -> bool:
    """Whether a path may match both: exact for plain paths, by the part before the first glob for two patterns."""
    heads = [re.split(r"[*?\[\\]", path)[0] for path in (left, right)]
    if heads == [left, right]:
        return left == right
    if heads[0] == left:
        return fnmatchcase(left, right)
    if heads[1] == right:
        return fnmatchcase(right, left)
    return heads[0].startswith(heads[1]) or heads[1].startswith(heads[0])


def test_the_reference_lists_every_tool():
    table = (REPOSITORY / "docs" / "tools.md").read_text("utf-8").split("\n## ")[0]
    assert re.findall(r"^\| `([a-z0-9-]+)` \|", table, re.MULTILINE) == sorted(CATALOGUE)
