# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the profiles say, and that nothing else can be made to stand in them."""
from __future__ import annotations

import copy
import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.cordon.agent_host.plugins.filter.apparmor_profiles import apparmor_profiles
from ansible_collections.cordon.agent_host.plugins.module_utils._apparmor_lint import lint
from ansible_collections.cordon.agent_host.plugins.module_utils._apparmor_plan import Wanted, mistakes
from ansible_collections.cordon.agent_host.plugins.module_utils._apparmor_policy import ABIS
from ansible_collections.cordon.agent_host.plugins.module_utils._apparmor_render import packages, profiles
from ansible_collections.cordon.agent_host.plugins.module_utils._apparmor_rules import Refused, literal, pattern, rule
from ansible_collections.cordon.agent_host.plugins.module_utils._manifest import ManifestError, resolve
from ansible_collections.cordon.agent_host.plugins.plugin_utils._catalogue import known_tools, load_catalogue

NASTY = string.ascii_lowercase + string.digits + "/._-@+=:,;{}[]*?^\\\"'# \n\t\0$()!&|<>é"


def texts(agent, catalogue):
    return {profile["name"]: profile["text"] for profile in profiles(agent, catalogue)}


def test_each_agent_has_a_cage_and_its_inner_profiles(agents):
    assert [(each["name"], each["mode"]) for each in apparmor_profiles(agents)] == [
        ("cordon.autopilot", "enforce"), ("cordon.autopilot.main", "enforce"), ("cordon.autopilot.git", "enforce"),
        ("cordon.second", "enforce"), ("cordon.second.main", "complain"),
    ]


def test_the_module_takes_what_the_filter_gives(agents):
    assert mistakes([Wanted(each["name"], each["mode"], each["text"]) for each in apparmor_profiles(agents)]) == []


def test_the_same_manifest_in_another_order_gives_the_same_text(agents):
    turned = copy.deepcopy(agents)
    turned[0]["tools"].reverse()
    assert apparmor_profiles(turned) == apparmor_profiles(agents)


@pytest.mark.parametrize("writable", [False, True])
def test_only_an_agent_with_a_writable_vault_may_write_in_it_and_only_to_its_own_directory(agents, catalogue, writable):
    agent = {**agents[0], "vault": {**agents[0]["vault"], "writable": writable}}
    rule = "  /srv/agents/autopilot/.vault/own/{,**} rwkl,\n"
    for text in texts(agent, catalogue).values():
        granted = [line for line in text.splitlines() if "/.vault/" in line and not line.lstrip().startswith("audit deny")]
        assert (rule in text) is writable
        assert [line for line in granted if "w" in line.rsplit(" ", 1)[1]] == ([rule.rstrip("\n")] if writable else [])


@pytest.mark.parametrize(("where", "line"), [
    ("cage", "/usr/lib/cordon/entry pix -> &cordon.autopilot.main,"),
    ("cage git", "/usr/bin/git mrix,"),
    ("main", "/usr/bin/git rPx -> cordon.autopilot.git,"),
    ("git", "/usr/bin/python3 rpx -> cordon.autopilot.main,"),
    ("git", "/usr/bin/dash rpx -> cordon.autopilot.main,"),
    ("git", "/srv/agents/autopilot/[^.]{,**} rpx -> cordon.autopilot.main,"),
    ("git", "/srv/agents/autopilot/workspace/{,**} rwkl,"),
    ("cage git", "/etc/gitconfig r,"),
    ("cage main", "/srv/agents/autopilot/venv/bin/python mrix,"),
    ("git", "/srv/agents/autopilot/venv/bin/python rpx -> cordon.autopilot.main,"),
    ("cage main", "/opt/autopilot{,/,/**} mrix,"),
    ("git", "/opt/autopilot{,/,/**} rpx -> cordon.autopilot.main,"),
    ("cage main git", "/srv/data/reference{,/,/**} r,"),
    ("cage main git", "/srv/data/output{,/,/**} rwkl,"),
    ("cage main", "/srv/agents/autopilot/workspace/{,**} mrwklix,"),
    ("cage main", "/dev/video0 rw,"),
    ("cage main", "/dev/dri/{,**} rw,"),
    ("cage main git", "audit deny /**/.ssh/** wl,"),
    ("cage main git", "audit deny /etc/{shadow,gshadow}{,-} mrwklx,"),
    ("cage main git", "audit deny /etc/fstab{,/,/**} mrwklx,"),
    ("main git", "audit /srv/agents/autopilot/.vault/database_url r,"),
    ("git", "audit /srv/agents/autopilot/.vault/github_token r,"),
    ("cage", "/srv/agents/autopilot/.vault/github_token r,"),
    ("cage main git", 'signal (send, receive) peer="cordon.autopilot//&cordon.autopilot.*",'),
])
def test_a_manifest_line_becomes_a_rule(agents, catalogue, where, line):
    found = {name for name, text in texts(agents[0], catalogue).items() if f"  {line}\n" in text}
    assert found == {"cordon.autopilot" + ("" if name == "cage" else "." + name) for name in where.split()}


def test_a_tool_can_neither_run_nor_map_what_the_agent_wrote(agents, catalogue):
    text = texts(agents[0], catalogue)["cordon.autopilot.git"]
    granted = [line.split() for line in text.splitlines() if line.startswith(("  /srv", "  /tmp", "  /dev/shm"))]
    assert granted and all("->" in words or not set("mx") & set(words[-1]) for words in granted)


def test_a_tool_that_starts_nothing_leaves_a_record_in_burn_in(agents, catalogue):
    quiet = {**catalogue["git"], "profile": {"reason": "deserves less"}}
    start = "/usr/bin/dash rpx -> cordon.autopilot.main,"
    found = [texts({**agents[0], "mode": mode}, {**catalogue, "git": quiet})["cordon.autopilot.git"]
             for mode in ("enforce", "burn_in")]
    assert start not in found[0]
    assert f"  audit {start}\n" in found[1]
    assert "\n  network " not in found[0]


def test_what_the_agent_wrote_runs_not_at_all_where_the_manifest_says_so(agents, catalogue):
    still = {**agents[0], "workspace": {**agents[0]["workspace"], "execute": False}}
    for text in texts(still, catalogue).values():
        for place in ("/srv/agents/autopilot/workspace", "/srv/agents/autopilot/.local", "/{,var/}tmp", "/srv/data/output"):
            assert f"  audit deny {place}/{{,**}} mx,\n" in text


def test_a_command_that_is_a_tool_runs_in_the_profile_of_the_tool(agents, catalogue, compile_all):
    text = texts({**agents[0], "command": ["/usr/bin/git", "daemon"]}, catalogue)["cordon.autopilot.main"]
    assert text.count("  /usr/bin/git ") == 1
    assert compile_all([text]) == ""


def test_what_was_not_granted_is_not_there(agents, catalogue):
    for text in texts(agents[1], catalogue).values():
        for word in ("/usr/bin/git", "python3", ".vault/", "/dev/dri", "/srv/data", "autopilot", "/usr/bin/su "):
            assert word not in text


def test_a_profile_is_taken_by_the_parser(agents, catalogue, compile_all):
    granted = copy.deepcopy(agents[0])
    granted["tools"] = sorted(name for name, tool in catalogue.items() if not tool.get("implicit"))
    assert compile_all([text for agent in [*agents, granted] for text in texts(agent, catalogue).values()]) == ""


@pytest.mark.parametrize("sandbox", ["deny", "allow"])
def test_each_parser_takes_the_newest_abi_that_it_has(agents, catalogue, parser, tmp_path, sandbox):
    agent = {**agents[0], "inner_sandbox": sandbox, "secrets": []}
    for abi in ABIS[: {"bookworm": 1, "trixie": 2}[parser.suite]]:
        found = profiles(agent, catalogue, abi)
        assert all(f"abi <abi/{abi}>,\n" in profile["text"] for profile in found)
        assert ("userns create," in found[0]["text"]) == (abi == "4.0" and sandbox == "allow")
        place = tmp_path / abi
        place.mkdir()
        assert parser.compile([profile["text"] for profile in found], place) == ""


def test_an_unknown_abi_is_refused(agents, catalogue):
    with pytest.raises(Refused, match=r"use 3\.0 or 4\.0"):
        profiles(agents[0], catalogue, "5.0")


def test_the_parser_would_have_complained(compile_all):
    assert "syntax error" in compile_all(["abi <abi/3.0>,\nprofile x {\n  /etc/passwd q,\n}\n"])


# Plain ones too, else every manifest would be refused and nothing compiled.
paths = st.text(NASTY, max_size=12).map("/{}".format) | st.from_regex(r"(/[A-Za-z0-9._@+=:-]{1,5}){1,4}",
    fullmatch=True)
manifests = st.fixed_dictionaries({
    "name": st.text(string.ascii_lowercase + string.digits + "_", min_size=1, max_size=27) | st.text(NASTY, max_size=8),
    "command": st.lists(paths, min_size=1, max_size=2),
}, optional={
    "tools": st.lists(st.sampled_from(sorted(known_tools())), max_size=4, unique=True),
    "workspace": st.fixed_dictionaries({"read_only": st.lists(paths, max_size=3)}, optional={
        "read_write": st.lists(paths, max_size=2), "execute": st.booleans()}),
    "denied": st.lists(paths, max_size=3),
    "programs": st.lists(paths, max_size=3),
    "inner_sandbox": st.sampled_from(["deny", "allow"]),
    "secrets": st.lists(st.text(string.ascii_lowercase + "_", min_size=1, max_size=9), max_size=2, unique=True).map(
        lambda names: [{"name": name} for name in names]),
    "limits": st.fixed_dictionaries({"gpu": st.booleans(), "devices": st.lists(paths.map(lambda path: "/dev" + path),
    max_size=2)}),
    "mode": st.sampled_from(["burn_in", "enforce"]),
})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture,
    HealthCheck.too_slow])
@given(st.lists(manifests, min_size=1, max_size=1))
def test_whatever_the_manifest_filter_lets_through_compiles(compile_all, manifest):
    try:
        resolved = resolve(manifest, known_tools(), "agents")
    except ManifestError:
        return
    rendered = apparmor_profiles(resolved)
    assert {profile["name"] for profile in rendered} >= {f"cordon.{resolved[0]['name']}{part}" for part in ("", ".main")}
    assert compile_all([profile["text"] for profile in rendered]) == ""


@settings(max_examples=500, deadline=None)
@given(st.text(NASTY, max_size=20))
def test_a_value_that_could_be_syntax_never_reaches_a_profile(text):
    try:
        assert set(literal(text)) <= set(string.ascii_letters + string.digits + "/._@+=:-")
    except Refused:
        pass


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text("/abc*?{},[]^\\\"@ \n.", max_size=15))
def test_a_pattern_that_is_accepted_stays_one_rule(text):
    try:
        accepted = pattern(text)
    except Refused:
        return
    assert not set(accepted) & set("\" \n#") and "@{" not in accepted
    assert lint(f"profile cordon.x {{\n  {accepted} r,\n}}\n") == []


@pytest.mark.parametrize("bad", [
    "", "etc", "/a b", "/a\n/b rw", "/a,", "/a*", "/a{b,c}", "/a/../b", "/é", "/a\"", "/@{HOME}", "/a#", None, 7, "/a/",
])
def test_a_literal_path_has_no_syntax(bad):
    with pytest.raises(Refused, match="cannot stand in an AppArmor profile"):
        literal(bad)


@pytest.mark.parametrize("entry", [
    {"path": "/a", "access": "u"}, {"path": "/a", "access": "Ux"}, {"path": "/a", "access": ""}, {"path": "/a",
    "access": "rr"},
    {"path": "/a", "access": "wa"}, {"path": "/a rw,\n /b", "access": "r"}, {"path": "/a", "access": "r", "raw": "x"},
    {"path": "/a{b", "access": "r"}, {"path": "@{HOME}/x", "access": "r"},
])
def test_a_catalogue_rule_has_no_syntax(entry):
    with pytest.raises(Refused):
        rule(entry)


@pytest.mark.parametrize("change", [
    {"name": "x {} profile y"}, {"home": "/srv/x y"}, {"command": ["/bin/x y"]}, {"tools": ["nonesuch"]},
    {"secrets": [{"name": "a,\n/** rwx", "tools": []}]},
])
def test_the_renderer_itself_refuses_what_the_manifest_filter_would_have(agents, catalogue, change):
    with pytest.raises(Refused):
        profiles({**agents[0], **change}, catalogue)


@pytest.mark.parametrize("rule_", [
    "/usr/bin/x ux,", "/usr/bin/x Ux,", "/usr/bin/x PUx,", "/usr/bin/x rpux,", "/usr/bin/x px,", "/usr/bin/x cx -> y,",
    "/usr/bin/x px -> other,", "/usr/lib/cordon/entry pix -> &other,", "change_profile,", "change_profile -> **,",
    "capability,",
    "capability sys_admin,", "audit capability kill,", "mount,", "umount,", "pivot_root,", "userns,", "io_uring,",
    "dbus,",
    "/usr/bin/x rpx -> cordon.x.git,", "/usr/bin/x rPx -> cordon.y.git,", "/usr/bin/x rpx -> cordon.y.main,",
    "/usr/bin/x rPx -> cordon.x,", "/usr/bin/x rPx -> unconfined,", "/usr/bin/x rpix -> cordon.x.main,",
    "/usr/lib/cordon/entry pix -> &cordon.y.main,", "/usr/bin/x rux -> cordon.x.main,",
    "change_profile /x -> cordon.x.main,",
    "ptrace,", "ptrace (trace) peer=cordon.x,", "ptrace (read, readby) peer=unconfined,", "ptrace (read, readby),",
    "signal,", "signal (send) peer=unconfined,", "network,", "network inet,", "network inet raw,",
    "network packet raw,",
    "network packet dgram,", "deny /etc/shadow r,", "/** rw,", "/etc/passwd w,", "/etc/** rw,",
    "/proc/*/attr/current w,",
    "/sys/kernel/security/** rw,", "/var/lib/cordon/x rw,", "owner /home/x w,", "include <abstractions/base>",
    "#include <x>",
    "file,", "all,", "/a r, /b w,", "unix,", "set rlimit nproc <= 5,",
])
def test_the_lint_refuses(rule_):
    assert lint(f"abi <abi/3.0>,\nprofile cordon.x {{\n  {rule_}\n}}\n"), rule_


def test_the_lint_wants_one_profile_of_ours():
    assert lint("profile a {\n}\n")
    assert lint("profile cordon.a {\n}\nprofile cordon.b {\n}\n")
    assert lint("")
    assert lint("profile cordon.a flags=(attach_disconnected, complain) {\n}\n") == []


def test_packages_of_granted_tools_are_wanted(agents, catalogue):
    found = packages(agents, catalogue)
    assert found == sorted(set(found))
    assert {"git", "python3", "bash", "coreutils"} <= set(found)
    assert "curl" not in found


@pytest.mark.parametrize("name", sorted(load_catalogue()))
def test_a_tool_is_complete_and_gives_nothing_forbidden(name, catalogue, agents):
    tool = catalogue[name]
    optional = {"implicit", "profile", "helpers", "environment"}
    assert set(tool) - optional == {"name", "description", "packages", "executables", "rules", "proof"}
    assert tool["packages"] and tool["proof"] and all(isinstance(word, str) for word in tool["proof"])
    for text in texts({**agents[1], "tools": [name]}, catalogue).values():
        assert lint(text) == []
