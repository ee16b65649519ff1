# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two layers, asked of the kernel and of processes that run inside them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.kernel
WORD = {"enforce": "enforce", "burn_in": "mixed"}
AUDIT_LOG = "/var/log/audit/audit.log"


def label(agent: dict[str, Any]) -> str:
    cage = f"cordon.{agent['name']}"
    return f"{cage}//&{cage}.main ({WORD[agent.get('mode', 'burn_in')]})"


@pytest.fixture
def records(host: Any) -> Callable[[str, int], list[str]]:
    """records(PROFILE, START): AppArmor's records of that profile from line START on."""

    def find(profile: str, start: int) -> list[str]:
        text = host.check_output(f"tail -n +{start} {AUDIT_LOG}")
        return [line for line in text.splitlines() if f'profile="{profile}"' in line]

    return find


@pytest.fixture
def here(host: Any) -> int:
    """The number of the next line of the audit log."""
    return int(host.check_output(f"wc -l < {AUDIT_LOG}")) + 1


def test_the_service_runs_in_both_layers(host: Any, agent: dict[str, Any], main_pid: Callable[[str], int]) -> None:
    assert host.check_output(f"cat /proc/{main_pid(agent['name'])}/attr/current") == label(agent)


def test_a_session_runs_in_both_layers(agent: dict[str, Any], as_agent: Callable[..., Any]) -> None:
    assert as_agent(agent["name"], "cat", "/proc/self/attr/current").stdout.strip() == label(agent)


def test_every_process_of_the_agent_carries_the_label(host: Any, agent: dict[str, Any]) -> None:
    found = host.check_output(
        f"for pid in $(pgrep -u agent-{agent['name']}); do cat /proc/$pid/attr/current; done").splitlines()
    assert set(found) == {label(agent)}


def test_the_kernel_holds_what_was_recorded(host: Any, agent: dict[str, Any]) -> None:
    recorded = json.loads(host.file("/etc/cordon/apparmor.json").content_string)["profiles"]
    for name, mode in (("", "enforce"), (".main", "enforce" if agent.get("mode") == "enforce" else "complain")):
        name = f"cordon.{agent['name']}{name}"
        found = host.check_output(
            "cd /sys/kernel/security/apparmor/policy/profiles; for d in cordon.*;"
            f" do [ \"$(cat $d/name)\" = {name} ] && cat $d/mode $d/raw_sha*; done; true").split()
        assert found == [mode, recorded[name]["hash"]]


@pytest.mark.parametrize("script", [
    "ls / /etc /usr/bin >/dev/null; id; date; sort /etc/passwd | head -n 1",
    "cd ~/workspace && rm -rf repo && git init -q repo && cd repo && echo x > f && git add f &&"
    " git -c user.name=a -c user.email=a@example.org commit -qm x && git log --oneline && rm -rf ../repo",
    "python3 -c 'import ssl, sqlite3, socket; ssl.create_default_context(); print(socket.getaddrinfo(\"localhost\", 443))'",
    "cd ~/workspace && printf '#!/bin/sh\\necho ran\\n' > s && chmod +x s && ./s && rm s",
    "sleep 60 & kill $!",
    "python3 -c 'import multiprocessing as m; q = m.Queue(); q.put(1); q.get()'",
    "test \"$(cat ~/.vault/github_token)\"",
])
def test_honest_work_is_not_denied(
    as_agent: Callable[..., Any], records: Callable[..., list[str]], here: int, script: str
) -> None:
    assert as_agent("scout", "sh", "-ec", script).rc == 0
    found = records("cordon.scout", here) + records("cordon.scout.main", here)
    assert [line for line in found if 'apparmor="DENIED"' in line] == []


@pytest.mark.parametrize(("script", "part"), [
    ("echo x > ~/.ssh/id_ed25519", "/.ssh/id_ed25519"),
    ("mkdir -p ~/workspace/.ssh && echo x > ~/workspace/.ssh/authorized_keys", "authorized_keys"),
    ("/usr/bin/su -c id", "/usr/bin/su"),
    ("/usr/bin/unshare -U true", "/usr/bin/unshare"),
    ("/usr/bin/systemd-run true", "/usr/bin/systemd-run"),
    ("/usr/bin/perl -e 1", "/usr/bin/perl"),
    ("echo changeprofile unconfined > /proc/self/attr/current", "attr/current"),
    ("ls /srv/agents", "/srv/agents/"),
    ("python3 -c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)'", "sock_type=\"raw\""),
    ("/usr/lib/*-linux-gnu/ld-linux-*.so.* /usr/bin/id", "ld-linux"),
])
def test_an_attack_is_denied_and_logged(
    as_agent: Callable[..., Any], records: Callable[..., list[str]], here: int, eventually: Callable[..., Any],
    script: str, part: str,
) -> None:
    assert as_agent("scout", "sh", "-c", script).rc != 0
    assert eventually(lambda: [line for line in records("cordon.scout", here)
                               if 'apparmor="DENIED"' in line and part in line])


@pytest.mark.parametrize("path", ["/etc/shadow", "/etc/sudoers", "/etc/cordon/manifest.json", "/proc/1/environ"])
def test_even_root_inside_the_label_is_refused(
    host: Any, records: Callable[..., list[str]], here: int, eventually: Callable[..., Any], path: str
) -> None:
    """File permissions would refuse the agent's user first; root shows that AppArmor does too."""
    stacked = shlex.quote("cordon.scout//&cordon.scout.main")
    assert host.run(f"aa-exec -p {stacked} -- cat {path}").rc != 0
    assert eventually(lambda: [line for line in records("cordon.scout", here) if 'apparmor="DENIED"' in line])


@pytest.mark.parametrize("way", [
    "cp /usr/bin/cat ~/workspace/mycat && ~/workspace/mycat /proc/self/attr/current",
    "printf '#!/bin/sh\\ncat /proc/self/attr/current\\n' > ~/workspace/w && chmod +x ~/workspace/w && ~/workspace/w",
    "env -i /usr/bin/cat /proc/self/attr/current",
    "python3 -c 'import os; os.execv(\"/usr/bin/cat\", [\"cat\", \"/proc/self/attr/current\"])'",
])
def test_no_exec_leaves_the_layers(as_agent: Callable[..., Any], way: str) -> None:
    assert as_agent("scout", "sh", "-c", way).stdout.strip() == "cordon.scout//&cordon.scout.main (enforce)"


def test_burn_in_logs_what_enforce_would_refuse_and_the_cage_refuses_the_rest(
    as_agent: Callable[..., Any], records: Callable[..., list[str]], here: int, eventually: Callable[..., Any]
) -> None:
    assert as_agent("scribe", "cat", "/etc/fstab").rc == 0
    assert as_agent("scribe", "/usr/bin/perl", "-e", "1").rc != 0
    assert eventually(lambda: [line for line in records("cordon.scribe.main", here)
                               if 'apparmor="ALLOWED"' in line and "/etc/fstab" in line])
    assert eventually(lambda: [line for line in records("cordon.scribe", here)
                               if 'apparmor="DENIED"' in line and "/usr/bin/perl" in line])


def test_reading_a_secret_leaves_one_record(
    as_agent: Callable[..., Any], records: Callable[..., list[str]], here: int, eventually: Callable[..., Any]
) -> None:
    assert as_agent("scout", "cat", "/srv/agents/scout/.vault/github_token").rc == 0
    opened = eventually(lambda: [line for line in records("cordon.scout.main", here)
                                 if 'apparmor="AUDIT" operation="open"' in line and "/.vault/github_token" in line])
    assert len(opened) == 1
    assert not [line for line in records("cordon.scout", here) if 'apparmor="AUDIT"' in line]
