# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a vault that an operator unlocks is opened by its unit."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils import _vault, _vault_unit

PLACE = _vault.Place("notary", "agent-notary", "/srv/agents/notary", "operator")
HOLDER = "cordon-vault-hold-notary.service"


class Host:
    """Answers programs; calls: what was run, with its standard input. `closing`: so often systemd refuses a unit."""

    def __init__(self, refuses: str = "", closing: int = 0) -> None:
        self.refuses = refuses
        self.closing = closing
        self.calls: list[tuple[list[str], Any]] = []

    def __call__(self, argv: list[str], data: Any = None) -> tuple[int, str, str]:
        self.calls.append((argv, data))
        if argv[0] == "systemd-run" and self.closing:
            self.closing -= 1
            return 1, "", f"Transaction for {HOLDER}/start is destructive (cordon-vault@notary.service has 'stop' job queued)"
        return (1, "", "wrong password, 4 more before the start fails") if argv[0] == self.refuses else (0, "", "")


def test_the_password_goes_to_cordonctl_by_standard_input_only() -> None:
    host = Host()
    _vault_unit.Unit(host, PLACE, lambda: True).open("canary")
    assert host.calls[-1] == (["/usr/lib/cordon/cordonctl", "unlock", "notary"], "canary\n")
    assert "--no-block" in host.calls[0][0], "the unit waits for the password, so nobody may wait for the unit"
    assert "canary" not in str([argv for argv, _data in host.calls])


def test_a_wrong_password_leaves_nothing_that_waits_for_the_vault() -> None:
    host = Host(refuses=_vault_unit.CORDONCTL)
    with pytest.raises(_vault.VaultError, match=r"wrong password, 4 more") as error:
        _vault_unit.Unit(host, PLACE, lambda: False).open("canary")
    assert "canary" not in str(error.value)
    assert host.calls[-1] == (["systemctl", "--no-pager", "stop", "--", HOLDER], None)


def test_a_sealed_vault_asks_nobody() -> None:
    host = Host()
    _vault_unit.Unit(host, PLACE._replace(unlock="sealed"), lambda: True).open(None)
    assert [argv[0] for argv, _data in host.calls] == ["systemd-run"] and "--no-block" not in host.calls[0][0]


def test_a_vault_that_just_closes_is_opened_afterwards() -> None:
    host = Host(closing=2)
    _vault_unit.Unit(host, PLACE._replace(unlock="sealed"), lambda: True).open(None)
    assert len(host.calls) == 3


def test_a_unit_that_is_refused_for_another_reason_is_an_error_at_once() -> None:
    host = Host(refuses="systemd-run")
    with pytest.raises(_vault.VaultError, match="systemd-run"):
        _vault_unit.Unit(host, PLACE._replace(unlock="sealed"), lambda: True).open(None)
    assert len(host.calls) == 1
