# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The facts' parsers, on text as the programs and the kernel print it."""

from __future__ import annotations

import errno
import struct

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils import (
    _facts_agent,
    _facts_apparmor,
    _facts_audit,
    _facts_firewall,
    _facts_host,
    _facts_limits,
    _facts_monitoring,
    _facts_processes,
    _facts_units,
    _facts_users,
    _facts_vault,
    _mountinfo,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cordon.a//&cordon.a.main (mixed)", ("cordon.a//&cordon.a.main", "mixed")),
        ("cordon.a (enforce)", ("cordon.a", "enforce")),
        ("unconfined", ("unconfined", None)),
        ("/usr/bin/odd (name) (complain)", ("/usr/bin/odd (name)", "complain")),
        ("", (None, None)),
        (None, (None, None)),
    ],
)
def test_label_and_mode(text, expected):
    assert _facts_processes.split_label(text) == expected


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("cordon.a//&cordon.a.main", ["cordon.a", "cordon.a.main"]),
        ("cordon.a//&cordon.a.main//null-/usr/bin/git", ["cordon.a", "cordon.a.main"]),
        ("unconfined", ["unconfined"]),
        (None, []),
    ],
)
def test_layers_of_a_label(label, expected):
    assert _facts_processes.profiles(label) == expected


def process(label="cordon.a//&cordon.a.main", mode="mixed", **changes):
    fields = {
        "pid": 7,
        "program": "/bin/sh",
        "label": label,
        "mode": mode,
        "profiles": _facts_processes.profiles(label),
        "no_new_privs": 1,
        "seccomp": 2,
        "capabilities": "0000000000000000",
    }
    return dict(fields, **changes)


@pytest.mark.parametrize(
    ("label", "mode", "wanted", "in_place"),
    [
        ("cordon.a//&cordon.a.main", "mixed", "burn_in", True),
        ("cordon.a//&cordon.a.git", "mixed", "burn_in", True),
        ("cordon.a//&cordon.a.main//null-/usr/bin/git", "mixed", "burn_in", True),
        ("cordon.a//&cordon.a.main", "enforce", "enforce", True),
        ("cordon.a//&cordon.a.main", "complain", "burn_in", False),
        ("cordon.a//&cordon.a.main", "mixed", "enforce", False),
        ("cordon.a", "enforce", "burn_in", False),
        ("cordon.a.main", "complain", "burn_in", False),
        ("cordon.b//&cordon.b.main", "mixed", "burn_in", False),
        ("cordon.a//&cordon.b.main", "mixed", "burn_in", False),
        ("cordon.a//&cordon.a.main//&other", "mixed", "burn_in", False),
        ("unconfined", None, "burn_in", False),
        (None, None, "burn_in", False),
    ],
)
def test_a_process_is_in_place_only_in_its_cage_and_one_of_its_inner_profiles(label, mode, wanted, in_place):
    found = _facts_apparmor.labels_out_of_place([process(label, mode)], "a", wanted)
    assert found == ([] if in_place else [f"pid 7 (/bin/sh): {label} ({mode})"])


@pytest.mark.parametrize(
    "changes",
    [
        {"no_new_privs": 0},
        {"no_new_privs": None},
        {"seccomp": 0},
        {"seccomp": None},
        {"capabilities": "0000000000000400"},
        {"capabilities": None},
        {"capabilities": ""},
    ],
)
def test_a_process_without_the_second_layer_is_named(changes):
    assert _facts_agent.weakened([process()]) == []
    assert len(_facts_agent.weakened([process(**changes)])) == 1


def test_processes_that_could_not_be_read_are_not_in_place():
    assert _facts_apparmor.labels_out_of_place(None, "a", "enforce") is None
    assert _facts_agent.weakened(None) is None
    full = process(capabilities="000001ffffffffff")
    assert len(_facts_agent.weakened([full])) == 1
    assert _facts_agent.weakened([full], inner_sandbox=True) == []


@pytest.mark.parametrize(("state", "threads", "over"), [("S", 1, False), ("Z", 1, True), ("X", 1, True), ("Z", 2, False)])
def test_a_zombie_whose_threads_live_has_not_ended(state, threads, over):
    assert _facts_processes.ended(f"Name:\tx\nState:\t{state} (x)\nThreads:\t{threads}\n") is over


def test_status_gives_every_uid_that_a_process_may_act_as():
    text = "Name:\tsu\nState:\tS (sleeping)\nUid:\t0\t1001\t0\t0\n"
    text += "NoNewPrivs:\t0\nSeccomp:\t2\nCapBnd:\t000001ffffffffff\n"
    assert _facts_processes.owners(text) == [0, 1001, 0, 0]
    assert _facts_processes.owners("") == []
    assert _facts_processes.parse_status(text) == {
        "name": "su",
        "state": "S",
        "no_new_privs": 0,
        "seccomp": 2,
        "capabilities": "000001ffffffffff",
    }


def test_profiles_are_counted_by_mode():
    text = "a (enforce)\na//b (enforce)\n/usr/bin/x (complain)\nstub (unconfined)\n"
    assert _facts_apparmor.count_modes(text) == {"complain": 1, "enforce": 2, "unconfined": 1}


def netlink(kind, payload):
    return struct.pack("=IHHII", 16 + len(payload), kind, 0, 1, 0) + payload


def test_audit_status_is_the_kernels_struct():
    message = netlink(1000, struct.pack("=8I", 0, 2, 1, 512, 0, 8192, 7, 0))
    assert _facts_audit.parse_status(message) == {
        "enabled": 2,
        "daemon": True,
        "daemon_pid": 512,
        "failure": 1,
        "lost": 7,
        "backlog_limit": 8192,
    }


def test_a_refusal_carries_the_kernels_reason():
    message = netlink(2, struct.pack("=i", -errno.EPERM) + b"\0" * 16)
    with pytest.raises(OSError, match="AUDIT_GET") as caught:
        _facts_audit.parse_status(message)
    assert caught.value.errno == errno.EPERM


RULES = """\
-a always,exit -F arch=b64 -S execve,execveat -F uid>=998 -F uid<=999 -F key=cordon-exec
-a always,exit -F arch=b64 -S open,openat -F exit=-EACCES -F uid=999 -F key=cordon-denied
-a always,exit -F arch=b64 -S openat -F uid!=0 -F key=all
-a always,exit -F arch=b64 -S connect -F auid=999 -F key=human
-w /etc/apparmor.d -p wa -k cordon-tamper
"""


@pytest.mark.parametrize(
    ("uid", "keys", "calls"),
    [
        (999, ["cordon-exec", "cordon-denied", "all"], ["execve", "execveat", "open", "openat"]),
        (998, ["cordon-exec", "all"], ["execve", "execveat", "openat"]),
        (99, ["all"], ["openat"]),
        (0, [], []),
        (None, None, None),
    ],
)
def test_audit_rules_are_matched_to_a_user_by_uid_and_range(uid, keys, calls):
    rules = _facts_audit.rules_of(_facts_audit.parse_rules(RULES), uid)
    assert (None if rules is None else [rule.rpartition("key=")[2] for rule in rules]) == keys
    assert _facts_audit.system_calls(rules) == calls


def test_no_rules_is_an_empty_list_and_no_answer_is_null():
    assert _facts_audit.parse_rules("No rules\n") == []
    assert _facts_audit.parse_rules(None) is None


LISTING = """\
table inet cordon {
	map agents {
		type uid : verdict
		elements = { 998 : goto egress_b, 999 : goto egress_a }
	}

	map unused {
		type uid : verdict
		elements = { 1000 : goto egress_c }
	}

	chain output {
		type filter hook output priority filter - 10; policy accept;
		meta skuid vmap @agents
	}
}
"""


def test_bound_uids_are_those_of_the_map_that_a_rule_uses():
    assert _facts_firewall.bound_uids(LISTING) == [998, 999]
    assert _facts_firewall.bound_uids(LISTING.replace("meta skuid vmap @agents", "accept")) == []


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("2s", 2000000),
        ("500ms", 500000),
        ("1min 30s", 90000000),
        ("1.500s", 1500000),
        ("infinity", None),
        ("", None),
        (None, None),
        ("2 apples", None),
    ],
)
def test_time_spans_of_systemctl(text, microseconds):
    assert _facts_units.span_us(text) == microseconds


def test_systemctl_show_is_one_block_per_unit():
    text = "Id=a.service\nExecStart={ path=/x ; argv[]=/x a=b }\n\n\nId=b.slice\nActiveState=inactive\n"
    units = _facts_units.parse_show(text)
    assert list(units) == ["a.service", "b.slice"]
    assert units["a.service"]["ExecStart"] == "{ path=/x ; argv[]=/x a=b }"


@pytest.mark.parametrize(
    ("states", "active"),
    [
        ({}, False),
        ({"cordon-agent@a.service": "inactive"}, False),
        ({"cordon-agent@a.service": "failed"}, False),
        ({"cordon-agent@a.service": "activating"}, True),
        ({"cordon-agent@a.service": "active"}, True),
        ({"cordon-session-a-1.service": "active"}, True),
        ({"cordon-session-a-1.service": "failed"}, False),
        ({"cordon-session-ab-1.service": "active"}, False),
    ],
)
def test_a_session_is_whatever_of_the_agent_runs(states, active):
    units = {name: {"ActiveState": state} for name, state in states.items()}
    assert _facts_units.session(units, "a")["active"] is active


UP = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "Result": "success", "NRestarts": "0",
      "ActiveEnterTimestampMonotonic": "5000000000"}  # fmt: skip
DOWN = {"ActiveState": "activating", "SubState": "auto-restart", "Result": "exit-code", "NRestarts": "7"}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, []),
        ({"NRestarts": "1", "ActiveEnterTimestampMonotonic": "4399000000"}, []),
        (
            {"NRestarts": "3", "ActiveEnterTimestampMonotonic": "4980000000"},
            ["x.service has ended by itself: systemd has started it again 3 times, the last time 20 seconds ago"],
        ),
        ({**DOWN, "ActiveEnterTimestampMonotonic": "0"}, ["x.service is activating, auto-restart, exit-code"]),
        ({"ActiveState": "failed", "SubState": "failed", "Result": "oom-kill"}, ["x.service is failed, failed, oom-kill"]),
        (
            {"LoadState": "not-found", "ActiveState": "inactive", "SubState": "dead"},
            ["x.service is not-found, inactive, dead"],
        ),
    ],
)
def test_a_service_that_ends_again_and_again_is_not_steady(changed, words):
    units = {"x.service": {**UP, **changed}}
    assert _facts_units.unsteady(units, "x.service", True, 5000.0) == words
    assert _facts_units.unsteady(units, "x.service", False, 5000.0) == []


def test_whether_a_service_is_steady_may_be_unknown():
    assert _facts_units.unsteady(None, "x.service", True, 5000.0) is None
    assert _facts_units.unsteady({}, "x.service", None, 5000.0) is None
    assert _facts_units.unsteady({}, "x.service", True, 5000.0) == ["x.service is unknown"]


def test_without_systemd_there_is_no_telling_whether_anything_runs():
    assert _facts_units.session(None, "a") is None


@pytest.mark.parametrize(
    ("text", "percent"), [("200000 100000", 200), ("50000 100000", 50), ("max 100000", None), ("", None), (None, None)]
)
def test_cpu_max_as_per_cent(text, percent):
    assert _facts_limits.quota_percent(text) == percent


def test_limits_of_manifest_systemd_and_kernel_are_in_the_same_units():
    wanted = _facts_limits.wanted({"cpu": "150%", "memory": "512M", "tasks": 64, "gpu": False, "devices": []})
    of_systemd = _facts_limits.of_systemd(
        {"CPUQuotaPerSecUSec": "1.500s", "MemoryMax": "536870912", "MemorySwapMax": "0", "TasksMax": "64"}
    )
    assert wanted == of_systemd == {"cpu_percent": 150, "memory_bytes": 536870912, "swap_bytes": 0, "tasks": 64}


def test_an_unlimited_slice_has_null_limits():
    unlimited = {
        "CPUQuotaPerSecUSec": "infinity",
        "MemoryMax": "infinity",
        "MemorySwapMax": "infinity",
        "TasksMax": "infinity",
    }
    assert set(_facts_limits.of_systemd(unlimited).values()) == {None}


@pytest.mark.parametrize(
    ("field", "state"),
    [
        ("!", "locked"),
        ("*", "locked"),
        ("!!", "locked"),
        ("", "empty"),
        ("$y$j9T$abc", "set"),
        ("!$y$j9T$abc", "locked"),
    ],
)
def test_password_state_gives_away_no_hash(field, state):
    assert _facts_users.password_state(field) == state


@pytest.mark.parametrize(
    ("text", "grants"),
    [
        ("User agent-a is not allowed to run sudo on host.\n", []),
        (
            "Matching Defaults entries for agent-a on host:\n    env_reset\n\n"
            "User agent-a may run the following commands on host:\n"
            "    (ALL : ALL) ALL\n    (root) NOPASSWD: /bin/sh\n",
            ["(ALL : ALL) ALL", "(root) NOPASSWD: /bin/sh"],
        ),
        ("something else entirely\n", None),
        (None, None),
    ],
)
def test_sudo_grants(text, grants):
    assert _facts_users.sudo_grants(text) == grants


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("/var/log/cordon/events.jsonl {\n  daily\n  rotate 90\n}\n", 90),
        ("/var/log/cordon/*.jsonl {\n  weekly\n  rotate 13\n  compress\n}\n", 91),
        ("# kept\n/var/log/other /var/log/cordon/events.jsonl {\n daily\n rotate 90\n maxage 30\n}\n", 30),
        ("/var/log/cordon/events.jsonl {\n daily\n rotate 90\n maxsize 10M\n}\n", None),
        ("/var/log/cordon/events.jsonl {\n rotate 90\n}\n", None),
        ("/var/log/other {\n daily\n rotate 90\n}\n", None),
        ("", None),
    ],
)
def test_retention_is_what_logrotate_promises_and_nothing_more(text, days):
    assert _facts_monitoring.retention_days(text, _facts_monitoring.LOG) == days


def test_os_release():
    release = 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n'
    assert _facts_host.parse_os_release(release)["version_id"] == "12"


MOUNT = _mountinfo.Mount("/m", "fuse.gocryptfs", "cordon-vault-a", ["nodev", "noexec", "nosuid", "ro"])


@pytest.mark.parametrize(
    ("changes", "count"),
    [({}, 0), ({"source": "cordon-vault-b"}, 1), ({"type": "tmpfs"}, 1), ({"options": ["rw", "nosuid"]}, 3)],
)
def test_a_mount_that_is_not_the_agents_own_vault_is_named(changes, count):
    assert len(_facts_vault.mount_faults(MOUNT._replace(**changes), "a")) == count


def test_a_mount_that_can_be_written_to_is_right_where_the_manifest_says_so():
    written = MOUNT._replace(options=["nodev", "noexec", "nosuid", "rw"])
    assert _facts_vault.mount_faults(written, "a") == ["option ro is missing"]
    assert _facts_vault.mount_faults(written, "a", writable=True) == []


@pytest.mark.parametrize(
    ("bare", "count"),
    [
        ({"immutable": True, "empty": True}, 0),
        ({"immutable": False, "empty": True}, 1),
        ({"immutable": False, "empty": False}, 2),
        ({"immutable": None, "empty": True}, None),
        (None, None),
    ],
)
def test_a_closed_vault_lets_no_plaintext_reach_the_disk(bare, count):
    found = _facts_vault.closed_faults(bare)
    assert (None if found is None else len(found)) == count


# The second is the proxy's, and never in the vault.
ENTRY = {"user": "agent-a", "secrets": [{"name": "token"}, {"name": "key", "broker": {"host": "api.example.org"}}]}


@pytest.mark.parametrize(
    ("secrets", "expected"),
    [
        ([{"name": "token", "owner": "agent-a", "mode": "0400"}], []),
        ([], ["token: missing"]),
        ([{"name": "token", "owner": "root", "mode": "0400"}], ["token: belongs to root"]),
        ([{"name": "token", "owner": "agent-a", "mode": "0440"}], ["token: mode 0440, not 0400"]),
        (
            [
                {"name": "token", "owner": "agent-a", "mode": "0400"},
                {"name": "old", "owner": "agent-a", "mode": "0600"},
            ],
            ["old: mode 0600, not 0400"],
        ),
        (None, None),
    ],
)
def test_secrets_are_the_agents_alone(secrets, expected):
    assert _facts_vault.faults(secrets, ENTRY) == expected
