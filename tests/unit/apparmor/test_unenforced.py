# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a kernel leaves out is told with its control, asked of recorded kernels and of the releases' own parsers."""
from __future__ import annotations

import re

import pytest

from ansible_collections.cordon.agent_host.plugins.filter.apparmor_profiles import apparmor_profiles
from ansible_collections.cordon.agent_host.plugins.module_utils._apparmor_unenforced import (
    ABIS,
    FEATURES,
    KINDS,
    REQUIRED,
    nothing_enforced,
    refusals,
    unenforced,
    unexpected,
)

from . import parsers

WARN = ["--warn=rule-not-enforced", "--warn=rule-downgraded"]


def features(path) -> list[str]:
    """The paths in a recording by aa-features-abi: `name {content` nested, a `}` for each."""
    found, here = [], []
    for word in re.findall(r"[^\s{}]+ ?\{|\}", path.read_text()):
        if word == "}":
            here.pop()
        else:
            here.append(word.rstrip(" {"))
            found.append("/".join(here))
    return found


def texts(abi: str = "3.0") -> list[str]:
    return [f"abi <abi/{abi}>,\n\nprofile cordon.a {{\n}}\n"]


@pytest.mark.parametrize(("suite", "classes"), [
    ("bookworm", ["unix", "inet", "userns", "mqueue", "io_uring", "dbus"]),
    ("trixie", ["unix", "inet", "userns", "mqueue", "io_uring", "dbus"]),
])
def test_debian_s_kernels_hold_the_cage_and_leave_these_to_others(suite, classes):
    have = features(parsers.FEATURES[suite])
    assert refusals(have) == []
    found = unenforced(have, texts())
    assert [entry["class"] for entry in found] == classes
    assert all(entry["control"] and entry["why"] for entry in found)


def test_the_abi_decides_as_much_as_the_kernel():
    """Debian 13's kernel mediates user namespaces; a text for abi 3.0 does not ask it to."""
    have = features(parsers.FEATURES["trixie"])
    [said] = [entry["why"] for entry in unenforced(have, texts("3.0")) if entry["class"] == "userns"]
    assert said == "the profiles are written for abi 3.0, which does not speak of it"
    assert "userns" not in [entry["class"] for entry in unenforced(have, texts("4.0"))]
    assert "userns" in [entry["class"] for entry in unenforced(have, texts("4.0") + texts("3.0"))]
    assert "userns" in [entry["class"] for entry in unenforced(have, ["profile cordon.a {\n}\n"])]


def test_a_kernel_that_enforces_all_leaves_nothing():
    assert unenforced(FEATURES, texts(ABIS[-1])) == []


@pytest.mark.parametrize("missing", [path for path, _what in REQUIRED])
def test_a_kernel_without_the_layers_is_refused(missing):
    [said] = refusals([path for path in FEATURES if path != missing])
    assert f"(features/{missing})" in said


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_class_has_its_control(kind):
    assert kind.control and kind.abi in ABIS
    [said] = unenforced([path for path in FEATURES if path not in kind.features], texts(ABIS[-1]))
    assert said["class"] == kind.name and kind.features[0] in said["why"]


def test_a_host_without_apparmor_enforces_nothing():
    assert nothing_enforced("x")[0]["class"] == "everything"


def test_the_parser_says_nothing_of_our_profiles_that_is_not_listed(parser, agents, tmp_path):
    """The table against the witness: each release's parser, for its kernel, over all profiles of two agents."""
    rendered = [profile["text"] for profile in apparmor_profiles(agents)]
    for number, text in enumerate(rendered):
        (tmp_path / str(number)).write_text(text)
    base = f"--base={parser.root}/etc/apparmor.d"
    said = parser.run("--skip-kernel-load", "--skip-cache", base, *WARN, *map(str, tmp_path.iterdir())).stderr
    assert "unix" in said, "the parser is silent: this test would not notice anything"
    known = [entry["class"] for entry in unenforced(features(parsers.FEATURES[parser.suite]), rendered)]
    assert unexpected(said, known) == []
    assert unexpected(said, [name for name in known if name != "unix"]) == ["extended network unix socket"]


@pytest.mark.parametrize(("rule", "word"), [
    ("dbus,", "dbus"), ("signal,", "signal"), ("ptrace,", "ptrace"), ("mount,", "mount"), ("network inet raw,", "network"),
    ("unix (connect) peer=(label=x),", "extended network unix socket"),
])
def test_the_parser_s_words_are_understood(parser, tmp_path, rule, word):
    """A kernel that has files and capabilities only."""
    (tmp_path / "features").write_text("caps {mask {chown\n}\n}\nfile {mask {read\n}\n}\n")
    (tmp_path / "p").write_text(f"abi <abi/3.0>,\nprofile cordon.a {{\n  {rule}\n}}\n")
    said = parser.run("--skip-kernel-load", "--skip-cache", f"--base={parser.root}/etc/apparmor.d", *WARN, str(tmp_path / "p"),
                      features=tmp_path / "features").stderr
    found = unexpected(said, [])
    assert any(word in words for words in found), said
