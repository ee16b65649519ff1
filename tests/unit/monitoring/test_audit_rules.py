# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules that agents need, and what the kernel has of them."""

from __future__ import annotations

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils import _audit_kernel, _audit_rules

# As `auditctl -l` of 3.0.9 (Debian 12) prints rules that were loaded.
LISTED = """\
-a always,exit -F arch=b64 -S execve,execveat -F uid=999 -F key=cordon-exec
-a always,exit -F arch=b64 -S connect,sendto,sendmsg -F exit=-EACCES -F uid=999 -F key=cordon-connect
-w /etc/apparmor.d -p wa -k cordon-tamper
-w /etc/passwd -p wa -k identity
-a always,exit -F arch=b64 -S adjtimex,settimeofday -F key=time-change
"""


@pytest.mark.parametrize(
    ("uids", "ranges"),
    [([], []), ([5], [(5, 5)]), ([7, 5, 6, 5], [(5, 7)]), ([999, 998, 1005], [(998, 999), (1005, 1005)])],
)
def test_neighbouring_users_share_rules_and_no_stranger_does(uids: list, ranges: list) -> None:
    assert _audit_rules.uid_ranges(uids) == ranges


def test_fifty_agents_cost_no_more_rules_than_one() -> None:
    assert len(_audit_rules.render(range(950, 1000), "x86_64", [])) == len(_audit_rules.render([999], "x86_64", []))


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_rendered_rules_are_what_the_kernel_would_list(machine: str) -> None:
    lines = _audit_rules.render([999, 1001, 1002], machine, ["/etc/cordon"])
    rules = [_audit_rules.parse(line) for line in lines]
    assert len(set(rules)) == len(lines)
    assert {rule.key for rule in rules} == set(_audit_rules.KEYS)
    assert _audit_rules.plan(lines, "\n".join(lines)) == ([], [])


def test_arm64_has_none_of_the_old_calls() -> None:
    text = "\n".join(_audit_rules.render([999], "aarch64", []))
    assert "b32" not in text
    assert not {"open", "unlink", "mkdir"} & set(text.replace(",", " ").split())


def test_every_kind_of_refusal_is_asked_for() -> None:
    text = "\n".join(_audit_rules.render([999], "x86_64", []))
    for error in ("EACCES", "EPERM", "EROFS", "EHOSTUNREACH", "ECONNREFUSED"):
        assert f"exit=-{error}" in text


def test_an_unknown_machine_is_named() -> None:
    with pytest.raises(ValueError, match="riscv64"):
        _audit_rules.render([999], "riscv64", [])


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("-w /etc/cordon/ -p wa -k x", "-w /etc/cordon -p aw -k x"),
        ("-w /etc/cordon -p wa -k x", "-a always,exit -S all -F dir=/etc/cordon -F perm=wa -F key=x"),
        ("-a exit,always -F arch=b64 -S a,b -F uid=1 -k x", "-a always,exit -F arch=b64 -S b -S a -F uid=1 -F key=x"),
    ],
)
def test_the_same_rule_in_two_forms_is_equal(left: str, right: str) -> None:
    assert _audit_rules.parse(left) == _audit_rules.parse(right)


def test_a_plan_adds_what_lacks_and_takes_away_only_ours() -> None:
    wanted = [
        "-a always,exit -F arch=b64 -S execveat,execve -F uid=999 -F key=cordon-exec",
        "-w /etc/cordon -p wa -k cordon-tamper",
    ]
    plan = _audit_rules.plan(wanted, LISTED)
    assert plan.add == ["-w /etc/cordon -p wa -k cordon-tamper"]
    assert plan.delete == [
        "-d always,exit -F arch=b64 -S connect,sendto,sendmsg -F exit=-EACCES -F uid=999 -F key=cordon-connect",
        "-W /etc/apparmor.d -p wa -k cordon-tamper",
    ]


@pytest.mark.parametrize("line", ["No rules", "-a", "LIST_RULES: exit,always", "-x y"])
def test_what_is_no_rule_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="audit rule"):
        _audit_rules.parse(line)


@pytest.mark.parametrize(
    ("others", "lines"),
    [
        ("", ["-b 8192", "--backlog_wait_time 0", "-f 1"]),
        ("-D\n-b 8192\n--backlog_wait_time 60000\n-f 1\n", ["-b 8192", "--backlog_wait_time 0"]),
        ("  -b 65536\n-f 2\n", ["-b 65536", "--backlog_wait_time 0"]),
    ],
)
def test_a_larger_backlog_and_a_chosen_failure_mode_of_others_stay(others: str, lines: list) -> None:
    assert _audit_rules.settings(others, 8192, 0) == lines


@pytest.mark.parametrize(
    ("status", "lines"),
    [
        ({"enabled": 1, "backlog_limit": 8192, "backlog_wait_time": 0}, []),
        ({"enabled": 1, "backlog_limit": 65536, "backlog_wait_time": 60000}, ["--backlog_wait_time 0"]),
        ({"enabled": 0, "backlog_limit": 64, "backlog_wait_time": 0}, ["-b 8192", "-e 1"]),
    ],
)
def test_only_settings_that_differ_are_given_to_the_kernel(status: dict, lines: list) -> None:
    assert _audit_rules.setting_lines(status, 8192, 0) == lines


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((1, "", "Error - audit support not in kernel"), "audit support not in kernel"),
        ((0, "", "Cannot send netlink message: Operation not permitted"), "Operation not permitted"),
        ((4, "", ""), "exit status 4"),
    ],
)
def test_a_kernel_without_audit_is_told_from_one_without_rules(answer: tuple, message: str) -> None:
    with pytest.raises(_audit_kernel.NoAudit, match=message):
        _audit_kernel.read(lambda argv: answer, "auditctl")


def test_locked_rules_are_recognised() -> None:
    answers = {"-s": (0, "enabled 2\nlost 3\nloginuid_immutable 0 unlocked\n", ""), "-l": (0, "No rules\n", "")}
    kernel = _audit_kernel.read(lambda argv: answers[argv[1]], "auditctl")
    assert kernel.immutable
    assert kernel.status["lost"] == 3
