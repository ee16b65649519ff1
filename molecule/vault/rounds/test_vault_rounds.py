# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rounds: an agent's sessions begin and end by every cause that there is, and nothing is left of their secrets.

Most rounds are made in the guest by vault_rounds.py, which looks after each for mounts, processes, keys and plaintext. For
the reboots and losses of power the guest's disk is searched from outside, while the guest is off.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import logging
import os
import random
import secrets
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

HERE = Path(__file__).parent
TESTBED = Path(os.environ.get("CORDON_TESTBED", ""))
REPOSITORY = os.environ.get("CORDON_REPOSITORY", "")
sys.path.insert(0, f"{REPOSITORY}/tests")
from testbed import guest

GUEST = guest.Guest("agenthost-1", TESTBED / "agenthost-1")
DISK = GUEST.directory / "disk.qcow2"
ENVIRONMENT = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": os.environ.get("CORDON_COLLECTIONS", ""), "ANSIBLE_NOCOLOR": "1"}
# A TPM takes a loss of power for a failed try. swtpm refuses after three, and forgives one in a thousand seconds; the chips of
# servers refuse after about 32 (docs/vault.md).
AS_SERVERS_HAVE_IT = "tpm2_dictionarylockout --setup-parameters --max-tries=32 --recovery-time=600 --lockout-recovery-time=600"
SCRIPT = "/run/vault_rounds.py"
CHUNK = 16 << 20

# All 200 of them by `make vault-rounds`; else one of each.
ALL = os.environ.get("VAULT_ROUNDS") == "all"
SHARED = HERE.parents[1] / "shared"
EACH: dict[str, int] = json.loads((SHARED / "rounds.json").read_text())
# scout alone has a limit of memory that a guest can reach.
ROUNDS = {"scout": {**EACH, "out of memory": 6}, "scribe": EACH}
# What changes, over and over, as the power is lost: the variable `change` of change.yml.
CHANGES = {
    "loss of power while its key changes": "password",
    "loss of power while its master key changes": "master",
    "loss of power while its secrets change": "secrets",
}
OUTSIDE = ("reboot", "loss of power, vault open", "loss of power, vault closed", "loss of power while it opens", *CHANGES)
if not ALL:
    ROUNDS = {name: dict.fromkeys(causes, 1) for name, causes in ROUNDS.items()}
    # Each takes a boot.
    OUTSIDE = ("reboot", "loss of power while it opens", "loss of power while its master key changes")
FOUND: dict[str, dict[str, str]] = yaml.safe_load((SHARED / "group_vars/all.yml").read_text())["vault_secrets"]
# Values that are nowhere on the guest before the rounds, its disk's free blocks included: what is found was leaked by them.
CANARIES = {agent: {name: secrets.token_hex(20) for name in values} for agent, values in FOUND.items()}
OTHER = {name: secrets.token_hex(20) for name in CANARIES["scribe"]}
# A session of the agent whose vault is read-only: asked to end, it takes some seconds, and needs its secret once more.
LAST_ACT = "/srv/agents/scout/workspace/last-act"
LATE = (f"trap 'sleep 5; sha256sum < /srv/agents/scout/.vault/database_url > {LAST_ACT}; sync; exit' TERM; "
        f"echo waits > {LAST_ACT}; while :; do sleep 1; done")

Round = dict[str, Any]


@pytest.fixture(scope="module")
def rounds(host: Any, request: pytest.FixtureRequest) -> Iterator[list[Round]]:
    """Every round, those of the two agents side by side; the table is printed when all are over."""
    _bring(CANARIES)
    host.check_output(f"printf %s {shlex.quote((SHARED / 'vault_rounds.py').read_text())} > {SCRIPT}")
    found: list[Round] = []
    workers = [threading.Thread(target=_inside, args=(name, found)) for name in ROUNDS]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    host.check_output(f"rm {SCRIPT}")
    _show(request, found)
    host.check_output(AS_SERVERS_HAVE_IT)
    found += [_outside(host, cause) for cause in OUTSIDE]
    _show(request, found)
    yield found
    _bring(FOUND)


def _show(request: pytest.FixtureRequest, found: list[Round]) -> None:
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(table(found))


def ssh(command: str) -> subprocess.CompletedProcess[str]:
    argv = ["ssh", "-F", str(TESTBED / "ssh_config"), "agenthost-1", command]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False)


def _inside(name: str, found: list[Round]) -> None:
    """The rounds of one agent, each told as it ends; what became of the script is a round too where it did not end well."""
    argv = ["ssh", "-F", str(TESTBED / "ssh_config"), "agenthost-1", f"python3 -B {SCRIPT} {name}"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as script:
        assert script.stdin and script.stdout and script.stderr
        script.stdin.write(json.dumps(ROUNDS[name]))
        script.stdin.close()
        for line in script.stdout:
            row = json.loads(line)
            if "cause" in row:
                found.append(row)
                logging.info("%s", row)
        said = script.stderr.read()
    if script.returncode:
        found.append({"agent": name, "cause": "(the script itself)", "seconds": 0, "left": [], "wrong": [said[-2000:]]})


# --- From outside --------------------------------------------------------------------------------------


def _outside(host: Any, cause: str) -> Round:
    """One round that the guest does not live to see the end of."""
    begun = time.monotonic()
    left: list[str] = []
    wrong: list[str] = []
    try:
        _through(host, cause, left, wrong)
    except (AssertionError, OSError, subprocess.SubprocessError) as error:
        wrong.append(str(error))
    return {"agent": "scribe", "cause": cause, "seconds": time.monotonic() - begun, "left": left, "wrong": wrong}


def _through(host: Any, cause: str, left: list[str], wrong: list[str]) -> None:
    """What it left and what went wrong goes into the lists."""
    _eventually(_digests, 180)
    before, wanted = _digests(), _needles()
    if cause == "reboot":
        ssh(f"cd /; setsid cordonctl run scout -- sh -c {shlex.quote(LATE)} > /dev/null 2>&1 < /dev/null &")
        _eventually(lambda: ssh(f"cat {LAST_ACT}").stdout == "waits\n", 120)
        subprocess.run(["make", "-s", "-C", REPOSITORY, "vm-reboot", f"TESTBED_DIR={TESTBED}"], check=True)
    else:
        changing = _change(CHANGES[cause]) if cause in CHANGES else None
        if changing is None:
            _prepare(cause)
        # QEMU closes the disk's image on SIGTERM; what the guest had in its own memory is gone, as in a loss of power.
        guest.stop(GUEST)
        if changing is not None:
            _end(changing)
        left += _on_disk(wanted)
        guest.boot_again(GUEST, "")
        guest.wait(GUEST, time.monotonic(), 600)
    if cause == "reboot":
        wrong += _last_act()
    if cause in CHANGES:
        wrong += _settled(before)
    try:
        _eventually(lambda: _digests() == before, 180)
    except AssertionError:
        wrong.append(f"the secrets are not as they were: {_digests()}")
    left += _on_disk({**wanted, **_needles()})


def _last_act() -> list[str]:
    """The vault closes after the last process of the agent, at a shutdown too."""
    read = ssh(f"cat {LAST_ACT}; rm {LAST_ACT}").stdout.split()[:1]
    digest = hashlib.sha256(CANARIES["scout"]["database_url"].encode()).hexdigest()
    return [] if read == [digest] else ["an agent that was still ending had lost its vault"]


def _prepare(cause: str) -> None:
    """Bring the vault of scribe into the state in which the power is lost."""
    if cause == "loss of power, vault open":
        ssh("sync")
    elif cause == "loss of power, vault closed":
        ssh("systemctl stop cordon-agent@scribe; sync")
    else:
        ssh("systemctl stop cordon-agent@scribe; systemctl start --no-block cordon-agent@scribe; sleep 0.3")


def _play(change: str, values: dict[str, dict[str, str]]) -> list[str]:
    """The command that runs change.yml against the guest."""
    variables = json.dumps({"change": change, "values": values, "other": OTHER})
    return ["ansible-playbook", f"--inventory={TESTBED}/inventory.yml", "--extra-vars", variables, str(HERE / "change.yml")]


def _bring(values: dict[str, dict[str, str]]) -> str:
    """Bring the vaults in order, with these values; what Ansible said."""
    done = subprocess.run(_play("nothing", values), capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    return done.stdout


def _change(what: str) -> subprocess.Popen[bytes]:
    """Change it again and again; return in the middle of a change."""
    if what == "master":
        ssh("systemctl stop cordon-agent@scribe; while findmnt /srv/agents/scribe/.vault; do sleep 0.2; done")
    changing = subprocess.Popen(_play(what, CANARIES), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=ENVIRONMENT,
                                start_new_session=True)
    assert changing.stdout is not None
    for line in changing.stdout:
        if line.startswith(b"changed:"):
            break
    assert changing.poll() is None, "change.yml did not change anything"
    time.sleep(random.uniform(0, 3))
    return changing


def _end(changing: subprocess.Popen[bytes]) -> None:
    """Kill it with what it has forked, which would wait for the guest. Ansible's workers have sessions of their own."""
    os.killpg(changing.pid, signal.SIGSTOP)  # no more of them
    forked = subprocess.run(["pgrep", "--parent", str(changing.pid)], capture_output=True, text=True, check=False).stdout.split()
    for group in (changing.pid, *map(int, forked)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    changing.wait()


def _settled(before: dict[str, str]) -> list[str]:
    """After the boot the agent has its vault, with each secret whole; then a run of the roles' modules leaves it as it was."""

    def each_is_whole() -> bool:
        found = _digests()
        return found.keys() == whole.keys() and all(found[name] in whole[name] for name in whole)

    whole = {name: {digest, hashlib.sha256(OTHER.get(name, "").encode()).hexdigest()} for name, digest in before.items()}
    wrong = []
    try:
        _eventually(each_is_whole, 180)
    except AssertionError:
        wrong.append(f"neither the old nor the new secrets: {_digests()}")
    for expected in ("", "changed=0"):
        said = _bring(CANARIES)
        if expected not in said:
            wrong.append(said[-2000:])
    return wrong


def _digests() -> dict[str, str]:
    """SHA-256 of each secret of scribe in its open vault; {} while it is closed."""
    done = ssh("cd /srv/agents/scribe/.vault && find * -type f -exec sha256sum {} +")
    return {name: digest for digest, name in (line.split() for line in done.stdout.splitlines())}


def _needles() -> dict[str, bytes]:
    """What may not be on the disk: the secret, the vault's key, its master key."""
    unseal = "systemd-creds decrypt --name=cordon-vault-scribe /etc/cordon/vault/scribe.cred -"
    key = ssh(unseal).stdout.strip()
    dump = "gocryptfs-xray -dumpmasterkey /var/lib/cordon/vault/scribe/gocryptfs.conf"
    master = ssh(f"{unseal} | {dump}").stdout.strip()
    assert len(key) == 64 and len(master) == 64, "the vault's key does not unseal"
    values = {name: ssh(f"cat /srv/agents/scribe/.vault/{name}").stdout.encode() for name in OTHER}
    others = {f"other {name}": value.encode() for name, value in OTHER.items()}
    keys = {"vault key": key.encode(), "master key": bytes.fromhex(master), "master key, hexadecimal": master.encode()}
    return {**values, **others, **keys}


def _on_disk(wanted: dict[str, bytes]) -> list[str]:
    """What the guest's disk holds of it: every block that it ever wrote, also those that no file has any more."""
    overlap, before, found = max(map(len, wanted.values())), b"", set()
    with DISK.open("rb") as disk:
        while block := disk.read(CHUNK):
            text = before + block
            found |= {name for name, needle in wanted.items() if needle in text}
            before = text[-overlap:]
    return [f"{name} on the guest's disk" for name in sorted(found)]


def _eventually(probe: Callable[[], Any], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not probe():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(1)


# --- What must hold ------------------------------------------------------------------------------------


def table(found: list[Round]) -> str:
    """Causes, rounds, what was left and lost, seconds."""
    by_cause: dict[str, list[Round]] = collections.defaultdict(list)
    for each in found:
        by_cause[each["cause"]].append(each)
    head = f"{'cause':40}{'rounds':>8}{'leftovers':>11}{'wrong':>7}{'seconds each':>14}"
    lines = [f"{cause:40}{len(its):8}{sum(len(one['left']) for one in its):11}{sum(len(one['wrong']) for one in its):7}"
             f"{sum(one['seconds'] for one in its) / len(its):14.1f}" for cause, its in by_cause.items()]
    total = f"{'all':40}{len(found):8}{sum(len(one['left']) for one in found):11}{sum(len(one['wrong']) for one in found):7}"
    return "\n".join(["", head, *lines, total])


def test_there_were_rounds_of_every_cause(rounds: list[Round]) -> None:
    assert len(rounds) >= (200 if ALL else 48)
    assert {each["cause"] for each in rounds} == {*ROUNDS["scout"], *OUTSIDE}


def test_nothing_was_left(rounds: list[Round]) -> None:
    assert [each for each in rounds if each["left"]] == []


def test_no_secret_was_lost_and_each_cause_did_what_it_says(rounds: list[Round]) -> None:
    assert [each for each in rounds if each["wrong"]] == []


def test_the_search_of_the_disk_finds_what_is_there(host: Any, rounds: list[Round]) -> None:
    """Text that the guest writes to a file, and removes again, is found on its disk."""
    token = hashlib.sha256(str(time.time()).encode()).hexdigest()
    host.check_output(f"printf %s {token} > /var/tmp/planted && sync && rm /var/tmp/planted")
    time.sleep(2)
    assert _on_disk({"token": token.encode()}) == ["token on the guest's disk"]
