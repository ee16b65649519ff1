# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole disk, host key included, beside another TPM: no vault opens, no agent starts, and the reason is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_the_keys_were_sealed_by_a_chip_that_is_not_this_one(host: Any, agent: dict[str, Any]) -> None:
    assert host.file("/dev/tpmrm0").exists, "this guest has no TPM at all, which would prove nothing"
    name = agent["name"]
    unsealed = host.run(f"systemd-creds decrypt --name=cordon-vault-{name} /etc/cordon/vault/{name}.cred -")
    assert unsealed.rc != 0 and unsealed.stdout == ""
    # The host's own key alone, which is on the same disk, does open what it sealed.
    alone = "echo canary | systemd-creds encrypt --with-key=host --name=x - - | systemd-creds decrypt --name=x - -"
    assert host.check_output(alone) == "canary"


def test_no_vault_opens_no_agent_starts_and_the_journal_says_why(
    host: Any, agent: dict[str, Any], eventually: Callable[..., Any]
) -> None:
    name = agent["name"]
    told = f"journalctl --boot --no-pager --output=cat --unit=cordon-vault@{name}"
    eventually(lambda: "could not be opened" in host.run(told).stdout, 180)
    assert "docs/vault.md" in host.check_output(told)
    assert host.run(f"findmnt /srv/agents/{name}/.vault").rc != 0
    assert host.run(f"pgrep --uid agent-{name}").stdout == ""


def test_a_session_does_not_start_either(as_agent: Callable[..., Any], agent: dict[str, Any]) -> None:
    assert as_agent(agent["name"], "true").rc != 0
