# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""apparmor_info: each part on its own, from a host made of files."""
from __future__ import annotations

import hashlib
import json
import os

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils import _apparmor_info, _facts_processes
from ansible_collections.cordon.agent_host.plugins.module_utils._facts_source import Source
from ansible_collections.cordon.agent_host.plugins.modules.apparmor_info import GATHER, read

POLICY = "/sys/kernel/security/apparmor"
TEXT = "profile cordon.a {\n}\n"
KNOWN = {"mode": "enforce", "hash": "ab", "source_sha256": hashlib.sha256(TEXT.encode()).hexdigest(), "since": 1.0}
GAP = [{"class": "userns", "why": "x", "control": "y", "remains": ""}]
PROMOTED = {"a": {"promoted_at": 1.0, "by": "gate"}}
FILES = {
    "/sys/module/apparmor/parameters/enabled": "Y\n",
    f"{POLICY}/features/domain/stack": "yes\n",
    f"{POLICY}/features/policy/versions/v8": "yes\n",
    f"{POLICY}/policy/revision": "42\n",
    f"{POLICY}/profiles": "cordon.a (enforce)\nman (enforce)\nbusybox (unconfined)\n",
    f"{POLICY}/policy/profiles/cordon.a.7/name": "cordon.a\n",
    f"{POLICY}/policy/profiles/cordon.a.7/mode": "enforce\n",
    f"{POLICY}/policy/profiles/cordon.a.7/raw_sha1": "ab\n",
    "/etc/cordon/apparmor.json": json.dumps({"enforced": True, "profiles": {"cordon.a": KNOWN}, "unenforced": GAP}),
    "/etc/cordon/manifest.json": json.dumps({"agents": [{"name": "a"}]}),
    "/etc/cordon/promotions.json": json.dumps(PROMOTED),
    "/etc/apparmor.d/cordon.a": TEXT,
    "/etc/passwd": "root:x:0:0::/root:/bin/sh\nagent-a:x:998:998::/x:/y\nagent-b:x:997:997::/x:/y\n",
}


@pytest.fixture
def host(tmp_path, monkeypatch):
    """host.write(PATH, TEXT), host.read(PARTS...)"""
    monkeypatch.setattr(_facts_processes, "SETTLE_SECONDS", 0)

    class Host:
        def write(self, path, text):
            place = tmp_path / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)

        def process(self, pid, uid, label):
            self.write(f"/proc/{pid}/status", f"Name:\tx\nState:\tS\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")
            self.write(f"/proc/{pid}/attr/apparmor/current", label + "\n")

        def remove(self, path):
            os.unlink(tmp_path / path.lstrip("/"))

        def read(self, *gather, agents=None, run=None):
            return read(Source(run or never, str(tmp_path)), list(gather), agents)

    here = Host()
    for path, text in FILES.items():
        here.write(path, text)
    here.process(12, 998, "cordon.a//&cordon.a.main (enforce)")
    here.process(13, 0, "unconfined")
    return here


def never(*_arguments, **_keywords):
    raise AssertionError("no program may be started")


def test_support_and_promotions_read_one_file(host, monkeypatch):
    opened = []
    text = Source.text
    monkeypatch.setattr(Source, "text", lambda self, path, **more: (opened.append(path), text(self, path, **more))[1])
    assert host.read("support", "promotions") == {
        "supported": True, "enabled": "Y", "abi": None, "promotions": PROMOTED, "unreadable": {}}
    assert opened == ["/sys/module/apparmor/parameters/enabled"]


@pytest.mark.parametrize(("files", "abi"), [
    (["3.0", "kernel-5.4-vanilla"], "3.0"), (["3.0", "4.0", "4.0-ip"], "4.0"), (["2.0"], None),
])
def test_the_newest_abi_that_we_write_and_the_parser_has(host, files, abi):
    for name in files:
        host.write(f"/etc/apparmor.d/abi/{name}", "query {}")
    assert host.read("support")["abi"] == abi


@pytest.mark.parametrize(("path", "text", "supported"), [
    ("/sys/module/apparmor/parameters/enabled", "N\n", False),
    ("/sys/module/apparmor/parameters/enabled", None, False),
])
def test_a_host_without_apparmor_says_so(host, path, text, supported):
    host.remove(path)
    if text:
        host.write(path, text)
    found = host.read(*[part for part in GATHER if part != "parser"])
    assert found["supported"] is supported
    assert found["profiles"] is None and found["drift"] is None and found["enabled"] == "N"


def test_nobody_promoted_is_an_empty_mapping(host):
    host.remove("/etc/cordon/promotions.json")
    assert host.read("promotions")["promotions"] == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', "\xff"])
def test_promotions_that_cannot_be_used_are_an_error_not_a_demotion(host, text):
    host.write("/etc/cordon/promotions.json", text)
    with pytest.raises(_apparmor_info.Unusable, match=r"/etc/cordon/promotions\.json .*in burn-in again"):
        host.read("promotions")


def test_profiles_are_counted_and_nothing_drifts(host):
    found = host.read("profiles")
    assert found["profiles"] == {"cordon.a": {"mode": "enforce", "hash": "ab", "hash_kind": "raw_sha1"}}
    assert found["counts"] == {"enforce": 2, "unconfined": 1}
    assert found["drift"] == [] and found["unenforced"] == GAP and found["recorded"] == {"cordon.a": KNOWN}


@pytest.mark.parametrize(("path", "text", "problem"), [
    (f"{POLICY}/policy/profiles/cordon.a.7/mode", "complain\n", "the kernel has it in complain, recorded was enforce"),
    (f"{POLICY}/policy/profiles/cordon.a.7/raw_sha1", "cd\n", "the kernel has another policy under its name"),
    (f"{POLICY}/policy/profiles/cordon.a.7/name", "cordon.b\n", "the kernel does not have it"),
    ("/etc/cordon/apparmor.json", "{}", "it is loaded, but no run recorded it"),
    ("/etc/apparmor.d/cordon.a", TEXT + "#", "/etc/apparmor.d/cordon.a was edited"),
    ("/etc/apparmor.d/disable/cordon.a", "", "/etc/apparmor.d/disable/cordon.a overrides it at boot"),
    ("/etc/apparmor.d/force-complain/cordon.a", "", "/etc/apparmor.d/force-complain/cordon.a overrides it at boot"),
])
def test_drift_is_named(host, path, text, problem):
    host.write(path, text)
    assert {"profile": "cordon.a", "problem": problem} in host.read("profiles")["drift"]


def test_a_missing_file_is_drift(host):
    host.remove("/etc/apparmor.d/cordon.a")
    assert "is missing" in host.read("profiles")["drift"][0]["problem"]


def test_processes_are_in_their_cage_or_not(host):
    host.process(14, 998, "unconfined")
    host.process(15, 998, "cordon.a (enforce)")
    host.process(16, 998, "cordon.b//&cordon.b.main (enforce)")
    host.process(17, 997, "unconfined")
    found = host.read("agents")["agents"]
    assert (found["a"]["confined"], found["a"]["unconfined"]) == (1, 3)
    assert found["a"]["modes"] == ["enforce", "unconfined"]
    assert [(each["pid"], each["confined"]) for each in found["a"]["processes"]] == [
        (12, True), (14, False), (15, False), (16, False)]
    assert found["b"]["unconfined"] == 1, "a user that no manifest names is looked at too"


def test_only_the_agents_asked_for_are_looked_at(host):
    host.process(17, 997, "unconfined")
    assert set(host.read("agents", agents=["a"])["agents"]) == {"a"}
    assert host.read("agents", agents=["gone"])["agents"] == {
        "gone": {"user": "agent-gone", "processes": [], "modes": [], "confined": 0, "unconfined": 0}}


def test_features_and_revision(host):
    found = host.read("kernel")
    assert found["features"] == {"domain/stack": "yes", "policy/versions/v8": "yes"} and found["revision"] == 42


def test_the_revision_is_read_once(host, monkeypatch):
    """A second read waits for the next change of policy (Linux: security/apparmor/apparmorfs.c, ns_revision_read)."""
    reads = []
    real = os.read
    monkeypatch.setattr(os, "read", lambda handle, size: (reads.append(handle), real(handle, size))[1])
    assert host.read("kernel")["revision"] == 42
    assert len(reads) == 1


def test_the_parser_s_version(host, tmp_path):
    host.write("/usr/sbin/apparmor_parser", "")
    assert host.read("parser")["parser"] is None, "not executable"
    os.chmod(tmp_path / "usr/sbin/apparmor_parser", 0o755)
    found = host.read("parser", run=lambda argv, data=None: (0, "AppArmor parser version 3.0.8\nCopyright\n", ""))
    assert found["parser"] == "3.0.8"

