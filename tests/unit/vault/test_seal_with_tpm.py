# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a new key is bound to."""

from __future__ import annotations

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils import _vault as vault

PLACE = vault.Place("scout", "agent-scout", "/srv/agents/scout")


@pytest.mark.parametrize(
    ("seal", "has_tpm", "key"),
    [
        ("auto", True, "host+tpm2"),
        ("auto", False, "host"),
        ("host", True, "host"),
        ("host+tpm2", False, "host+tpm2"),  # fails on such a host, as it must
    ],
)
def test_auto_uses_the_tpm_that_is_there(seal, has_tpm, key):
    argv = vault.seal_argv(PLACE, seal, "systemd-creds", has_tpm)
    assert f"--with-key={key}" in argv
    assert ("--tpm2-pcrs=16" in argv) == ("tpm2" in key)
