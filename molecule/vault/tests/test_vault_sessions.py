# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vault.idle: a service and a session that do nothing are ended, one that works is not, and then the vault closes.

The manifest of the host is given a time of one minute for `scribe`, and taken back in the end.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

MANIFEST, POINT = "/etc/cordon/manifest.json", "/srv/agents/scribe/.vault"
# Nothing but what somebody types; script(1) is the terminal.
TYPED = "(while sleep 5; do echo typed; done) | script --quiet --flush --command 'cordonctl run scribe -- cat' /dev/null"
WORK = "while :; do i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done; sleep 5; done"
TO_A_MINUTE = f"""
import json
with open({MANIFEST!r}, 'r+') as file:
    data = json.load(file)
    for agent in data['agents']:
        if agent['name'] == 'scribe':
            agent['vault']['idle'] = '1m'
    file.seek(0)
    json.dump(data, file)
    file.truncate()
"""


@pytest.fixture
def one_minute(host: Any) -> Iterator[None]:
    host.check_output(f"cp --preserve=all {MANIFEST} {MANIFEST}.before")
    host.run_test("systemctl stop cordon-agent@scribe.service")
    host.check_output(f'python3 -c "{TO_A_MINUTE}"')
    yield
    host.check_output(f"mv {MANIFEST}.before {MANIFEST}")
    host.run("systemctl stop idle-session busy-session typed-session")
    host.run("systemctl stop cordon-agent@scribe.service; systemctl reset-failed cordon-agent@scribe.service")
    host.check_output("systemctl start cordon-agent@scribe.service")


def sessions(host: Any) -> list[str]:
    shown = host.check_output("systemctl list-units --plain --no-legend --state=running 'cordon-session-scribe-*'")
    return [line.split()[0] for line in shown.splitlines()]


def test_what_does_nothing_is_ended_and_what_works_or_is_typed_at_is_not(
    host: Any, one_minute: None, eventually: Callable[..., Any]
) -> None:
    begun = time.monotonic()
    host.check_output("systemctl start cordon-agent@scribe.service")
    run = "systemd-run --quiet --collect --unit={name} cordonctl run scribe -- {command}"
    host.check_output(run.format(name="busy-session", command=f"/bin/sh -c '{WORK}'"))
    eventually(lambda: len(sessions(host)) == 1, 60)
    (busy,) = sessions(host)
    host.check_output(f'systemd-run --quiet --collect --unit=typed-session sh -c "{TYPED}"')
    eventually(lambda: len(sessions(host)) == 2, 60)
    (typed,) = {*sessions(host)} - {busy}
    host.check_output(run.format(name="idle-session", command="/bin/sleep infinity"))
    eventually(lambda: len(sessions(host)) == 3, 60)

    eventually(lambda: {*sessions(host)} == {busy, typed} and not host.service("cordon-agent@scribe").is_running, 300)
    assert time.monotonic() - begun > 60
    told = host.check_output("journalctl --no-pager --output=cat --unit=cordon-idle@scribe")
    assert "cordon-agent@scribe.service did nothing for 1m, as vault.idle says: ended" in told
    assert busy not in told and typed not in told
    assert host.mount_point(POINT).exists, "the vault closed while a session was at work"

    shown = host.check_output("systemctl show --property=ActiveState,Result cordon-agent@scribe.service").split()
    assert sorted(shown) == ["ActiveState=inactive", "Result=success"]
    status = json.loads(host.run("cordonctl status scribe --json").stdout)
    assert [one["id"] for one in status["attention"] if one["status"] in ("fail", "error")] == []

    host.check_output(f"systemctl stop {busy} {typed}")
    eventually(lambda: not host.mount_point(POINT).exists, 60)
    eventually(lambda: not host.service("cordon-idle@scribe").is_running, 120)
