# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Beside its own TPM again the guest opens its vaults by itself: nothing was spoilt by the other chip."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_the_agents_start_and_read_their_secrets(
    host: Any, agent: dict[str, Any], secrets: dict[str, dict[str, str]], eventually: Callable[..., Any],
    as_agent: Callable[..., Any]
) -> None:  # fmt: skip
    name = agent["name"]
    eventually(lambda: host.service(f"cordon-agent@{name}").is_running, 180)
    for secret, value in secrets[name].items():
        assert host.check_output(f"cat /srv/agents/{name}/.vault/{secret}") == value.rstrip("\n")
    assert as_agent(name, "true").rc == 0
