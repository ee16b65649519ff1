# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A ruleset that shuts everybody out, tried: the host lets them in again by itself.

First by the module alone, then over SSH as in a play: a server in the host's namespace, ansible-playbook in the world's.
"""
from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.cordon.agent_host.plugins.module_utils import _nftables_ruleset

from .network import AGENT, SERVICES, Network, agent, allow, named

LITTLE = agent("a", AGENT, allow("10.20.0.0/24", 5432))
MORE = agent("a", AGENT, allow("10.20.0.0/24", 5432), named("git.example.org", 22, "tcp"))
# What the filter never renders, and somebody may write: nothing gets in or out any more, but for what stands already.
SHUT = """\
	chain shut {
		type filter hook input priority -10; policy drop;
		ct state established accept
	}
"""
CALL = ("tcp", "10.20.0.1", 8080)


def called(network: Network) -> str:
    return network.attempts("root", CALL, side=network.world)[0][0]


def state(network: Network) -> tuple[str, list[str]]:
    files = [(network.directory / name).read_text() for name in ("firewall.nft", "firewall.json")]
    return network.nft("--stateless", "list", "table", "inet", "cordon"), files


def until(seconds: float, done: Any) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if done():
            return True
        time.sleep(0.1)
    return False


def test_who_is_shut_out_gets_in_again_without_doing_anything(clean):
    clean.apply(LITTLE)
    before = state(clean)
    assert called(clean) == "answered"

    done = clean.apply(content=SHUT, users={}, confirm_within=5)
    assert (done["pending"], done["changed_parts"]) == (True, ["kernel", "file", "record"])
    assert called(clean) == "ETIMEDOUT"
    assert state(clean)[1] == before[1]  # a reboot would undo it as well

    assert until(8, lambda: state(clean) == before)
    assert called(clean) == "answered"
    late = clean.apply(state="confirmed")
    assert late["failed"]
    assert "nobody confirmed the change within 5 seconds, so it was undone" in late["msg"]
    assert not clean.apply(LITTLE, confirm_within=5)["changed"]


def test_the_first_ruleset_of_a_host_is_taken_away_again(clean):
    clean.apply(content=SHUT, users={}, confirm_within=1)
    assert until(5, lambda: "cordon" not in clean.nft("list", "tables"))
    assert not (clean.directory / "firewall.nft").exists()
    assert called(clean) == "answered"


def test_a_confirmed_change_stays_and_is_on_disk(clean):
    clean.apply(LITTLE)
    assert clean.apply(MORE, confirm_within=2)["pending"]
    confirmed = clean.apply(state="confirmed")
    assert (confirmed["changed"], confirmed["pending"]) == (True, False)
    after = state(clean)
    time.sleep(3)
    assert state(clean) == after
    assert not clean.apply(MORE)["changed"]
    assert not clean.apply(state="confirmed")["changed"]


def test_a_run_without_a_change_of_the_table_holds_nothing(clean):
    clean.apply(LITTLE)
    again = clean.apply(LITTLE, confirm_within=60)
    assert (again["changed"], again["pending"]) == (False, False)
    (clean.directory / "firewall.nft").write_text("table inet cordon {}\n")
    mended = clean.apply(LITTLE, confirm_within=60)
    assert (mended["changed_parts"], mended["pending"]) == (["file"], False)
    assert not (clean.directory / "pending").exists()


def test_a_check_holds_nothing_and_predicts_the_same(clean):
    predicted = clean.apply(LITTLE, confirm_within=60, check=True)
    done = clean.apply(LITTLE, confirm_within=60)
    assert predicted["changed_parts"] == done["changed_parts"] == ["kernel", "file", "record"]
    assert (predicted["diff"], predicted["pending"]) == (done["diff"], False)
    clean.apply(state="confirmed")


def test_what_returns_has_the_answers_and_the_counts_from_before(clean):
    clean.apply(MORE)
    clean.nft("add", "element", "inet", "cordon", "named4_a", "{ 203.0.113.9 . tcp . 22 timeout 60s }")
    clean.attempts(AGENT, ("tcp", "203.0.113.9", 443))
    counted = clean.counter("denied_a")
    clean.apply(LITTLE, confirm_within=1)
    assert "named4_a" not in clean.nft("list", "table", "inet", "cordon")

    assert until(5, lambda: "named4_a" in clean.nft("list", "table", "inet", "cordon"))
    assert clean.attempts(AGENT, ("tcp", "203.0.113.9", 22))[0][0] == "answered"
    assert clean.counter("denied_a") >= counted > 0
    assert not clean.apply(MORE)["changed"]


def test_a_second_run_before_the_confirmation_still_returns_to_the_first_table(clean):
    clean.apply(LITTLE)
    before = state(clean)
    clean.apply(MORE, confirm_within=60)
    clean.apply(MORE, confirm_within=1)
    assert until(5, lambda: state(clean) == before)


def test_a_run_that_does_not_wait_settles_one_that_does(clean):
    clean.apply(LITTLE)
    clean.apply(MORE, confirm_within=2)
    assert clean.apply(MORE)["changed_parts"] == ["file", "record"]
    after = state(clean)
    time.sleep(3)
    assert state(clean) == after


def test_a_ruleset_that_nft_refuses_arms_nothing(clean):
    clean.apply(LITTLE)
    assert clean.apply(content="\tchain x {\n\t\tnonsense\n\t}\n", confirm_within=1)["failed"]
    assert not list(clean.directory.glob("pending/*.nft"))


@pytest.mark.parametrize(("content", "users"), [
    (None, {"uid_a": AGENT}),
    ("\tmap agents {{\n\t\ttype uid : verdict\n\t\telements = {{ {uid} : drop }}\n\t}}\n"
     "\tchain output {{\n\t\ttype filter hook output priority 0;\n\t\tmeta skuid vmap @agents\n\t}}\n", {}),
], ids=["by name", "by number"])
def test_a_ruleset_that_binds_who_runs_this_is_refused(clean, content, users):
    """The operator came as an ordinary user and through sudo, which says so."""
    number = str(pwd.getpwnam(AGENT).pw_uid)
    options: dict[str, Any] = {"users": users, **({"content": content.format(uid=number)} if content else {})}
    assert not clean.apply(LITTLE, **options, check=True).get("failed")
    refused = clean.apply(LITTLE, **options, environment={"SUDO_UID": number})
    assert refused["failed"]
    assert f"binds uid {number} ({AGENT}), who runs this very module" in refused["msg"]
    assert "cordon" not in clean.nft("list", "tables")


def test_a_ruleset_that_binds_root_by_number_is_refused(clean):
    content = ("\tmap agents {\n\t\ttype uid : verdict\n\t\telements = { 0 : drop }\n\t}\n"
               "\tchain output {\n\t\ttype filter hook output priority 0;\n\t\tmeta skuid vmap @agents\n\t}\n")
    refused = clean.apply(content=content, users={}, confirm_within=1)
    assert "binds uid 0 (root), who is root" in refused["msg"]
    assert "cordon" not in clean.nft("list", "tables")


@pytest.fixture
def ssh(clean: Network) -> Iterator[Path]:
    """A directory with all that ansible-playbook needs to come in from the world."""
    place = clean.directory / "ssh"
    place.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / name)], check=True)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    settings = {"HostKey": place / "host", "AuthorizedKeysFile": place / "user.pub", "PermitRootLogin": "yes",
                "StrictModes": "no", "UsePAM": "no", "PidFile": "none", "ListenAddress": "10.20.0.1", "Port": "2222"}
    options = [item for key, value in settings.items() for item in ("-o", f"{key}={value}")]
    server = subprocess.Popen(["ip", "netns", "exec", clean.host, "/usr/sbin/sshd", "-D", "-f", "/dev/null", *options])
    common = f"-o UserKnownHostsFile={place}/known -o StrictHostKeyChecking=accept-new -o ConnectTimeout=3"
    # A short path: that of the shared connection's socket may have 107 characters.
    (place / "inventory.yml").write_text(yaml.safe_dump({"all": {"hosts": {"host": {
        "ansible_host": "10.20.0.1", "ansible_port": 2222, "ansible_user": "root", "ansible_ssh_common_args": common,
        "ansible_ssh_private_key_file": str(place / "user"), "ansible_python_interpreter": sys.executable,
        "ansible_control_path_dir": str(place), "ansible_pipelining": True}}}}))
    yield place
    server.kill()
    server.wait()
    shutil.rmtree(place)


def play(
    network: Network, place: Path, content: str, users: dict[str, str], seconds: int, ssh: str = "ssh"
) -> subprocess.CompletedProcess[str]:
    """One play over SSH: its first task opens the shared connection, its second changes the table."""
    task = {"cordon.agent_host.nftables_table": {
        "content": content, "users": users, "confirm_within": seconds,
        **{name: str(network.directory / file) for name, file in (
            ("path", "firewall.nft"), ("record", "firewall.json"), ("pending", "pending"))}}}
    (place / "play.yml").write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "tasks": [
        {"name": "Open the shared connection", "ansible.builtin.ping": {}}, {"name": "Change", **task}]}]))
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(network.collections), "ANSIBLE_HOME": str(place / "home"),
                   "ANSIBLE_SSH_ARGS": "-C -o ControlMaster=auto -o ControlPersist=10s", "ANSIBLE_NOCOLOR": "1",
                   "ANSIBLE_SSH_EXECUTABLE": ssh}
    playbook = [str(Path(sys.executable).parent / "ansible-playbook"), "-vvv", "-i", str(place / "inventory.yml")]
    return subprocess.run(["ip", "netns", "exec", network.world, *playbook, str(place / "play.yml")],
                          capture_output=True, text=True, check=False, env=environment)


def calls(done: subprocess.CompletedProcess[str]) -> int:
    """How often the module was run."""
    return sum("Using module file" in line and "nftables_table" in line for line in done.stdout.splitlines())


def rendered(*agents: dict[str, Any]) -> tuple[str, dict[str, str]]:
    return _nftables_ruleset.body(agents, SERVICES), {"uid_a": AGENT}


def test_a_play_confirms_over_a_connection_of_its_own_and_an_unchanged_one_does_not_bother(clean, ssh):
    content, users = rendered(LITTLE)
    first = play(clean, ssh, content, users, 20)
    assert first.returncode == 0, first.stdout
    assert '"pending": false' in first.stdout
    assert calls(first) == 2
    assert not list(clean.directory.glob("pending/*"))
    running = state(clean)

    again = play(clean, ssh, content, users, 20)
    assert again.returncode == 0, again.stdout
    assert '"changed": true' not in again.stdout
    assert calls(again) == 1
    assert state(clean) == running


def test_a_play_that_shuts_itself_out_fails_and_the_host_lets_it_in_again(clean, ssh):
    """The shared connection lives on through the new ruleset, so only a new one shows that nobody else gets in."""
    clean.apply(LITTLE)
    before = state(clean)
    failed = play(clean, ssh, SHUT, {}, 8)
    assert failed.returncode == 4, failed.stdout  # unreachable
    assert "the host will return to the one from before within 8 seconds" in failed.stdout.replace("\n", " ")
    assert until(12, lambda: state(clean) == before)
    assert called(clean) == "answered"

    content, users = rendered(LITTLE)
    assert play(clean, ssh, content, users, 8).returncode == 0


def test_one_connection_that_fails_does_not_undo_a_change(clean, ssh):
    """As on a network that loses a packet too many: the next one confirms."""
    stumbling = ssh / "stumbling"
    stumbling.write_text(f"""#!/bin/sh
case " $* " in
    *" -O stop "*) touch {ssh}/reset ;;
    *) rm {ssh}/reset 2> /dev/null && {{ touch {ssh}/stumbled; echo Connection timed out >&2; exit 255; }} ;;
esac
exec ssh "$@"
""")
    stumbling.chmod(0o755)
    content, users = rendered(LITTLE)
    done = play(clean, ssh, content, users, 20, str(stumbling))
    assert (ssh / "stumbled").exists()
    assert done.returncode == 0, done.stdout
    assert '"pending": false' in done.stdout
    assert state(clean)
