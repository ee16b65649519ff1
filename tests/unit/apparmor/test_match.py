# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Globs mean what the parser makes of them, and a path seen once stands for the ones that will be seen."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.cordon.agent_host.plugins.module_utils._apparmor_general import directory, gathered, glob
from ansible_collections.cordon.agent_host.plugins.module_utils._apparmor_match import matches
from ansible_collections.cordon.agent_host.plugins.module_utils._apparmor_rules import pattern


@pytest.mark.parametrize(
    ("rule", "yes", "no"),
    [
        ("/a/*", ["/a/b"], ["/a/", "/a/b/c", "/a"]),
        ("/a/**", ["/a/b", "/a/b/c", "/a/b/"], ["/a/", "/a"]),
        ("/a/{,**}", ["/a/", "/a/b/c"], ["/a"]),
        ("/a{,/,/**}", ["/a", "/a/", "/a/b"], ["/ab"]),
        ("/usr/bin/python3.[0-9]*", ["/usr/bin/python3.11"], ["/usr/bin/python3.x", "/usr/bin/python3.1/x"]),
        ("/[^.]{,**}", ["/x", "/xy/z"], ["/.vault/x"]),
        ("/usr/bin/\\[", ["/usr/bin/["], ["/usr/bin/x"]),
        ("/**/.ssh/**", ["/a/.ssh/x", "/a/b/.ssh/c/d"], ["/.sshx/a", "/a/.ssh/"]),
        ("/a.b", ["/a.b"], ["/axb"]),
        ("/{a,b{c,d}}/x", ["/a/x", "/bc/x", "/bd/x"], ["/b/x"]),
        ("/a?", ["/ab"], ["/a", "/a/"]),
    ],
)
def test_a_pattern(rule: str, yes: list[str], no: list[str]) -> None:
    assert [path for path in yes if not matches(rule, path)] == []
    assert [path for path in no if matches(rule, path)] == []


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/usr/lib/python3.11/site.py", "/usr/lib/python3.[0-9]*/site.py"),
        ("/usr/lib/libx.so.1.2.3", "/usr/lib/libx.so.1.[0-9]*"),
        ("/usr/lib/postgresql/15/bin/psql", "/usr/lib/postgresql/[0-9]*/bin/psql"),
        ("/usr/lib/x86_64-linux-gnu/gconv/x", "/usr/lib/*-linux-gnu/gconv/x"),
        ("/proc/1234/stat", "/proc/[0-9]*/stat"),
        ("/proc/[0-9]*/task/[0-9]*/stat", "/proc/[0-9]*/task/*/stat"),
        ("/opt/3f2504e0-4f89-11d3-9a0c-0305e82c3301/x", "/opt/*/x"),
        ("/opt/cache/5d41402abc4b2a76b9719d911017c592", "/opt/cache/*"),
        ("/data/tmpab12cd34/x", "/data/tmp*/x"),
        ("/data/run.Ab12Cd", "/data/run.*"),
        ("/data/1700000000.log", "/data/[0-9]*.log"),
        ("/opt/a b/x", "/opt/*/x"),
        ("/opt/readme.txt", "/opt/readme.txt"),
        ("/etc/fstab", "/etc/fstab"),
    ],
)
def test_a_path_as_a_glob(path: str, expected: str) -> None:
    assert glob(path) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/data/in/x.csv", "/data/in/x.csv"),
        ("/data/in/", "/data/in"),
        ("/data/job-123456/out", "/data"),
        ("/data/python3.11/x", "/data/python3.11/x"),
        ("/data/a b", "/data"),
        ("/1234567", "/"),
    ],
)
def test_a_path_for_the_manifest(path: str, expected: str) -> None:
    assert directory(path) == expected


PATHS = st.text(st.characters(min_codepoint=1, max_codepoint=0x2FF), min_size=1, max_size=30).map(
    lambda text: "/" + "/".join(part for part in text.split("/") if part)
)


@settings(deadline=None)
@given(PATHS)
def test_a_glob_is_allowed_in_the_catalogue_and_matches_the_path_itself(path: str) -> None:
    assert matches(pattern(glob(path)), path)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["/d/a", "/d/b", "/d/c", "/d/d/x", "/e/a", "/d", "/e/b", "/e/c"]), min_size=1))
def test_gathered_paths_cover_all_and_none_twice(paths: list[str]) -> None:
    found = gathered(paths, {"/d", "/e"})
    assert all(any(path == one or path.startswith(one + "/") for one in found) for path in paths)
    assert not any(one != other and one.startswith(other + "/") for one in found for other in found)


def test_siblings_stay_single_where_their_directory_is_refused() -> None:
    assert gathered(["/etc/a", "/etc/b", "/etc/c"], set()) == ["/etc/a", "/etc/b", "/etc/c"]
