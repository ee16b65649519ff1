# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sessions faster than an emulated guest can have them: the vault of the next opens while that of the last still closes."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import pytest

VAULT = "cordon-vault@scout.service"
TIMES = 20


@pytest.fixture
def no_service(host: Any) -> Generator[None]:
    """Nothing but sessions needs the vault."""
    host.check_output("systemctl stop cordon-agent@scout")
    closed(host)
    yield
    host.check_output("systemctl start cordon-agent@scout")


def closed(host: Any) -> None:
    """Wait for the end of the vault's unit, which must be no failure."""
    end = time.monotonic() + 20
    while (state := host.run(f"systemctl is-active {VAULT}").stdout.strip()) != "inactive":
        assert time.monotonic() < end, f"{VAULT} is {state}"
        time.sleep(0.2)
    assert "cordon-vault-scout" not in host.file("/proc/self/mountinfo").content_string


def test_sessions_that_follow_each_other_at_once_all_read_their_secrets(host: Any, no_service: None) -> None:
    one = "cordonctl run scout -- sh -c 'cat ~/.vault/* | cksum' || echo failed"
    done = host.run(f"for turn in $(seq {TIMES}); do {one}; done")
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == TIMES and len(set(done.stdout.splitlines())) == 1, done.stdout
    closed(host)


def test_sessions_beside_each_other_all_read_their_secrets(host: Any, no_service: None) -> None:
    """They end at different times, so the vault is to close and to open again and again."""
    read = 'cordonctl run scout -- sh -c "cat ~/.vault/* > /dev/null && sleep 0.$turn" </dev/null || echo failed'
    one = f"for turn in 1 2 3 4 5; do {read}; done"
    done = host.run(f"for worker in 1 2 3; do ({one}) & done; wait")
    assert (done.stdout, done.stderr) == ("", "")
    closed(host)
