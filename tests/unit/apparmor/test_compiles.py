# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the module calls the parser, with the parser of each release: what comes out, and what it says of mistakes."""
from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ansible_collections.cordon.agent_host.plugins.filter.apparmor_profiles import apparmor_profiles
from ansible_collections.cordon.agent_host.plugins.module_utils._apparmor_host import Failed
from ansible_collections.cordon.agent_host.plugins.module_utils._apparmor_load import compile_all
from ansible_collections.cordon.agent_host.plugins.module_utils._apparmor_plan import Wanted
from ansible_collections.cordon.agent_host.plugins.module_utils._apparmor_unenforced import KINDS, unexpected


def wanted(rule: str = "/etc/passwd r,", abi: str = "3.0") -> Wanted:
    text = f"abi <abi/{abi}>,\n\nprofile cordon.a flags=(attach_disconnected) {{\n  {rule}\n}}\n"
    return Wanted("cordon.a", "enforce", text)


@pytest.fixture
def base(parser, tmp_path) -> Path:
    """A copy of /etc/apparmor.d that a test may spoil."""
    shutil.copytree(parser.root / "etc/apparmor.d", tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def compiled(parser, tmp_path, base):
    """compiled(PROFILES): what the module makes of them."""

    def run(argv):
        done = parser.run(*argv[1:])
        return done.returncode, done.stdout, done.stderr

    return lambda profiles: compile_all(run, ["apparmor_parser"], str(tmp_path / "scratch"), profiles, str(base))


def test_one_call_gives_what_each_profile_alone_gives(parser, compiled, agents, tmp_path):
    profiles = [Wanted(each["name"], each["mode"], each["text"]) for each in apparmor_profiles(agents)]
    found = compiled(profiles)
    assert list(found.blobs) == [profile.name for profile in profiles]
    assert Path(found.place).name.endswith(".0") and (Path(found.place) / ".features").exists()
    alone = tmp_path / "alone"
    alone.write_text(profiles[0].text)
    parser.run("--skip-kernel-load", "--skip-cache", f"--base={parser.root}/etc/apparmor.d", f"--ofile={tmp_path}/blob",
               str(alone))
    assert (tmp_path / "blob").read_bytes() == found.blobs[profiles[0].name]


@pytest.mark.parametrize("place", ["disable", "force-complain"])
def test_links_that_override_do_not_decide_what_is_compiled(compiled, base, tmp_path, place):
    plain = compiled([wanted()]).blobs
    shutil.rmtree(tmp_path / "scratch")
    (base / place).mkdir(exist_ok=True)
    (base / place / "cordon.a").symlink_to("../cordon.a")
    (base / "cordon.a").write_text(wanted().text)
    assert compiled([wanted()]).blobs == plain


@pytest.mark.parametrize(("profile", "said"), [
    (wanted("/etc/passwd q,"), "profile cordon.a, line 4: syntax error"),
    (wanted("/etc/passwd r"), "profile cordon.a, line 5: syntax error"),
    (wanted(abi="99.0"), "profile cordon.a, line 1: Could not open 'abi/99.0'"),
    (wanted("include <local/nowhere>"), "profile cordon.a, line 4: Could not open 'local/nowhere'"),
    (wanted("/a px -> b,\n  /{a,c} px -> d,"), "conflicting x modifiers"),
    (wanted("new_rule_of_2030 to=all,"), "profile cordon.a, line 4: syntax error"),
])
def test_a_mistake_is_told_with_profile_and_line(compiled, profile, said):
    other = Wanted("cordon.b", "enforce", wanted().text.replace("cordon.a", "cordon.b"))
    with pytest.raises(Failed) as failed:
        compiled([other, profile])
    assert said in str(failed.value) and str(failed.value).endswith("nothing was changed")


def test_a_rule_of_a_newer_release_is_refused_by_the_older(compiled, parser):
    if parser.suite == "bookworm":
        with pytest.raises(Failed, match=r"profile cordon\.a, line 4: syntax error"):
            compiled([wanted("userns,")])
    else:
        assert compiled([wanted("userns,")]).blobs["cordon.a"]


def test_a_tool_that_does_not_exist_is_no_mistake(compiled):
    assert compiled([wanted("/nowhere/at/all mrix,")]).blobs["cordon.a"]


def test_a_broken_abi_file_does_not_pass(compiled, base, agents):
    """The parser takes it without a word and compiles no rule of those classes; only the warnings give it away."""
    profiles = [Wanted(each["name"], each["mode"], each["text"]) for each in apparmor_profiles(agents)]
    known = [kind.name for kind in KINDS if kind.name in ("unix", "inet", "userns", "mqueue", "io_uring", "dbus")]
    assert unexpected(compiled(profiles).messages, known) == []
    (base / "abi" / "3.0").write_text("broken {{{")
    assert {"network", "ptrace", "signal"} <= set(unexpected(compiled(profiles).messages, known))


def test_local_overrides_mean_nothing(compiled, base, tmp_path):
    plain = compiled([wanted()]).blobs
    shutil.rmtree(tmp_path / "scratch")
    (base / "local").mkdir(exist_ok=True)
    (base / "local" / "cordon.a").write_text("broken {{{ /** rwx,")
    (base / "tunables" / "global").write_text("broken {{{")
    assert compiled([wanted()]).blobs == plain
