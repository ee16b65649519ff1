# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A suggested change is small, the manifest takes it, and the profiles rendered from it allow the act."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.cordon.agent_host.plugins.module_utils import _apparmor_never, _apparmor_policy
from ansible_collections.cordon.agent_host.plugins.module_utils._apparmor_match import matches
from ansible_collections.cordon.agent_host.plugins.module_utils._apparmor_render import profiles
from ansible_collections.cordon.agent_host.plugins.module_utils._apparmor_suggest import combined, reduced, suggest
from ansible_collections.cordon.agent_host.plugins.module_utils._apparmor_suggest_text import changed
from ansible_collections.cordon.agent_host.plugins.module_utils._manifest import resolve
from ansible_collections.cordon.agent_host.plugins.plugin_utils._catalogue import known_tools, load_catalogue

CATALOGUE = load_catalogue()
TOOLS = reduced(CATALOGUE)
HOME = "/srv/agents/scribe"


def agent(**keys: Any) -> dict[str, Any]:
    return resolve([{"name": "scribe", "command": ["/usr/bin/sleep", "infinity"], **keys}], known_tools())[0]


def act(path: str | None, access: str | None = "r", **keys: Any) -> dict[str, Any]:
    made = {
        "verdict": "allowed", "class": "file", "profile": "cordon.scribe.main", "operation": "open", "path": path,
        "access": access, "family": None, "sock_type": None, "protocol": None, "detail": None, "program": "/usr/bin/cat",
        "layer": "inner", "count": 1, "first": 1.0, "last": 2.0,
    }  # fmt: skip
    return {**made, **keys}


def execution(path: str, **keys: Any) -> dict[str, Any]:
    return act(path, "x", **{"class": "exec", "operation": "exec", "verdict": "denied", **keys})


def socket(family: str, kind: str, **keys: Any) -> dict[str, Any]:
    return act(None, "create", **{"class": "network", "operation": "create", "family": family, "sock_type": kind, **keys})


def one(found: dict[str, Any], who: dict[str, Any] | None = None) -> dict[str, Any] | None:
    suggestions = suggest([found], who or agent(), TOOLS)
    assert len(suggestions) <= 1
    return suggestions[0] if suggestions else None


def kind_and_change(found: dict[str, Any], who: dict[str, Any] | None = None) -> tuple[str, Any]:
    suggestion = one(found, who)
    assert suggestion is not None
    return suggestion["kind"], suggestion["manifest"] or suggestion["catalogue"]


# --- what would allow it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "kind", "change"),
    [
        (act("/etc/fstab"), "read_only", {"workspace.read_only": ["/etc/fstab"]}),
        (act("/srv/data/in/"), "read_only", {"workspace.read_only": ["/srv/data/in"]}),
        (act("/srv/data/job-123456/x"), "read_only", {"workspace.read_only": ["/srv/data"]}),
        (act("/srv/data/out.csv", "rw"), "read_write", {"workspace.read_write": ["/srv/data/out.csv"]}),
        (act("/dev/video0", "rw"), "read_write", {"limits.devices": ["/dev/video0"]}),
        (execution("/usr/bin/git"), "tool", {"tools": ["git"]}),
        (execution("/usr/bin/python3.11"), "tool", {"tools": ["python"]}),
        (act("/etc/pip.conf", program="/usr/bin/cat"), "tool", {"tools": ["pip"]}),
        (act("/proc/vmstat"), "catalogue", {"coreutils": {"rules": [{"path": "/proc/vmstat", "access": "r"}]}}),
        (act("/proc/[0-9]*/pagemap", program="/opt/x"), "catalogue",
         {"base": {"rules": [{"path": "/proc/[0-9]*/pagemap", "access": "r", "owner": True}]}}),
        (socket("inet", "stream", address="203.0.113.7", port=443, protocol="tcp"), "egress",
         {"egress": [{"cidr": "203.0.113.7/32", "port": 443, "protocol": "tcp"}]}),
        (socket("inet6", "stream", address="2001:db8::7", port=25, protocol="tcp"), "egress",
         {"egress": [{"cidr": "2001:db8::7/128", "port": 25, "protocol": "tcp"}]}),
    ],
)  # fmt: skip
def test_what_would_allow_it(found: dict[str, Any], kind: str, change: dict[str, Any]) -> None:
    assert kind_and_change(found) == (kind, change)


def test_an_unknown_program_is_a_new_file_of_the_catalogue() -> None:
    suggestion = one(execution("/opt/llvm-17/bin/clang-17.0"))
    assert suggestion is not None
    assert suggestion["manifest"] == {"tools": ["clang-17.0"]}
    assert "+++ roles/apparmor/files/tools/clang-17.0.yml" in suggestion["change"]
    text = "\n".join(line[1:] for line in suggestion["change"].splitlines()[2:])
    assert yaml.safe_load(text)["executables"] == ["/opt/llvm-17/bin/clang-17.[0-9]*"]


def test_a_tool_with_its_own_profile_gets_the_rule_itself() -> None:
    found = act("/usr/share/x/data-3.2/y", profile="cordon.scribe.git", access="mr")
    assert kind_and_change(found, agent(tools=["git"])) == (
        "catalogue", {"git": {"rules": [{"path": "/usr/share/x/data-3.[0-9]*/y", "access": "mr"}]}}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "key", "value"),
    [
        (execution("/usr/bin/ls"), "runs", True),
        (execution(HOME + "/workspace/hook"), "runs", True),
        (socket("inet", "stream"), "network", True),
        (act(HOME + "/workspace/x", "w"), "workspace", "rw"),
    ],
)  # fmt: skip
def test_what_a_tool_may_not_is_a_key_of_its_profile(found: dict[str, Any], key: str, value: Any) -> None:
    profile = {"exclusive": True, "runs": False, "network": False, "workspace": "r"}
    narrow = {**TOOLS, "narrow": {**TOOLS["jq"], "own_profile": True, "profile": profile}}
    who = {**agent(), "tools": ["narrow"]}
    (suggestion,) = suggest([{**found, "profile": "cordon.scribe.narrow"}], who, narrow)
    assert suggestion["catalogue"] == {"narrow": {f"profile.{key}": value}}
    assert suggestion["change"].splitlines()[2:] == [
        " profile:", f"-  {key}: {'r' if key == 'workspace' else 'false'}", f"+  {key}: {'rw' if key == 'workspace' else 'true'}"
    ]  # fmt: skip


def test_a_profile_that_tools_share_is_told_apart_by_the_program() -> None:
    who = agent(tools=["jq", "ripgrep", "tree"])
    found = act("/opt/x/y.so", "mr", profile="cordon.scribe.writers", program="/usr/bin/rg")
    assert kind_and_change(found, who)[1].keys() == {"ripgrep"}


def test_several_acts_are_one_change_and_several_siblings_one_directory() -> None:
    paths = [f"/srv/data/part{number}" for number in "abcd"]
    found = [act(path, count=2) for path in paths] + [act(paths[0], "w", count=5), act("/srv/other/x"), act("/srv/other/y")]
    suggestions = suggest(found, agent(), TOOLS)
    assert [(each["manifest"], each["count"]) for each in suggestions] == [
        ({"workspace.read_write": [paths[0]]}, 7),
        ({"workspace.read_only": ["/srv/data"]}, 6),
        ({"workspace.read_only": ["/srv/other/x"]}, 1),
        ({"workspace.read_only": ["/srv/other/y"]}, 1),
    ]


def test_what_the_manifest_allows_by_now_needs_nothing() -> None:
    who = agent(tools=["git"], workspace={"read_only": ["/srv/in"], "read_write": ["/srv/out"]})
    done = [act("/srv/in/x"), act("/srv/out/y", "rwkl"), execution("/usr/bin/git"), act("/etc/passwd")]
    assert suggest(done, who, TOOLS) == []


def test_the_diff_shows_the_line_before_and_after() -> None:
    suggestion = one(act("/srv/in/x"), agent(workspace={"read_only": ["/srv/a"]}))
    assert suggestion is not None
    assert suggestion["change"].splitlines() == [
        "   - name: scribe",
        "-    workspace: {read_only: [/srv/a]}",
        "+    workspace: {read_only: [/srv/a, /srv/in/x]}",
    ]


def test_all_changes_in_one_diff_are_yaml_that_the_manifest_takes() -> None:
    who = agent(tools=["git"], workspace={"read_only": ["/srv/out"]})
    found = [
        act("/etc/fstab"), act("/srv/out", "w"), execution("/usr/bin/python3.11"), act("/etc/shadow"),
        socket("inet6", "stream", address="2001:db8::7", port=443, protocol="tcp"),
    ]  # fmt: skip
    lines = combined(suggest(found, who, TOOLS), who).splitlines()
    after = yaml.safe_load("\n".join(line[1:] for line in lines if line[0] in " +"))
    given = {"name": "scribe", "command": ["/usr/bin/true"], **after[0]}
    (resolved,) = resolve([given], known_tools())
    assert resolved["tools"] == ["git", "python"]
    assert resolved["workspace"]["read_only"] == ["/etc/fstab"]
    assert resolved["workspace"]["read_write"] == ["/srv/out"]
    assert resolved["egress"][0]["cidr"] == "2001:db8::7/128"


# --- what is never allowed -----------------------------------------------------------------------------------------

NEVER = [
    (act("/etc/shadow"), "passwords"),
    (act("/root/.bashrc"), "the kernel"),
    (act("/home/ann/x"), "no agent may"),
    (act("/srv/agents/other/x"), "another agent"),
    (act("/srv/agents/"), "/srv/agents"),
    (act("/etc/systemd/system/x.service", "w"), "ways to come back"),
    (act(HOME + "/.ssh/authorized_keys", "w"), "ssh keys"),
    (act(HOME + "/.vault/other"), "secrets"),
    (act("/srv/x/.aws/credentials"), "credentials"),
    (act("/etc/cordon/manifest.json"), "the controls themselves"),
    (act("/proc/[0-9]*/mem", "w"), "the kernel"),
    (act("/proc/[0-9]*/environ"), "somebody else's"),
    (act("/opt/x/y", "w"), "system's programs"),
    (act("/var/log/x", "w"), "daemons"),
    (act("/dev/sda", "r"), "below every file permission"),
    (act("/tmp/x", "w"), "somebody else's"),
    (act(HOME + "/x", "w"), "belongs to root"),
    (act("/run/docker.sock", "rw"), "doors"),
    (act("dev/pts/0"), "disconnected"),
    (execution("/usr/bin/su"), "setuid"),
    (execution("/usr/bin/unshare"), "leads out"),
    (execution("/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"), "loader"),
    (execution("/memfd:x (deleted)"), "no file"),
    (act(None, None, **{"class": "capability", "detail": "sys_admin"}), "sys_admin"),
    (act(None, None, **{"class": "capability", "detail": "dac_override"}), "ownership"),
    (act(None, "send", **{"class": "signal", "detail": "term unconfined"}), "not the agent's own"),
    (act(None, "trace", **{"class": "ptrace", "detail": "cordon.scribe//&cordon.scribe.main"}), "debug outside"),
    (act("/mnt", None, **{"class": "mount", "operation": "mount"}), "inner_sandbox"),
    (act(None, None, **{"class": "other", "operation": "userns_create"}), "inner_sandbox"),
    (act(None, None, **{"class": "other", "operation": "change_profile"}), "another profile"),
    (socket("inet", "raw"), "raw sockets"),
    (socket("packet", "dgram"), "raw sockets"),
    (socket("bluetooth", "raw"), "raw sockets"),
    (socket("alg", "seqpacket"), "alg"),
    (socket("inet", "stream", address="169.254.169.254", port=80, protocol="tcp"), "metadata"),
]  # fmt: skip


@pytest.mark.parametrize(("found", "why"), NEVER, ids=[f"{one['class']} {one['path'] or one['detail']}" for one, _why in NEVER])
def test_what_is_never_allowed_is_said_with_its_reason(found: dict[str, Any], why: str) -> None:
    suggestion = one(found)
    assert suggestion is not None
    assert (suggestion["kind"], suggestion["catalogue"]) == ("never", {})
    assert why in suggestion["why"]


def test_a_no_of_the_manifest_is_an_answer() -> None:
    assert kind_and_change(act("/srv/in/x"), agent(denied=["/srv/in"])) == ("never", {})


def test_what_burn_in_let_pass_can_be_answered_with_no() -> None:
    assert kind_and_change(act("/srv/agents/other/x"))[1] == {"denied": ["/srv/agents/other/x"]}
    assert kind_and_change(act("/srv/agents/other/x", verdict="denied"))[1] == {}


def test_what_is_never_allowed_for_one_reason_is_one_entry_with_all_its_paths() -> None:
    (suggestion,) = suggest([act("/srv/agents/other/b"), act("/srv/agents/other/a"), act("/srv/agents/x/c d")], agent(), TOOLS)
    assert suggestion["manifest"] == {"denied": ["/srv/agents/other/a", "/srv/agents/other/b"]}
    assert suggestion["count"] == 3


@pytest.mark.parametrize("title", [title for title, _rules in _apparmor_policy.DENIED])
def test_every_table_of_the_policy_is_used(title: str) -> None:
    rules = dict(_apparmor_policy.DENIED)[title]
    for rule in rules:
        path = re.sub(r"\{([^{},]*),[^{}]*\}", r"\1", rule.path)
        path = re.sub(r"\{([^{},]*),[^{}]*\}", r"\1", path).replace("[0-9]*", "1").replace("**", "x").replace("*", "x")
        assert matches(rule.path, path), (rule.path, path)
        assert _apparmor_never.reason(act(path, rule.access[0]), agent()), path


# --- the property --------------------------------------------------------------------------------------------------

RULE = re.compile(r"^(audit deny |audit )?(?:owner )?(/\S*) ([a-zP]+)(?: -> \S+)?,$")


def allowed(text: str, path: str, access: str) -> bool:
    """Whether a rendered profile has rules for all of it and no denial of any."""
    rules = [match.groups() for line in text.splitlines() if (match := RULE.match(line.strip()))]
    about = [(verdict, letters) for verdict, rule, letters in rules if matches(rule, path)]
    denied = "".join(letters for verdict, letters in about if verdict == "audit deny ")
    had = "".join(letters for verdict, letters in about if verdict != "audit deny ")
    return set(access) <= set(had) and not set(access) & set(denied)


def applied(suggestion: dict[str, Any], who: dict[str, Any]) -> list[dict[str, str]]:
    """The agent's profiles with the suggestion in the catalogue and the manifest."""
    catalogue = copy.deepcopy(CATALOGUE)
    for name, added in suggestion["catalogue"].items():
        if "new" in added:
            catalogue[name] = {"name": name, "packages": [], "executables": [added["new"]], "rules": []}
        for key, value in added.items():
            if key == "rules":
                catalogue[name]["rules"] = catalogue[name]["rules"] + value
            elif key != "new":
                catalogue[name]["profile"][key.partition(".")[2]] = value
    known = {name: bool(tool.get("profile")) for name, tool in catalogue.items()}
    after = resolve([changed(who, suggestion["manifest"])], known)[0]
    return profiles({**after, "mode": "enforce"}, catalogue)


PLACES = st.sampled_from([
    "/srv/data", "/srv/agents/scribe/workspace", "/srv/agents/other", "/etc", "/etc/ssl", "/usr/share/x", "/opt/app-1.2", "/proc",
    "/proc/[0-9]*", "/sys/class", "/run/x", "/dev", "/var/lib/app", "/var/log", "/home/ann", "/tmp", "/mnt/disk", "/usr/bin",
    "/data/tmpab12cd34", "/data/3f2504e0-4f89-11d3-9a0c-0305e82c3301", "/data/a b", "/boot", "/usr/lib/git-core", "/bin", "/",
])  # fmt: skip
NAMES = st.one_of(
    st.sampled_from(["x", "fstab", "git", "psql", "python3.11", "ls", "make", ".ssh/id", "a/b.so.1", "gitconfig", "1234567"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=0x17F, exclude_characters="/"), min_size=1, max_size=8),
)
INNER = st.sampled_from(["main", "git", "ssh"])
FILES = st.builds(
    lambda place, name, access, inner, program: act(
        f"{place.rstrip('/')}/{name}", access, profile=f"cordon.scribe.{inner}", program=program),
    PLACES, NAMES, st.sampled_from(["r", "w", "rw", "m", "mr", "rk", "wl"]), INNER,
    st.sampled_from(["/usr/bin/cat", "/usr/bin/git", "bash", None]),
)  # fmt: skip
EXECS = st.builds(
    lambda place, name, inner: execution(f"{place.rstrip('/')}/{name}", profile=f"cordon.scribe.{inner}"), PLACES, NAMES, INNER
)
AGENTS = st.sampled_from([
    agent(), agent(tools=["git", "ssh"]),
    agent(tools=["git", "python"], workspace={"execute": False, "read_only": ["/srv/data"]}),
    agent(tools=["ssh", "git"], denied=["/opt"], workspace={"read_write": ["/srv/data/out"]}),
])  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(AGENTS, st.lists(st.one_of(FILES, EXECS), min_size=1, max_size=6))
def test_a_suggestion_is_taken_and_allows_its_acts(who: dict[str, Any], acts: list[dict[str, Any]]) -> None:
    acts = [one for one in acts if one["profile"].endswith(".main") or one["profile"].rpartition(".")[2] in who["tools"]]
    for suggestion in suggest(acts, who, TOOLS):
        assert suggestion["count"] == len(suggestion["acts"]) > 0
        assert suggestion["why"].isprintable()
        rendered = applied(suggestion, who)
        if suggestion["kind"] == "never":
            continue
        assert suggestion["change"]
        for found in suggestion["acts"]:
            for layer in (f"cordon.{who['name']}", found["profile"]):
                text = next(one["text"] for one in rendered if one["name"] == layer)
                path = _apparmor_never.one_process(found["path"])
                assert allowed(text, path, found["access"]), (layer, path, suggestion)


@settings(deadline=None, max_examples=300)
@given(AGENTS, st.one_of(FILES, EXECS))
def test_an_act_without_a_suggestion_is_allowed_already(who: dict[str, Any], found: dict[str, Any]) -> None:
    inner = found["profile"].rpartition(".")[2]
    if (inner == "main" or inner in who["tools"]) and not suggest([found], who, TOOLS):
        rendered = profiles({**who, "mode": "enforce"}, CATALOGUE)
        for layer in (f"cordon.{who['name']}", found["profile"]):
            text = next(one["text"] for one in rendered if one["name"] == layer)
            assert allowed(text, _apparmor_never.one_process(found["path"]), found["access"])
