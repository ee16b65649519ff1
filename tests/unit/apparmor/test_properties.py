# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever the manifest says: refused, or profiles that both releases' parsers take and that grant nothing forbidden.

The second look is independent of the renderer and of its lint: it reads the rules by its own expressions, and asks of
paths that must stay out of reach whether any rule grants them and no `deny` takes that back.
"""
from __future__ import annotations

import re
import string
from functools import lru_cache

import pytest
from ansible.errors import AnsibleFilterError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.cordon.agent_host.plugins.filter.apparmor_profiles import apparmor_profiles
from ansible_collections.cordon.agent_host.plugins.module_utils._apparmor_plan import Wanted, mistakes
from ansible_collections.cordon.agent_host.plugins.module_utils._manifest import ManifestError, resolve
from ansible_collections.cordon.agent_host.plugins.plugin_utils._catalogue import known_tools

NASTY = string.ascii_lowercase + string.digits + "/._-@+=:,;{}[]*?^\\\"'# \n\t\0$()!&|<>é\u2028"
INJECTIONS = ["/x,\n  /** rwx", "/x rw,\n  capability sys_admin", "/x {,", '/x"', "/x\u2028/** rw", "/x#", "/@{PROC}/1/mem",
              "/x rUx", "/srv/x flags=(unconfined)", "/x\\", "/x*", "/[a", "/x\r\n/** rw,"]

FILE_RULE = re.compile(
    r"(?P<deny>audit deny )?(?:audit )?(?:owner )?(?P<path>/\S*) (?P<access>[a-zA-Z]+)(?: -> (?P<to>\S+))?,")
# Each line that is no file rule must be one of these, word for word; {agent} is this agent's name, escaped.
PLAIN = (
    r"network (?:inet|inet6) (?:stream|dgram),", r"network netlink raw,",
    r"signal \((?:receive)\) peer=unconfined,", r"signal \([a-z, ]+\) peer=\"?cordon\.{agent}//&cordon\.{agent}\.[a-z*]+\"?,",
    r"ptrace \(read(?:, readby)?\) peer=\"?cordon\.{agent}//&cordon\.{agent}\.[a-z*]+\"?,",
    r"unix \((?:create|bind|listen|accept|getattr|setattr|getopt|setopt|shutdown|, )+\),",
    r"unix \((?:connect|send|receive|, )+\) peer=\(label=\"?cordon\.{agent}//&cordon\.{agent}\.[a-z*]+\"?\),",
)
# What inner_sandbox: allow may add, and nothing else may.
SANDBOX = (
    r"capability (?:dac_override|net_admin|setgid|setpcap|setuid|sys_admin|sys_chroot|sys_ptrace),", r"u?mount,", r"pivot_root,",
)

UNWRITABLE = [
    "/etc/passwd", "/etc/shadow", "/etc/cron.d/x", "/etc/systemd/system/x.service", "/etc/cordon/manifest.json",
    "/etc/apparmor.d/cordon.a", "/var/cache/apparmor/0.0/cordon.a", "/usr/bin/git", "/usr/lib/cordon/entry",
    "/var/lib/cordon/burn_in/a.json", "/var/log/cordon/events.jsonl", "/var/log/audit/audit.log", "/run/cordon/x",
    "/sys/kernel/security/apparmor/.replace", "/sys/kernel/security/apparmor/.remove", "/proc/12/attr/current",
    "/proc/12/attr/apparmor/exec", "/proc/12/task/12/attr/exec", "/proc/12/mem", "/proc/sys/kernel/core_pattern",
    "/proc/sysrq-trigger", "/boot/vmlinuz", "/root/.ssh/authorized_keys", "/home/x/.profile", "/var/spool/cron/crontabs/root",
    "/var/spool/cron/atjobs/x", "/srv/agents/other/workspace/x", "/dev/mem", "/run/systemd/system/x.service",
    "/srv/agents/{agent}/.ssh/id_rsa", "/srv/agents/{agent}/workspace/.ssh/authorized_keys", "/run/user/1000/bus",
]
UNREADABLE = [
    "/etc/shadow", "/etc/sudoers", "/srv/agents/other/.vault/token", "/srv/agents/other/workspace/x", "/etc/ssl/private/k",
    "/etc/ssh/ssh_host_ed25519_key", "/root/x", "/home/x/y", "/proc/kcore", "/var/lib/cordon/x", "/etc/cordon/manifest.json",
    "/run/docker.sock", "/dev/mem", "/sys/kernel/debug/x", "/run/credentials/x/y",
]
UNRUNNABLE = [
    "/usr/bin/su", "/usr/bin/sudo", "/usr/bin/systemd-run", "/usr/bin/unshare", "/usr/bin/nsenter", "/usr/bin/aa-exec",
    "/usr/sbin/apparmor_parser", "/usr/bin/crontab", "/usr/bin/at", "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    "/usr/bin/newuidmap", "/usr/bin/busctl", "/usr/bin/mount", "/dev/shm/x", "/srv/agents/other/workspace/x",
]
TOOLS = sorted(known_tools())
WITH_PROFILE = sorted(name for name, own in known_tools().items() if own)

plain_path = st.from_regex(r"(/[A-Za-z0-9._@+=:-]{1,5}){1,3}", fullmatch=True)
any_path = st.one_of(
    *[plain_path] * 3, st.text(NASTY, max_size=12).map("/{}".format), st.sampled_from(INJECTIONS))
shared_path = st.one_of(st.from_regex(r"/(srv/data|opt|mnt)(/[A-Za-z0-9._@+=:-]{1,5}){1,2}", fullmatch=True), any_path)
# Mostly names that are taken, so that most manifests are rendered.
agent_name = st.one_of(*[st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)] * 9, st.text(NASTY, max_size=8))
secret_name = st.one_of(*[st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True)] * 9, st.text(NASTY, max_size=8))


@st.composite
def manifests(draw):
    """One agent, every key that reaches a profile."""
    tools = draw(st.lists(st.sampled_from(TOOLS), max_size=8, unique=True))
    own = [name for name in tools if name in WITH_PROFILE]
    secret = st.fixed_dictionaries({"name": secret_name}, optional={
        "tools": st.lists(st.sampled_from(own), max_size=2, unique=True) if own else st.just([])})
    return draw(st.fixed_dictionaries({
        "name": agent_name,
        "command": st.lists(st.one_of(plain_path, any_path, st.just("/usr/bin/git")), min_size=1, max_size=2),
        "tools": st.just(tools),
    }, optional={
        "workspace": st.fixed_dictionaries({}, optional={
            "read_only": st.lists(shared_path, max_size=2), "read_write": st.lists(shared_path, max_size=2),
            "execute": st.booleans()}),
        "denied": st.lists(any_path, max_size=2),
        "inner_sandbox": st.sampled_from(["deny", "deny", "allow"]),
        "secrets": st.lists(secret, max_size=3),
        "limits": st.fixed_dictionaries({}, optional={
            "gpu": st.booleans(), "devices": st.lists(any_path.map(lambda path: "/dev" + path), max_size=1)}),
        "mode": st.sampled_from(["burn_in", "enforce"]),
    }))


@lru_cache(maxsize=None)
def expression(glob: str) -> re.Pattern[str]:
    """A pattern of apparmor.d(5) as a regular expression, written for this test alone."""
    pieces = {"**": ".*", "*": "[^/]*", "?": "[^/]", "{": "(?:", "}": ")", ",": "|"}
    found = re.findall(r"\\.|\*\*|\[[^\]]*\]|.", glob, re.DOTALL)
    return re.compile("".join(pieces.get(piece) or (piece if piece[0] == "[" else re.escape(piece.lstrip("\\")))
                              for piece in found))


def rules(text: str) -> list[str]:
    body = text[text.index("{\n") + 2:text.rindex("}")]
    return [line.strip() for line in body.splitlines() if line.strip() and not line.strip().startswith("# ")]


def forbidden(agent: dict, text: str) -> list[str]:
    """Lines that no profile of this agent may have."""
    name = re.escape(agent["name"])
    plain = [each.replace("{agent}", name) for each in PLAIN + (SANDBOX if agent["inner_sandbox"] == "allow" else ())]
    found = []
    for line in rules(text):
        match = FILE_RULE.fullmatch(line)
        if match is None:
            found += [] if any(re.fullmatch(each, line) for each in plain) else [line]
        elif not match["deny"] and not _starts_well(match, name):
            found.append(line)
    return found


def _starts_well(match: re.Match[str], name: str) -> bool:
    """No kind of exec but ix, and transitions to this agent's own profiles; the entry stacks."""
    kind = re.sub(r"[mrwakl]", "", match["access"])
    to = match["to"] or ""
    if not to:
        return kind in ("", "ix")
    if match["path"] == "/usr/lib/cordon/entry":
        return kind == "pix" and bool(re.fullmatch(rf"&cordon\.{name}\.[a-z0-9-]+", to))
    return kind in ("px", "Px") and bool(re.fullmatch(rf"cordon\.{name}\.[a-z0-9-]+", to)) and "w" not in match["access"]


@lru_cache(maxsize=8)
def file_rules(text: str) -> list[re.Match[str]]:
    return [match for match in map(FILE_RULE.fullmatch, rules(text)) if match]


def granted(text: str, path: str, letter: str) -> bool:
    """Whether some rule grants this access, and no denial takes it back."""
    matches = [match for match in file_rules(text)
               if letter in match["access"].lower() and expression(match["path"]).fullmatch(path)]
    return bool(matches) and not any(match["deny"] for match in matches)


def out_of_reach(agent: dict) -> list[tuple[str, str]]:
    places = [(path, "w") for path in UNWRITABLE] + [(path, "r") for path in UNREADABLE] + [(path, "x") for path in UNRUNNABLE]
    if not agent["workspace"]["execute"]:
        places += [(f"{agent['workspace']['path']}/x", letter) for letter in "mx"] + [("/tmp/x", "x"), ("/dev/shm/x", "m")]
    return [(path.replace("{agent}", agent["name"]), letter) for path, letter in places]


def asked_for(agent: dict, path: str) -> bool:
    """A device or path that this manifest names itself, having passed the manifest's own refusals."""
    workspace = agent["workspace"]
    named = [*agent["limits"]["devices"], *workspace["read_only"], *workspace["read_write"], *agent["programs"],
             agent["command"][0]]
    return any(path == each or path.startswith(each + "/") for each in named)


def rendered(manifest: list[dict]) -> tuple[list[dict], list[dict]] | None:
    try:
        resolved = resolve(manifest, known_tools(), "agents")
    except ManifestError:
        return None
    try:
        return resolved, apparmor_profiles(resolved)
    except AnsibleFilterError as refused:  # more tools with secrets than one profile can lead to
        assert "AppArmor leads from one" in str(refused)
        return None


@settings(max_examples=80, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(manifests())
def test_whatever_the_manifest_says_compiles(parser, tmp_path_factory, manifest):
    found = rendered([manifest])
    if found:
        place = tmp_path_factory.mktemp("p")
        assert parser.compile([profile["text"] for profile in found[1]], place, "-Ono-expr-simplify") == ""


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(manifests(), min_size=1, max_size=2))
def test_whatever_the_manifest_says_nothing_forbidden_is_granted(manifest):
    found = rendered(manifest)
    if not found:
        return
    resolved, profiles = found
    assert mistakes([Wanted(each["name"], each["mode"], each["text"]) for each in profiles]) == []
    by_name = {agent["name"]: agent for agent in resolved}
    for profile in profiles:
        agent = by_name[profile["agent"]]
        assert forbidden(agent, profile["text"]) == []
        reached = [(path, letter) for path, letter in out_of_reach(agent)
                   if granted(profile["text"], path, letter) and not asked_for(agent, path)]
        assert reached == [], profile["name"]


def test_most_of_these_manifests_are_rendered():
    """Else the properties above would say little."""
    count = {"rendered": 0, "all": 0}

    @settings(max_examples=200, deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(manifests())
    def look(manifest):
        count["all"] += 1
        count["rendered"] += rendered([manifest]) is not None

    look()
    assert count["rendered"] > count["all"] / 8, count


@pytest.mark.parametrize("bad", INJECTIONS + ["/x y", "/x,y", "/é", "/x\ny", "/x'y", "/x?", "/{a,b}"])
@pytest.mark.parametrize("where", [
    lambda bad: {"command": [bad]}, lambda bad: {"workspace": {"read_only": [bad]}},
    lambda bad: {"workspace": {"read_write": [bad]}},
    lambda bad: {"denied": [bad]}, lambda bad: {"limits": {"devices": ["/dev" + bad]}}, lambda bad: {"tools": [bad]},
    lambda bad: {"secrets": [{"name": bad}]}, lambda bad: {"name": bad},
    lambda bad: {"secrets": [{"name": "token", "tools": [bad]}]}, lambda bad: {"mode": bad}, lambda bad: {"inner_sandbox": bad},
])
def test_a_value_that_could_be_syntax_is_refused_with_its_place(where, bad):
    with pytest.raises(ManifestError, match=r"agents\[0\]\."):
        resolve([{"name": "a", "command": ["/usr/bin/true"], **where(bad)}], known_tools(), "agents")


@pytest.mark.parametrize(("rule", "why"), [
    ("/usr/bin/x rUx,", "unconfined"), ("/usr/bin/x rpux,", "unconfined"),
    ("/usr/bin/x Pix -> cordon.b.main,", "another agent's"), ("/usr/bin/x rwPx -> cordon.a.main,", "written by the agent"),
    ("/usr/lib/cordon/entry pix -> &cordon.b.main,", "another agent's"), ("change_profile -> **,", "any profile"),
    ("ptrace (trace) peer=unconfined,", "foreign"), ("capability sys_admin,", "a capability"), ("deny /x r,", "silent"),
    ("include <abstractions/base>", "unknown rules"), ("/x rw, /** rw,", "two in one line"), ("network packet raw,", "raw"),
    ("file,", "everything"), ("userns,", "namespaces"), ("mount,", "mounts"),
])
def test_the_second_look_finds(rule, why):
    agent = {"name": "a", "inner_sandbox": "deny"}
    assert forbidden(agent, f"abi <abi/3.0>,\nprofile cordon.a {{\n  {rule}\n}}\n") == [rule], why


def test_the_second_look_knows_denials_and_patterns():
    text = ("profile cordon.a {\n  /etc/{,**} rw,\n  audit deny /etc/{shadow,gshadow}{,-} mrwklx,\n"
            "  /srv/[^.]*/?x r,\n}\n")
    assert granted(text, "/etc/a/b", "w") and granted(text, "/etc/", "r") and granted(text, "/srv/a/bx", "r")
    assert not granted(text, "/etc/shadow", "r") and not granted(text, "/srv/.a/bx", "r") and not granted(text, "/etcx", "r")
