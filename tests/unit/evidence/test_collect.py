# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Collecting from a small host made of files: what is read, and what is said of what cannot be read."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils import _facts, _facts_audit, _facts_processes
from ansible_collections.cordon.agent_host.plugins.module_utils._facts_source import Source

AGENT = {
    "name": "a",
    "user": "agent-a",
    "home": "/srv/agents/a",
    "mode": "burn_in",
    "secrets": [{"name": "token"}],
    "limits": {"cpu": "200%", "memory": "4G", "tasks": 512, "gpu": False, "devices": []},
    "burn_in": {"days": 14, "active_days": 3, "replay": []},
}
UID = 998
MOUNT = (
    "100 29 0:50 / /srv/agents/a/.vault ro,nosuid,nodev,noexec,relatime shared:50 - "
    "fuse.gocryptfs cordon-vault-a ro,user_id=0,group_id=0,allow_other\n"
)
POLICY = "/sys/kernel/security/apparmor"
LISTING = (
    "table inet cordon {\n\tmap agents {\n\t\ttype uid : verdict\n\t\telements = { 998 : goto egress_a }\n\t}\n\n"
    "\tchain output {\n\t\tmeta skuid vmap @agents\n\t}\n}\n"
)
STATUS = "Name:\tsleep\nUid:\t998\t998\t998\t998\nNoNewPrivs:\t1\nSeccomp:\t2\nCapBnd:\t0000000000000000\n"
FILES = {
    "/etc/passwd": f"root:x:0:0:root:/root:/bin/bash\nagent-a:x:{UID}:{UID}::/srv/agents/a:/usr/sbin/nologin\n",
    "/etc/group": f"root:x:0:\ndocker:x:990:agent-a\nagent-a:x:{UID}:\n",
    "/etc/shadow": "root:*:1::::::\nagent-a:!:1::::::\n",
    "/etc/os-release": "ID=debian\n",
    "/etc/cordon/manifest.json": json.dumps({"agents": [AGENT], "allow_unenforced": []}),
    "/etc/cordon/firewall.json": json.dumps({"sha256": hashlib.sha256(LISTING.encode()).hexdigest()}),
    "/etc/cordon/apparmor.json": json.dumps({"profiles": {"cordon.a": {"mode": "enforce", "hash": "ab"}}}),
    "/etc/cron.deny": "agent-a\n",
    "/etc/at.allow": "",
    "/sys/module/apparmor/parameters/enabled": "Y\n",
    f"{POLICY}/profiles": "cordon.a (enforce)\ncordon.a.main (complain)\nman_groff (enforce)\n",
    f"{POLICY}/policy/profiles/cordon.a.7/name": "cordon.a\n",
    f"{POLICY}/policy/profiles/cordon.a.7/mode": "enforce\n",
    f"{POLICY}/policy/profiles/cordon.a.7/raw_sha1": "ab\n",
    f"{POLICY}/policy/profiles/cordon.a.main.8/name": "cordon.a.main\n",
    f"{POLICY}/policy/profiles/cordon.a.main.8/mode": "complain\n",
    f"{POLICY}/policy/profiles/cordon.a.main.8/raw_sha256": "cd\n",
    f"{POLICY}/policy/profiles/cordon.a.main.8/raw_sha1": "ef\n",
    "/proc/swaps": "Filename\tType\n",
    "/proc/self/mountinfo": MOUNT,
    "/proc/12/status": STATUS,
    "/proc/12/attr/current": "cordon.a//&cordon.a.main (mixed)\n",
    "/proc/12/cgroup": "0::/cordon.slice/cordon-a.slice/cordon-agent@a.service\n",
    "/proc/13/status": STATUS.replace("998", "0"),
    "/srv/agents/a/.vault/token": "the secret itself",
    "/sys/fs/cgroup/cordon.slice/cordon-a.slice/cpu.max": "200000 100000\n",
    "/sys/fs/cgroup/cordon.slice/cordon-a.slice/memory.max": "4294967296\n",
    "/sys/fs/cgroup/cordon.slice/cordon-a.slice/memory.swap.max": "0\n",
    "/sys/fs/cgroup/cordon.slice/cordon-a.slice/pids.max": "512\n",
    "/usr/bin/systemctl": "",
    "/usr/sbin/nft": "",
    "/usr/sbin/auditctl": "",
    "/usr/bin/sudo": "",
}
SHOW = (
    "Id=cordon-agent@a.service\nActiveState=active\nUser=agent-a\n\n"
    "Id=cordon-a.slice\nActiveState=active\nControlGroup=/cordon.slice/cordon-a.slice\n"
)
ANSWERS = {
    "systemctl": (0, SHOW, ""),
    "nft": (0, LISTING, ""),
    "auditctl": (0, "-a always,exit -F arch=b64 -S execve -F uid=998 -F key=k\n", ""),
    "sudo": (0, "User agent-a is not allowed to run sudo on here.\n", ""),
}
AUDIT = {"enabled": 1, "daemon": True, "daemon_pid": 5, "failure": 1, "lost": 0, "backlog_limit": 8192}


class Host:
    """A root directory of files, and the answers that programs give."""

    def __init__(self, root):
        self.root, self.answers, self.calls = root, dict(ANSWERS), []
        for path, text in FILES.items():
            self.write(path, text)

    def write(self, path, text):
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        if "bin/" in path:
            place.chmod(0o755)

    def remove(self, path):
        (self.root / path.lstrip("/")).unlink()

    def run(self, argv, data=None):
        self.calls.append(argv)
        return self.answers[os.path.basename(argv[0])]

    def collect(self, **options):
        return _facts.collect(self.run, root=str(self.root), **options)


@pytest.fixture(name="host")
def fixture_host(tmp_path, monkeypatch):
    monkeypatch.setattr(_facts_audit, "_ask", lambda: b"")
    monkeypatch.setattr(_facts_audit, "parse_status", lambda message: dict(AUDIT))
    return Host(tmp_path)


def test_the_hosts_own_record_names_the_agents(host):
    facts = host.collect()
    assert list(facts["agents"]) == ["a"]
    assert facts["support"] == {"apparmor": True, "audit": True, "webhook": None, "heartbeat": None}


def test_a_declined_receiver_is_told_apart_from_one_that_is_not_known_and_no_address_is_kept(host):
    host.write("/etc/cordon/monitoring.json", json.dumps({"webhook_url": "https://x/TOKEN", "heartbeat_url": None}))
    facts = host.collect()
    assert facts["monitoring"]["receivers"] == {"webhook": True, "heartbeat": "declined"}
    assert "TOKEN" not in json.dumps(facts)


def test_an_agents_facts_come_from_kernel_and_system(host):
    agent = host.collect()["agents"]["a"]
    assert agent["apparmor"]["cage"] == {"name": "cordon.a", "mode": "enforce", "hash": "ab", "recorded_hash": "ab"}
    assert agent["apparmor"]["main"]["hash"] == "cd"  # the newer kernels' digest is preferred
    assert agent["processes"][0]["label"] == "cordon.a//&cordon.a.main"
    assert (agent["misplaced"], agent["weakened"]) == ([], [])
    assert agent["limits"] == dict(agent["expected"]["limits"], source="kernel")
    assert agent["firewall"]["bound"] is True
    assert agent["audit"]["calls"] == ["execve"]
    assert agent["session"]["active"] is True
    assert agent["user"]["password"] == "locked"
    assert agent["user"]["privileged_groups"] == ["docker"]
    assert (agent["user"]["cron"], agent["user"]["at"], agent["user"]["sudo"]) == (False, False, [])
    assert agent["vault"]["mounted"] is True


def test_a_root_owned_process_is_not_the_agents(host):
    assert [process["pid"] for process in host.collect()["agents"]["a"]["processes"]] == [12]


def test_a_process_that_kept_the_agents_uid_anywhere_is_the_agents(host):
    host.write("/proc/13/status", STATUS.replace("998\t998\t998\t998", "0\t0\t998\t0"))
    assert len(host.collect()["agents"]["a"]["misplaced"]) == 1


@pytest.mark.parametrize("state", ["Z (zombie)", "X (dead)"])
def test_a_process_that_has_ended_runs_nothing(host, state):
    host.write("/proc/12/status", STATUS + f"State:\t{state}\n")
    assert host.collect()["agents"]["a"]["processes"] == []


def test_a_process_that_is_still_starting_is_looked_at_twice(host, monkeypatch):
    host.write("/proc/12/attr/current", "unconfined\n")
    settle = []

    def sleep(seconds):
        settle.append(seconds)
        host.write("/proc/12/attr/current", FILES["/proc/12/attr/current"])

    monkeypatch.setattr(_facts_processes.time, "sleep", sleep)
    assert host.collect()["agents"]["a"]["misplaced"] == []
    assert len(settle) == 1


def test_a_process_that_stays_outside_is_found_and_one_whose_label_is_unreadable_too(host, monkeypatch):
    monkeypatch.setattr(_facts_processes, "SETTLE_SECONDS", 0)
    host.write("/proc/12/attr/current", "unconfined\n")
    assert host.collect()["agents"]["a"]["misplaced"] == ["pid 12 (sleep): unconfined (None)"]
    host.remove("/proc/12/attr/current")
    assert host.collect()["agents"]["a"]["misplaced"] == ["pid 12 (sleep): None (None)"]


def test_no_secret_no_password_hash_and_no_argument_is_collected(host):
    host.write("/etc/shadow", "agent-a:$y$j9T$hash:1::::::\n")
    host.write("/proc/12/cmdline", "sleep\0--password=hunter2\0")
    text = json.dumps(host.collect())
    assert "the secret itself" not in text
    assert "$y$" not in text
    assert "hunter2" not in text


def test_a_user_that_no_manifest_names_is_a_stray(host):
    host.write("/etc/passwd", FILES["/etc/passwd"] + "agent-old:x:997:997::/:/bin/sh\n")
    host.write("/proc/14/status", STATUS.replace("998", "997"))
    assert host.collect()["strays"] == [{"user": "agent-old", "processes": 1}]


def test_an_agent_whose_user_is_missing_has_null_facts_not_empty_ones(host):
    host.write("/etc/passwd", "root:x:0:0:root:/root:/bin/bash\n")
    agent = host.collect()["agents"]["a"]
    for fact in ("user", "processes", "misplaced", "weakened"):
        assert agent[fact] is None, fact
    assert agent["firewall"]["bound"] is None
    assert agent["audit"]["rules"] is None


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("/usr/bin/systemctl", lambda facts: facts["agents"]["a"]["session"]),
        ("/usr/sbin/nft", lambda facts: facts["firewall"]["present"]),
        ("/usr/sbin/auditctl", lambda facts: facts["audit"]["rules"]),
        ("/proc/self/mountinfo", lambda facts: facts["agents"]["a"]["vault"]["mounted"]),
        ("/etc/shadow", lambda facts: facts["agents"]["a"]["user"]["password"]),
        (
            "/sys/fs/cgroup/cordon.slice/cordon-a.slice/memory.max",
            lambda facts: facts["agents"]["a"]["limits"]["memory_bytes"],
        ),
    ],
)
def test_what_cannot_be_read_is_null_and_says_why(host, path, where):
    host.remove(path)
    facts = host.collect()
    assert where(facts) is None
    assert any(path.rpartition("/")[2] in what for what in facts["unreadable"])


@pytest.mark.parametrize(
    ("answer", "present"),
    [
        ((1, "", "Error: No such file or directory\n"), False),
        ((1, "", "Operation not permitted (you must be root)\n"), None),
    ],
)
def test_an_absent_table_and_an_unreadable_one_are_told_apart(host, answer, present):
    host.answers["nft"] = answer
    assert host.collect()["firewall"]["present"] is present


def test_sudo_that_is_not_installed_grants_nothing(host):
    host.remove("/usr/bin/sudo")
    assert host.collect()["agents"]["a"]["user"]["sudo"] == []


def test_an_answer_of_sudo_that_is_not_understood_is_null_and_kept(host):
    host.answers["sudo"] = (0, "", "")
    facts = host.collect()
    assert facts["agents"]["a"]["user"]["sudo"] is None
    assert "neither form" in facts["unreadable"]["sudo -l -U agent-a"]


def test_cron_is_open_to_all_where_neither_file_exists(host):
    host.remove("/etc/cron.deny")
    host.remove("/etc/at.allow")
    user = host.collect()["agents"]["a"]["user"]
    assert (user["cron"], user["at"]) == (True, False)


def test_a_closed_vault_is_judged_by_its_bare_mount_point(host):
    host.write("/proc/self/mountinfo", "")
    vault = host.collect()["agents"]["a"]["vault"]
    assert (vault["mounted"], vault["faults"], vault["secrets"]) == (False, [], None)
    assert vault["mount_point"]["empty"] is False


def test_the_notices_in_a_closed_vault_are_not_taken_for_plaintext(host):
    host.write("/proc/self/mountinfo", "")
    host.remove("/srv/agents/a/.vault/token")
    (host.root / "srv/agents/a/.vault/token").symlink_to("the vault is closed")
    vault = host.collect()["agents"]["a"]["vault"]
    assert vault["mount_point"]["empty"] is True


def test_the_agents_own_directory_in_its_vault_is_no_secret(host):
    before = host.collect()["agents"]["a"]["vault"]
    host.write("/srv/agents/a/.vault/own/token", "refreshed")
    after = host.collect()["agents"]["a"]["vault"]
    assert (after["secrets"], after["faults"]) == (before["secrets"], before["faults"])


def test_a_secret_that_is_just_being_written_is_no_fault(host):
    """Its other name lies there for a moment, and after a loss of power until the role runs; the agent is to start meanwhile."""
    before = host.collect()["agents"]["a"]["vault"]
    host.write("/srv/agents/a/.vault/.token.0123456789ab", "half")
    after = host.collect()["agents"]["a"]["vault"]
    assert (after["secrets"], after["faults"]) == (before["secrets"], before["faults"])


def test_a_vault_that_was_never_made_does_not_pass_for_a_closed_one(host):
    host.write("/proc/self/mountinfo", "")
    host.remove("/srv/agents/a/.vault/token")
    (host.root / "srv/agents/a/.vault").rmdir()
    vault = host.collect()["agents"]["a"]["vault"]
    assert (vault["mounted"], vault["faults"], vault["closed_faults"]) == (None, None, None)


def test_a_credential_directory_is_residue_only_while_the_vault_is_closed(host):
    host.write("/run/credentials/cordon-vault@a.service/key", "x")
    assert host.collect()["agents"]["a"]["vault"]["residue"] == []
    host.write("/proc/self/mountinfo", "")
    assert host.collect()["agents"]["a"]["vault"]["residue"] == ["/run/credentials/cordon-vault@a.service"]


@pytest.mark.parametrize("path", ["/sys/module/apparmor/parameters/enabled", f"{POLICY}/policy"])
def test_a_kernel_whose_policy_cannot_be_had_does_not_support_apparmor(host, path):
    place = host.root / path.lstrip("/")
    place.rename(place.with_name("gone"))
    facts = host.collect()
    assert facts["support"]["apparmor"] is False
    assert facts["agents"]["a"]["apparmor"]["cage"]["mode"] is None


@pytest.mark.parametrize(
    ("number", "supported"),
    [(errno.EPERM, False), (errno.ECONNREFUSED, False), (errno.EPROTONOSUPPORT, False), (errno.EIO, None)],
)
def test_a_refusal_by_the_kernel_is_no_audit_and_any_other_failure_is_unknown(host, monkeypatch, number, supported):
    def refuse():
        raise OSError(number, "no")

    monkeypatch.setattr(_facts_audit, "_ask", refuse)
    facts = host.collect()
    assert facts["support"]["audit"] is supported
    assert facts["audit"]["rules"] is None


def test_a_preflight_starts_one_program_only_and_knows_that_something_starts(host):
    facts = host.collect(agent="a", preflight=True)
    assert [os.path.basename(argv[0]) for argv in host.calls] == ["nft"]
    assert facts["agents"]["a"]["session"]["active"] is True


def test_an_agent_that_the_manifest_lacks_has_no_facts(host):
    assert host.collect(agent="ghost")["agents"] == {}


def test_a_record_that_is_not_json_is_no_record(host):
    host.write("/etc/cordon/apparmor.json", "{")
    facts = host.collect()
    assert facts["expected"]["apparmor"] is None
    assert "not JSON" in facts["unreadable"]["/etc/cordon/apparmor.json"]


def test_file_modes_are_told_with_links_not_followed(tmp_path):
    (tmp_path / "open").write_text("")
    (tmp_path / "open").chmod(0o666)
    (tmp_path / "link").symlink_to("/etc/shadow")
    source = Source(lambda argv, data=None: (0, "", ""), str(tmp_path))
    assert source.metadata("/open")["writable_by_others"] is True
    assert (source.metadata("/link")["kind"], source.metadata("/link")["writable_by_others"]) == ("link", False)
    assert source.metadata("/gone") is None


def test_the_immutable_flag_is_not_guessed(tmp_path):
    source = Source(lambda argv, data=None: (0, "", ""), str(tmp_path))
    (tmp_path / "d").mkdir()
    assert source.immutable("/d") in (False, None)
    (tmp_path / "l").symlink_to(tmp_path / "d")
    assert source.immutable("/l") is None
    assert stat.S_ISDIR(os.stat(tmp_path / "d").st_mode)
