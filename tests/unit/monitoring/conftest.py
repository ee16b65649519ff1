# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the event writer's package importable, and give tests what a booted guest recorded.

samples/bookworm.audit.log     lines of auditd 3.0.9 on kernel 6.1, acts of agent `probe` (uid 999)
samples/bookworm.records.json  the same, as libauparse 3.0.9 decodes them (test_audit_stream.py holds them equal)
samples/burn_in.*              acts of agent `scribe` (uid 997) in burn-in, in the same two forms
samples/sessions.*             two sessions of agent `scout` (uid 999) at once: entry begins an audit session, each reads a
                               secret, one tries to change its session
samples/bookworm.kernel.jsonl  nftables' lines as `journalctl --output=json` gives them
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Dict, List

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
SAMPLES = Path(__file__).parent / "samples"
PROGRAM = REPOSITORY / "roles" / "monitoring" / "files"

sys.path.insert(0, str(PROGRAM))

from cordon_monitoring.act import AuditEvent


@pytest.fixture(scope="session")
def acts() -> Dict[int, AuditEvent]:
    """The recorded acts, by serial number."""
    return _recorded("bookworm")


@pytest.fixture(scope="session")
def burn_in_acts() -> Dict[int, AuditEvent]:
    """Those of the agent in burn-in."""
    return _recorded("burn_in")


@pytest.fixture(scope="session")
def session_acts() -> List[AuditEvent]:
    """Those of two sessions at once, in their order; a login is parted from the rest of its act."""
    return _listed("sessions")


def _listed(name: str) -> List[AuditEvent]:
    return [AuditEvent(*fields) for fields in json.loads((SAMPLES / f"{name}.records.json").read_text())]


def _recorded(name: str) -> Dict[int, AuditEvent]:
    return {int(event.stamp.split(":")[1]): event for event in _listed(name)}
