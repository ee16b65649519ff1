# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Evidence on a booted kernel: it agrees with an independent look, and it finds what somebody broke."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

EVIDENCE = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "evidence"


@pytest.fixture(scope="module", name="evidence")
def fixture_evidence() -> dict[str, Any]:
    """What the last run of the site wrote on the controller."""
    return json.loads((EVIDENCE / "agenthost-1.json").read_text(encoding="utf-8"))


def attention(host: Any) -> set[str]:
    """The checks that fail in `cordonctl status`, or cannot be judged, right now."""
    answer = host.run("cordonctl status --json")
    assert answer.stdout, answer.stderr
    return {r["id"] for r in json.loads(answer.stdout)["attention"] if r["status"] in ("fail", "error")}


def test_every_check_passes_on_a_provisioned_host(evidence: dict[str, Any]) -> None:
    declined = {name for name, value in evidence["facts"]["support"].items() if value == "declined"}
    assert declined <= {"webhook", "heartbeat"}
    assert [r["id"] for r in evidence["results"] if r["status"] in ("fail", "error")] == []
    assert evidence["summary"]["not_enforced"] == len(declined)
    assert evidence["summary"]["pass"] > 60


def test_the_host_itself_sees_the_same(host: Any) -> None:
    assert attention(host) == set()


def test_labels_are_those_of_the_kernel(host: Any, agent: dict[str, Any]) -> None:
    pids = host.check_output(f"pgrep -u agent-{agent['name']}").split()
    labels = {host.check_output(f"cat /proc/{pid}/attr/current").strip("\0\n ") for pid in pids}
    cage, mode = f"cordon.{agent['name']}", "enforce" if agent.get("mode") == "enforce" else "mixed"
    assert labels == {f"{cage}//&{cage}.main ({mode})"}


def test_the_recorded_ruleset_is_the_kernels(host: Any) -> None:
    listing = host.run("nft --stateless list table inet cordon").stdout
    # What the resolver opened is no part of the rules.
    listing = re.sub(r"(\t\tflags timeout\n)\t\telements = \{[^}]*\}\n", r"\1", listing)
    recorded = json.loads(host.file("/etc/cordon/firewall.json").content_string)
    assert hashlib.sha256(listing.encode()).hexdigest() == recorded["sha256"]


def test_the_sum_is_that_of_the_facts(evidence: dict[str, Any]) -> None:
    text = json.dumps(evidence["facts"], sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == evidence["sha256"]


def test_the_page_stands_alone_and_tells_every_check(evidence: dict[str, Any]) -> None:
    page = (EVIDENCE / "agenthost-1.html").read_text(encoding="utf-8")
    assert all(word not in page for word in ("<script", "<link", "<img", "src=", "@import", "url("))
    assert all(result["id"] in page for result in evidence["results"])


def test_no_secret_is_in_the_evidence() -> None:
    for path in EVIDENCE.iterdir():
        assert "molecule-" not in path.read_text(encoding="utf-8"), path


# What somebody does, what mends it, and the checks that must find it. Together, because a look takes seconds
# under emulation; the first and the last touch the same table, hence two rounds.
ROUNDS = [
    [
        (
            "nft insert rule inet cordon output accept",
            "systemctl reload-or-restart cordon-firewall",
            {"firewall-as-recorded"},
        ),
        (
            "apparmor_parser -C -r /etc/apparmor.d/cordon.scribe",
            # What runs keeps the mode that it once had, so the repair is a restart (docs/evidence.md, Limits).
            "apparmor_parser -r /etc/apparmor.d/cordon.scribe && systemctl restart cordon-agent@scribe",
            {"cage-enforcing", "cage-as-recorded", "processes-confined"},
        ),
        (
            "chmod o+w /etc/cordon/manifest.json",
            "chmod o-w /etc/cordon/manifest.json",
            {"records-belong-to-root"},
        ),
        ("gpasswd -a agent-scout adm", "gpasswd -d agent-scout adm", {"user-in-no-privileged-group"}),
        (
            "mkdir -p /var/lib/systemd/linger && touch /var/lib/systemd/linger/agent-scout",
            "rm /var/lib/systemd/linger/agent-scout",
            {"user-does-not-linger"},
        ),
        (
            "systemctl set-property --runtime cordon-scout.slice MemoryMax=infinity",
            "systemctl revert cordon-scout.slice",
            {"limits-in-force"},
        ),
    ],
    [
        ("auditctl -e 0", "auditctl -e 1", {"audit-on"}),
        (
            "systemd-run --quiet --collect --unit=outside --property=User=agent-scout /usr/bin/sleep 600",
            "systemctl stop outside || true",  # the watch may have ended it
            {"processes-confined", "processes-sandboxed"},
        ),
        ("nft delete table inet cordon", "systemctl reload-or-restart cordon-firewall", {"firewall-loaded"}),
    ],
]


@pytest.mark.parametrize("drifts", ROUNDS, ids=["changed", "taken away"])
def test_what_somebody_broke_is_found_and_its_repair_too(host: Any, drifts: list[tuple[str, str, set[str]]]) -> None:
    # It would end what is not confined before it can be found.
    host.check_output("systemctl stop cordon-watch")
    try:
        for breaks, _mends, _checks in drifts:
            assert host.run(breaks).rc == 0, breaks
        found = attention(host)
    finally:
        host.check_output("systemctl start cordon-watch")
        mended = {mends: host.run(mends).rc for _breaks, mends, _checks in drifts}
    assert set().union(*(checks for _breaks, _mends, checks in drifts)) - found == set()
    assert set(mended.values()) == {0}, mended
    assert settled(host) == set()


def settled(host: Any) -> set[str]:
    """What still asks for attention once restarts have had a moment."""
    for _attempt in range(20):
        found = attention(host)
        if not found:
            break
        time.sleep(2)
    return found
