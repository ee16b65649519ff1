# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A secret that the proxy adds: sealed on disk, opened by systemd for the proxy alone, at the one host, and nowhere else.

api_key of scout is for inspected.example.org, forge_token for the git server forge.example.org. What squid does with them is
tried at length in tests/integration/firewall.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.kernel
VALUE, TOKEN = "molecule-brokered-key", "molecule-brokered-token"
SEALED = "/etc/cordon/proxy/brokered.cred"
OPENED = "/run/credentials/cordon-proxy.service/brokered"
HOST, OTHER = "https://inspected.example.org/v1/brokered", "https://api.example.org/v1/brokered"
FORGE = "https://forge.example.org/project.git"
EVENTS = "/var/log/cordon/events.jsonl"
BY_HAND = "git -c http.sslVerify=false -c http.curloptResolve=forge.example.org:443:203.0.113.12"
# As an agent works: clone, commit, push; then what git was told, and what git and the agent have in their hands.
PUSH = f"""set -e
cd ~/workspace && rm -rf project && git clone --quiet {FORGE} project && cd project
date +%N > done && git add done
git -c user.name=scout -c user.email=scout@example.org commit --quiet --message=work
GIT_TRACE_CURL=1 GIT_TRACE_REDACT=0 git push origin HEAD:main 2>&1
git rev-parse HEAD
git config --list; env
"""
SEARCH = "grep --recursive --files-with-matches --text --fixed-strings --file=-"
# Everything a host writes to; what systemd opened is looked at by itself.
WRITABLE = "/etc /var /dev/shm /tmp /srv /home /root /run"


def _of_world(arrivals: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in arrivals if one["kind"] == "https" and one["path"] == "/v1/brokered"]


def test_the_world_gets_the_secret_at_its_one_host_only(
    attempts: Callable[..., Any], arrivals: Callable[..., list[dict[str, Any]]]
) -> None:
    before = len(arrivals())
    outcomes = attempts("scout", [["fetch", HOST], ["fetch", OTHER]])
    assert [outcome[:4] for outcome, _seconds in outcomes] == ["200 ", "200 "]
    assert VALUE not in json.dumps(outcomes)
    seen = {one["sni"]: one["authorization"] for one in _of_world(arrivals(before))}
    assert seen == {"inspected.example.org": f"bearer {VALUE}", "api.example.org": None}


def test_an_ordinary_user_would_have_had_to_bring_it_himself(
    attempts: Callable[..., Any], arrivals: Callable[..., list[dict[str, Any]]]
) -> None:
    before = len(arrivals())
    attempts("alice", [["fetch", HOST]])
    assert [one["authorization"] for one in _of_world(arrivals(before))] in ([], [None])


def test_git_pushes_to_a_server_that_refuses_whoever_has_no_token(
    host: Any, as_agent: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    refused = host.run(f"runuser -u alice -- env GIT_TERMINAL_PROMPT=0 {BY_HAND} ls-remote {FORGE}")
    assert "could not read Username" in refused.stderr, "the server takes anybody's work"
    done = as_agent("scout", "sh", "-c", PUSH)
    assert done.rc == 0, done.stdout[-2000:] + done.stderr
    head = host.check_output("git -C /run/world-forge/project.git rev-parse main")
    assert head in done.stdout.splitlines(), "what the server has is what the agent has committed"
    assert "git-receive-pack" in done.stdout, "the trace has what git sent and was told"
    for held in (TOKEN, base64.b64encode(f"coder:{TOKEN}".encode()).decode()):
        assert held not in done.stdout + done.stderr
        assert host.run(f"printf %s {held} | {SEARCH} /srv/agents /tmp /var/tmp /dev/shm").stdout == ""

    def told() -> list[str]:
        calls = map(json.loads, host.run(f"grep --no-filename forge.example.org {EVENTS}").stdout.splitlines())
        return [call["secret"] for call in calls if call["kind"] == "api_call" and call["method"] == "POST"]

    assert set(eventually(told)) == {"forge_token"}


def test_the_agent_finds_it_nowhere(host: Any, as_agent: Callable[..., Any]) -> None:
    look = (f"env; cat {OPENED} {SEALED} /etc/cordon/proxy/squid.conf ~/.vault/api_key; "
            "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'; "
            f"grep -rsl {VALUE[:-1]}[y] ~ /tmp /var/tmp /dev/shm; true")
    found = as_agent("scout", "sh", "-c", look)
    assert VALUE not in found.stdout + found.stderr
    held = as_agent("scout", "ls", "/srv/agents/scout/.vault").stdout.split()
    assert "github_token" in held and "api_key" not in held
    assert VALUE in host.check_output(f"cat {OPENED}"), "root sees what was looked for"


def test_what_systemd_opened_is_the_proxys_alone_and_never_swapped(host: Any, unwatched: None) -> None:
    assert VALUE in host.check_output(f"setpriv --reuid cordon-proxy --clear-groups cat {OPENED}")
    assert host.check_output(f"stat --file-system --format=%T {OPENED}") in ("ramfs", "tmpfs")
    if host.check_output(f"stat --file-system --format=%T {OPENED}") == "tmpfs":
        assert "noswap" in host.check_output(f"findmnt --noheadings --output OPTIONS --target {OPENED}")
    for user in ("nobody", "agent-scout"):
        assert "Permission denied" in host.run(f"setpriv --reuid {user} --clear-groups cat {OPENED}").stderr
    pid = host.check_output("systemctl show --property=MainPID --value cordon-proxy.service")
    assert host.check_output(f"cat /proc/{pid}/coredump_filter") == "00000000"
    assert host.check_output("systemctl show --property=MemorySwapMax --value cordon-proxy.service") == "0"


def test_it_lies_in_the_clear_in_no_file(host: Any) -> None:
    """The words go by standard input, so as not to be found in /proc."""
    sealed = host.file(SEALED)
    assert (sealed.user, sealed.mode) == ("root", 0o600)
    found = host.run(f"printf %s {VALUE} | {SEARCH} {WRITABLE}").stdout
    # The world writes down what arrives.
    assert set(found.split()) == {OPENED, "/run/world/arrivals.jsonl"}
    assert VALUE not in host.check_output("journalctl --no-pager --output=cat")
    assert VALUE not in host.check_output("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'; true")


def test_a_reload_keeps_it_and_a_stop_takes_it_away(
    host: Any, attempts: Callable[..., Any], arrivals: Callable[..., list[dict[str, Any]]], eventually: Callable[..., Any]
) -> None:
    host.check_output("systemctl reload cordon-proxy.service")
    assert host.file(OPENED).exists
    host.check_output("systemctl stop cordon-proxy.service")
    assert not host.file(OPENED).exists
    host.check_output("systemctl start cordon-proxy.service")
    before = len(arrivals())
    eventually(lambda: attempts("scout", [["fetch", HOST]])[0][0].startswith("200 "))
    assert _of_world(arrivals(before))[-1]["authorization"] == f"bearer {VALUE}"
