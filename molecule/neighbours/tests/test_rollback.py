# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A change that lets nobody in any more undoes itself: over real ssh, by a unit of systemd, whatever reloads systemd."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

CONFIRM_WITHIN = 20  # lock_out.yml
# As soon as the change is prepared: systemd then reads the unit that would undo it again, before or after its program runs. What
# stood in its command line was garbled by that once, and nothing was undone.
RELOAD = (
    'until ls /run/cordon/firewall | grep -qE "^[0-9a-f]{16}[.](sh|nft)"; do sleep 0.1; done; '
    "systemctl daemon-reload && touch /run/reloaded"
)


def lets_in() -> bool:
    """Whether a new connection is let in; the shared ones of Ansible and testinfra live on."""
    testbed = os.environ["CORDON_TESTBED"]
    argv = ["ssh", "-F", f"{testbed}/ssh_config", "-o", "ControlPath=none", "-o", "ConnectTimeout=5", "agenthost-1", "true"]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0


def waited(until: bool, seconds: float) -> float:
    """Seconds until a new connection is let in, or is not."""
    begun = time.monotonic()
    while lets_in() is not until:
        assert time.monotonic() - begun < seconds, f"after {seconds} s a new connection is {'not ' if until else ''}let in"
    return time.monotonic() - begun


def test_what_locks_everybody_out_undoes_itself(
    host: Any, play: Callable[..., Any], rules: Callable[[], str], ours: Callable[[], str]
) -> None:
    before, others = ours(), rules()
    since = host.check_output("date +%s")
    kept = "sha256sum /etc/cordon/firewall.nft /etc/cordon/firewall.json"
    on_disk = host.check_output(kept)
    host.check_output(f"rm -f /run/reloaded; (setsid sh -c '{RELOAD}' > /dev/null 2>&1 &)")
    assert lets_in()
    with ThreadPoolExecutor(1) as pool:
        playing = pool.submit(play, "lock_out.yml")
        waited(until=False, seconds=120)
        locked = waited(until=True, seconds=CONFIRM_WITHIN + 40)
        done = playing.result()
    print(f"locked out for {locked:.0f} s")
    assert host.file("/run/reloaded").exists
    assert done.returncode != 0
    # Whoever is cut off is told so on standard error, in lines of whatever width.
    said = " ".join((done.stdout + done.stderr).split())
    assert "it was undone" in said or "will return to the one from before" in said, said
    assert (ours(), host.check_output(kept), rules()) == (before, on_disk, others)
    journal = host.check_output(f"journalctl --no-pager --output=cat --unit='cordon-firewall-rollback-*' --since=@{since}")
    assert "Undo the change of the agents' firewall" in journal
