# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""apparmor_profiles and apparmor_info against the real kernel and parser, with everything that can go wrong on a host.

Each test adds profiles of its own, cordon.zz_*, to those that the converge loaded, and the module takes them away again.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shlex
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ansible
import pytest

pytestmark = pytest.mark.kernel
ETC, PARSER = "/etc/apparmor.d", "/usr/sbin/apparmor_parser"
PLACE = "/root/zz"
POLICY = "/sys/kernel/security/apparmor/policy/profiles"

Profile = dict[str, str]
Run = Callable[..., dict[str, Any]]


def profile(name: str, rule: str = "/etc/passwd r,", mode: str = "enforce", abi: str = "3.0") -> Profile:
    flags = "attach_disconnected" + (", complain" if mode == "complain" else "")
    text = f"abi <abi/{abi}>,\n\nprofile cordon.zz_{name} flags=({flags}) {{\n  {rule}\n}}\n"
    return {"name": f"cordon.zz_{name}", "mode": mode, "text": text}


# Run on the guest, with ansible-core's module_utils beside it: what AnsiballZ does, but unpacked once for all tests. The
# profiles of the converge, as the module was given them, are put before those of the test.
RUNNER = f"""
import base64, glob, json, os, runpy, sys
sys.path.insert(0, "{PLACE}")
module, options = json.loads(base64.b64decode(sys.argv[1]))
options["_ansible_remote_tmp"] = "~/.ansible/tmp"
if "profiles" in options:
    base = sorted(path for path in glob.glob("{ETC}/cordon.*") if not os.path.basename(path).startswith("cordon.zz_"))
    texts = {{os.path.basename(path): open(path).read() for path in base}}
    options["profiles"] = [
        {{"name": name, "mode": "complain" if ", complain)" in text else "enforce", "text": text}}
        for name, text in texts.items()] + options["profiles"]
from ansible.module_utils import basic
basic._ANSIBLE_ARGS, basic._ANSIBLE_PROFILE = json.dumps({{"ANSIBLE_MODULE_ARGS": options}}).encode(), "legacy"
runpy.run_module("ansible_collections.cordon.agent_host.plugins.modules." + module, run_name="__main__")
"""


@pytest.fixture(scope="module")
def unpacked() -> None:
    """The collection's modules, and what they need of ansible-core, in PLACE on the guest."""
    packed = io.BytesIO()
    core, ours = Path(ansible.__file__).parent, Path(os.environ["CORDON_COLLECTIONS"]) / "ansible_collections/cordon/agent_host"
    with tarfile.open(fileobj=packed, mode="w", dereference=True) as tar:
        for path in (core / "release.py", core / "module_utils"):
            tar.add(path, f"ansible/{path.name}", filter=lambda entry: None if "__pycache__" in entry.name else entry)
        for name in ("modules", "module_utils"):
            for path in (ours / "plugins" / name).glob("*.py"):
                tar.add(path, f"ansible_collections/cordon/agent_host/plugins/{name}/{path.name}")
        for name, text in (("run.py", RUNNER), ("ansible/__init__.py", "")):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    subprocess.run(["ssh", "-F", f"{os.environ['CORDON_TESTBED']}/ssh_config", "agenthost-1",
                    f"rm -rf {PLACE} && mkdir -m 700 {PLACE} && tar -x -C {PLACE}"], input=packed.getvalue(), check=True)


@pytest.fixture
def run(host: Any, unpacked: None) -> Run:
    """run(MODULE, OPTION=...): the module's answer, failed or not.

    inside: commands that make the host a worse one, in a mount namespace that only the module's process is in.
    """

    def call(module: str, inside: str = ":", **options: Any) -> dict[str, Any]:
        words = base64.b64encode(json.dumps([module, options]).encode()).decode()
        script = f"{inside}; exec python3 {PLACE}/run.py {words}"
        done = host.run(f"unshare --mount --propagation private sh -ec {shlex.quote(script)}")
        assert done.stdout, done.stderr
        return dict(json.loads(done.stdout))

    return call


@pytest.fixture
def load(run: Run) -> Iterator[Run]:
    """load(PROFILE...): those beside the converge's. Taken away in the end."""
    yield lambda *profiles, **options: run("apparmor_profiles", profiles=list(profiles), **options)
    assert not run("apparmor_profiles", profiles=[]).get("failed")


@pytest.fixture
def state(host: Any) -> Callable[[], str]:
    """Every file, mode and hash of ours: what a failed run must leave as it was."""
    return lambda: str(host.check_output(
        f"cd {ETC}; for f in .cordon* cordon.* disable/cordon* force-complain/cordon* /etc/cordon/apparmor.json;"
        " do [ -e $f ] && echo $f && sha256sum < $f; done;"
        f" cd {POLICY}; for d in cordon.*; do cat $d/name $d/mode $d/raw_sha*; done | paste - - - | sort"))


def instead(script: str) -> str:
    """Commands that put another program at the parser's path; the real one is /root/zz/real."""
    return (f"cp {PARSER} /root/zz/real; printf %s {shlex.quote(script)} > /root/zz/other; chmod 755 /root/zz/other;"
            f" mount --bind /root/zz/other {PARSER}")


def test_a_run_that_changes_nothing_starts_no_parser(host: Any, load: Run, state: Callable[[], str]) -> None:
    before = state()
    answer = load(inside=instead("#!/bin/sh\ntouch /root/zz/started\nexit 1\n"))
    assert answer["changed"] is False and answer["compared_by"] == "hash"
    assert not host.file("/root/zz/started").exists
    assert state() == before


def test_the_kernel_holds_what_was_compiled_and_the_next_boot_finds_it(host: Any, load: Run) -> None:
    answer = load(profile("a"), profile("b", mode="complain"))
    assert answer["loaded"] == {"cordon.zz_a": "the kernel does not have it", "cordon.zz_b": "the kernel does not have it"}
    record = json.loads(host.file("/etc/cordon/apparmor.json").content_string)["profiles"]["cordon.zz_a"]
    sums = host.check_output(
        f"for sum in sha1sum sha256sum; do {PARSER} -Q -K -T -S {ETC}/cordon.zz_a | $sum; done").split()
    assert record["hash"] in sums
    before = host.check_output("cat /sys/kernel/security/apparmor/policy/profiles/cordon.zz_a.*/raw_sha*")
    assert host.check_output(f"{PARSER} --replace --show-cache {ETC}/cordon.zz_a {ETC}/cordon.zz_b 2>&1").count("Cache hit") == 2
    assert host.check_output("cat /sys/kernel/security/apparmor/policy/profiles/cordon.zz_a.*/raw_sha*") == before


@pytest.mark.parametrize(("drift", "why"), [
    (f"{PARSER} -C -r {ETC}/cordon.zz_a", "the kernel has it in complain"),
    (f"sed 's/passwd/group/' {ETC}/cordon.zz_a > /root/x && {PARSER} -r /root/x && rm /root/x", "another policy under its name"),
    ("printf cordon.zz_a > /sys/kernel/security/apparmor/.remove", "the kernel does not have it"),
    (f"mkdir -p {ETC}/force-complain && ln -s nowhere {ETC}/force-complain/cordon.zz_a && {PARSER} -r {ETC}/cordon.zz_a", ""),
    (f"mkdir -p {ETC}/disable && ln -s ../cordon.zz_a {ETC}/disable/cordon.zz_a", ""),
    (f"mkdir -p {ETC}/local && echo 'broken {{' > {ETC}/local/cordon.zz_a && echo '}}' >> {ETC}/cordon.zz_a", ""),
], ids=["complain", "edited", "unloaded", "forced", "disabled", "broken"])
def test_drift_is_mended(host: Any, load: Run, state: Callable[[], str], drift: str, why: str) -> None:
    load(profile("a"))
    before = [line for line in state().splitlines() if "\t" in line]
    host.check_output(drift)
    answer = load(profile("a"))
    assert answer["changed"] and why in str(answer["loaded"])
    assert [line for line in state().splitlines() if "\t" in line] == before
    assert load(profile("a"))["changed"] is False


@pytest.mark.parametrize(("bad", "part"), [
    (profile("bad", "/etc/passwd q,"), "profile cordon.zz_bad, line 4: syntax error"),
    (profile("bad", abi="99.0"), "profile cordon.zz_bad, line 1: Could not open 'abi/99.0'"),
    (profile("bad", "new_rule_of_2030 to=all,"), "profile cordon.zz_bad, line 4: syntax error"),
    (profile("bad", "include <local/nowhere>"), "profile cordon.zz_bad, line 4: Could not open"),
    (profile("bad", "/usr/bin/x px -> a,\n  /usr/bin/{x,y} px -> b,"), "conflicting x modifiers"),
])
def test_one_broken_profile_changes_nothing(load: Run, state: Callable[[], str], bad: Profile, part: str) -> None:
    load(profile("a"))
    before = state()
    answer = load(profile("a", "/etc/group r,"), profile("c"), bad)
    assert answer.get("failed") and part in answer["msg"] and "nothing was changed" in answer["msg"]
    assert state() == before


def test_what_the_kernel_refuses_puts_back_the_rest(load: Run, state: Callable[[], str]) -> None:
    """Loaded in this order: a (changed), b (new), bad (cut short, as by a parser's fault)."""
    load(profile("a"))
    before = state()
    cut = ("#!/bin/sh\n/root/zz/real \"$@\" || exit\n"
           "for word; do case $word in --cache-loc=*) cache=${word#*=} ;; esac; done\n"
           "for f in $cache/*/cordon.zz_bad; do head -c 600 $f > $f.x && mv $f.x $f; done\n")
    answer = load(profile("a", "/etc/group r,"), profile("b"), profile("bad"), inside=instead(cut))
    assert answer.get("failed") and "the kernel refused profile cordon.zz_bad" in answer["msg"], answer
    assert "files and kernel are as they were" in answer["msg"]
    assert state() == before
    assert load(profile("a"))["changed"] is False


def test_a_parser_that_fails_changes_nothing(load: Run, state: Callable[[], str]) -> None:
    before = state()
    answer = load(profile("a"), inside=instead("#!/bin/sh\necho it broke >&2\nexit 1\n"))
    assert answer.get("failed") and "it broke" in answer["msg"]
    assert state() == before


def test_no_parser_is_an_error(load: Run, state: Callable[[], str]) -> None:
    before = state()
    hidden = "mount -t tmpfs none /usr/sbin"
    assert "install the package apparmor" in load(profile("a"), inside=hidden)["msg"]
    assert state() == before


# cat ends with an error, since it fills the place: that is what it is for.
@pytest.mark.parametrize(("inside", "part"), [
    (f"mount --bind {ETC} {ETC}; mount -o remount,bind,ro {ETC}", "Read-only file system"),
    (f"mkdir /root/zz/full; cp -a {ETC}/. /root/zz/full; mount -t tmpfs -o size=4m none {ETC}; cp -a /root/zz/full/. {ETC};"
     f" rm -r /root/zz/full; cat /dev/zero > {ETC}/zero 2>/dev/null || true", "No space left on device"),
    ("mount --bind /etc/cordon /etc/cordon; mount -o remount,bind,ro /etc/cordon", "Read-only file system"),
    ("mkdir -p /root/.ansible/tmp; mount -t tmpfs -o size=4k none /root/.ansible/tmp", "No space left on device"),
    ("umount /sys/kernel/security", "mount -t securityfs securityfs /sys/kernel/security"),
    ("mount --bind /dev/null /sys/module/apparmor/parameters/enabled", "remove apparmor=0"),
], ids=["read-only", "full", "record read-only", "no room to compile", "no securityfs", "off"])
def test_a_host_that_cannot_take_it_keeps_what_it_has(
    load: Run, state: Callable[[], str], inside: str, part: str
) -> None:
    load(profile("a"))
    held = state()
    answer = load(profile("a", "/etc/group r,"), profile("b"), inside=inside)
    assert answer.get("failed") and part in answer["msg"], answer
    assert state() == held


def test_nothing_is_removed_under_a_running_process(host: Any, load: Run, state: Callable[[], str]) -> None:
    # Without the rule for signals, systemd could not even end it.
    load(profile("a", "/** mrix,\n  signal (receive),"))
    held = state()
    host.check_output("systemd-run --service-type=exec --unit=zz --property=AppArmorProfile=cordon.zz_a /usr/bin/sleep infinity")
    try:
        answer = load()
    finally:
        host.check_output("systemctl stop zz")
    assert "cordon.zz_a: still in use by pid" in answer["msg"]
    assert state() == held
    assert load()["removed"] == ["cordon.zz_a"]


def test_two_runs_at_once_load_once(run: Run, load: Run) -> None:
    with ThreadPoolExecutor(2) as both:
        answers = list(both.map(lambda _turn: load(profile("a"), profile("b")), range(2)))
    assert sorted(answer["changed"] for answer in answers) == [False, True], answers


def test_the_record_says_what_the_kernel_leaves_to_others(host: Any, run: Run, load: Run) -> None:
    answer = load()
    found = {entry["class"]: entry["control"] for entry in answer["unenforced"]}
    assert "nftables" in found["inet"]
    # Since Linux 6.7 AppArmor decides on user namespaces itself.
    if host.file("/sys/kernel/security/apparmor/features/namespaces/mask").exists:
        assert "userns" not in found
    else:
        assert "RestrictNamespaces=" in found["userns"]
    assert json.loads(host.file("/etc/cordon/apparmor.json").content_string)["unenforced"] == answer["unenforced"]


def test_info_tells_it_in_one_call(host: Any, run: Run) -> None:
    found = run("apparmor_info")
    assert found["supported"] is True and found["drift"] == [] and found["unreadable"] == {}
    assert set(found["profiles"]) == set(host.check_output(f"cd {ETC} && ls -d cordon.*").split())
    assert found["features"]["domain/stack"] == "yes"
    assert host.check_output(f"{PARSER} --version").splitlines()[0].endswith(found["parser"])
    assert found["agents"]["scout"]["confined"] >= 1 and found["agents"]["scout"]["unconfined"] == 0


def test_the_revision_rises_and_asking_does_not_wait(run: Run, load: Run) -> None:
    before = run("apparmor_info", gather=["kernel"])["revision"]
    load(profile("a"))
    assert run("apparmor_info", gather=["kernel"])["revision"] > before
