# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an agent in burn-in does is collected whole, also while nobody reads; a loss is recorded; changes are suggested."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.kernel
FILE = "/var/lib/cordon/burn_in/scribe.json"
SPOOL = "/var/lib/cordon/spool"
Found = list[dict[str, Any]]


@pytest.fixture
def record(host: Any) -> Callable[[], dict[str, Any]]:
    """What is collected of scribe so far."""
    return lambda: json.loads(host.check_output(f"cat {FILE}"))


@pytest.fixture
def acts(record: Callable[[], dict[str, Any]]) -> Callable[..., Found]:
    """acts(PATH, **KEYS): collected acts on that path."""

    def find(path: str | None, **keys: Any) -> Found:
        wanted = {"path": path, **keys}
        return [act for act in record()["acts"] if all(act[key] == value for key, value in wanted.items())]

    return find


@pytest.fixture
def writer_off(host: Any) -> Iterator[None]:
    """cordon-events is down for the test to begin with; started again whatever happens."""
    host.check_output("systemctl stop cordon-events.service")
    yield
    host.check_output("systemctl start cordon-events.service")


def test_only_root_reads_what_is_collected(host: Any) -> None:
    assert (host.file(FILE).user, host.file(FILE).mode & 0o137) == ("root", 0)
    assert [host.file(path).mode for path in ("/var/lib/cordon/burn_in", SPOOL)] == [0o700, 0o700]


def test_an_enforced_agent_is_not_collected(host: Any) -> None:
    assert not host.file("/var/lib/cordon/burn_in/scout.json").exists


@pytest.mark.parametrize(("script", "path", "keys"), [
    ("cat /etc/fstab", "/etc/fstab", {"verdict": "allowed", "class": "file", "layer": "inner", "access": "r"}),
    ("/usr/bin/perl -e 1", "/usr/bin/perl", {"verdict": "denied", "class": "exec", "access": "x"}),
    ("cat '/var/lib/molecule a\"b'", '/var/lib/molecule a"b', {"verdict": "allowed", "class": "file", "access": "r"}),
    ("echo x > /proc/self/attr/exec", "/proc/[0-9]*/attr/exec", {"verdict": "denied", "layer": "both", "access": "w"}),
])  # fmt: skip
def test_an_act_is_one_entry_and_counted(
    host: Any, as_agent: Callable[..., Any], acts: Callable[..., Found], eventually: Callable[..., Any],
    script: str, path: str, keys: dict[str, str],
) -> None:  # fmt: skip
    host.check_output("touch '/var/lib/molecule a\"b'")
    before = sum(act["count"] for act in acts(path, **keys))
    as_agent("scribe", "sh", "-c", script)
    (act,) = eventually(lambda: [act for act in acts(path, **keys) if act["count"] > before])
    assert act["profile"] == "cordon.scribe.main"
    assert time.time() - act["last"] < 600


def test_starts_of_programs_are_activity(
    as_agent: Callable[..., Any], record: Callable[[], dict[str, Any]], eventually: Callable[..., Any], host: Any
) -> None:
    before = record()["execs"]
    for _time in range(3):
        as_agent("scribe", "true")
    assert eventually(lambda: record()["execs"] >= before + 3)
    assert host.check_output("date -u +%F") in record()["days"]


def test_what_happens_while_nobody_reads_is_collected(
    host: Any, writer_off: None, as_agent: Callable[..., Any], acts: Callable[..., Found], eventually: Callable[..., Any]
) -> None:
    names = [f"/etc/molecule-{letter}" for letter in "abcdefgh"]
    host.check_output("touch " + " ".join(names))
    assert as_agent("scribe", "cat", *names).rc == 0
    host.check_output("systemctl start cordon-events.service")
    assert eventually(lambda: all(acts(name, verdict="allowed") for name in names))


def test_what_happens_before_a_crash_is_collected(
    host: Any, as_agent: Callable[..., Any], acts: Callable[..., Found], eventually: Callable[..., Any]
) -> None:
    names = [f"/etc/molecule-crash-{letter}" for letter in "abcd"]
    host.check_output("touch " + " ".join(names))
    for name in names:
        assert as_agent("scribe", "cat", name).rc == 0
        host.check_output("systemctl kill --signal=KILL cordon-events.service")
    assert eventually(lambda: all(acts(name, verdict="allowed") for name in names))


def test_what_happens_while_auditd_is_down_is_collected(
    host: Any, as_agent: Callable[..., Any], acts: Callable[..., Found], eventually: Callable[..., Any]
) -> None:
    """auditd refuses `systemctl stop`; it is started again by whoever needs it."""
    # It writes down what it still has before it ends, which may take a while.
    host.check_output("touch /etc/molecule-no-auditd; pkill -TERM -x auditd")
    host.check_output("timeout 60 sh -c 'while pgrep -x auditd; do sleep 0.1; done'")
    try:
        assert as_agent("scribe", "cat", "/etc/molecule-no-auditd").rc == 0
    finally:
        host.check_output("systemctl start auditd.service")
    assert eventually(lambda: acts("/etc/molecule-no-auditd", verdict="allowed"))


@pytest.mark.parametrize("down", [False, True], ids=["seen", "while nobody reads"])
def test_lost_records_are_a_loss(
    host: Any, as_agent: Callable[..., Any], record: Callable[[], dict[str, Any]], eventually: Callable[..., Any], down: bool
) -> None:
    begun = time.time() - 5
    if down:
        host.check_output("systemctl stop cordon-events.service")
    try:
        host.check_output("auditctl -r 1")
        as_agent("scribe", "sh", "-c", "for i in $(seq 200); do cat /etc/fstab; done")
        host.check_output("auditctl -r 0")
    finally:
        host.check_output("auditctl -r 0; systemctl start cordon-events.service")

    def lost() -> Found:
        return [one for one in record()["lost"] if one["at"] > begun and "the kernel lost" in one["what"]]

    try:
        assert eventually(lost)
    finally:
        # Noted: what the check audit-lost-nothing asks for, so that later tests find a host without a gap.
        host.check_output("auditctl --reset-lost")


def test_an_alert_in_the_spool_is_taken(host: Any, eventually: Callable[..., Any]) -> None:
    body = {"alert": "burn-in-ready", "severity": "info", "agent": "scribe", "summary": "molecule", "time": time.time()}
    host.check_output(f"printf %s '{json.dumps(body)}' > {SPOOL}/.m.new && mv {SPOOL}/.m.new {SPOOL}/1-molecule.json")
    host.check_output(f"echo no alert > {SPOOL}/2-molecule.json")
    assert eventually(lambda: host.check_output(f"ls {SPOOL}") == "")
    journal = host.check_output("journalctl --unit=cordon-events.service --since=-2min --output=cat")
    assert "alert burn-in-ready: molecule" in journal
    assert journal.count("2-molecule.json is no alert") == 1


def test_burn_in_says_what_would_allow_it(
    host: Any, as_agent: Callable[..., Any], acts: Callable[..., Found], eventually: Callable[..., Any]
) -> None:
    as_agent("scribe", "sh", "-c", "cat /etc/fstab; /usr/bin/git --version; /usr/bin/su")
    eventually(lambda: acts("/usr/bin/su") and acts("/usr/bin/git"))
    found = json.loads(host.check_output("cordonctl burn-in scribe --json"))[0]
    by_kind = {one["kind"]: one for one in found["suggestions"] if one["kind"] in ("tool", "never")}
    assert {"tools": ["git"]} in [one["manifest"] for one in found["suggestions"]]
    assert any("/etc/fstab" in one["manifest"].get("workspace.read_only", []) for one in found["suggestions"])
    assert "setuid" in " ".join(one["why"] for one in found["suggestions"] if one["kind"] == "never")
    assert by_kind.keys() == {"tool", "never"}
    text = host.check_output("cordonctl burn-in scribe")
    assert "tools: [git] (" in text and "it is setuid" in text and "All changes of the manifest together" in text


CONNECT = "python3 -c 'import socket; socket.create_connection((\"%s\", %d), 3)'"


@pytest.mark.parametrize(("script", "parts"), [
    ("cat /etc/fstab", ["may not read /etc/fstab", "the cage lets it pass", "read_only: [/etc/fstab]"]),
    ("/usr/bin/psql -l", ["may not start /usr/share/postgresql-common/pg_wrapper"]),
    ("/usr/bin/su", ["may not start /usr/bin/su", "never: it is setuid"]),
    ("cat /etc/shadow", ["may not read /etc/shadow", "never: no agent may: passwords"]),
    (CONNECT % ("169.254.169.254", 80), ["169.254.169.254 port 80", "never: 169.254.169.254 is a metadata address"]),
    (CONNECT % ("203.0.113.9", 443), ["203.0.113.9 port 443", "203.0.113.9/32"]),
    ("printf x > \"/opt/$(printf '\\033[2Jx')\"", ["the unit's mounts"]),
])  # fmt: skip
def test_a_denial_is_explained(
    host: Any, as_agent: Callable[..., Any], eventually: Callable[..., Any], script: str, parts: list[str]
) -> None:
    if "psql" in script and not host.file("/usr/share/postgresql-common/pg_wrapper").exists:
        host.check_output("install -D -m 0755 /bin/true /usr/share/postgresql-common/pg_wrapper; "
                          "ln -s /usr/share/postgresql-common/pg_wrapper /usr/bin/psql")
    as_agent("scout", "sh", "-c", script)
    text = eventually(lambda: (text := host.check_output("cordonctl denials scout --since 5m"))
                      and all(part in text for part in parts) and text)
    assert "\x1b" not in text
    assert json.loads(host.check_output("cordonctl denials scout --since 5m --json"))
