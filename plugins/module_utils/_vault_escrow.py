# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private: a vault's master key, encrypted by age to people outside the host.

Whether the escrow is of this master key and for these people is told from a note beside it, so that an unchanged run
neither opens the vault nor starts a program.
"""

from __future__ import annotations

import json
import os
from typing import Any, Dict, List

from . import _vault
from ._vault_disk import private_directory, read, write
from ._vault_keys import Keys, identity
from ._vault_open import Run

ESCROW = "encrypt the master key to the escrow recipients"


def outdated(place: _vault.Place, recipients: List[str]) -> bool:
    """Whether there is no escrow of this vault for exactly these people."""
    return note(place) != _wanted(place, recipients) or not _exists(place.escrow)


def of_another(place: _vault.Place) -> bool:
    """Whether there is an escrow, and it is not known to be of this vault's master key."""
    return os.path.lexists(place.escrow) and note(place).get("vault") != identity(place)


def note(place: _vault.Place) -> Dict[str, Any]:
    """Of which vault and for whom the escrow is; {} where there is none that could be read."""
    try:
        found: Dict[str, Any] = json.loads(read(place.escrow_of))
    except (OSError, ValueError):
        return {}
    return found


def _wanted(place: _vault.Place, recipients: List[str]) -> Dict[str, Any]:
    return {"vault": identity(place), "recipients": sorted(set(recipients))}


def _exists(path: str) -> bool:
    try:
        return bool(read(path))
    except OSError:
        return False


def make(run: Run, place: _vault.Place, keys: Keys, recipients: List[str]) -> None:
    """Write the escrow, then the note that it is right."""
    _key, master = keys.opening()
    argv = ["age", "--encrypt", "--armor"]
    for recipient in sorted(set(recipients)):
        argv += ["--recipient", recipient]
    rc, out, err = run(argv, data=f"{master}\n")
    if rc != 0 or not out:
        raise _vault.VaultError(f"the master key of agent {place.name}'s vault was not encrypted: {' '.join(err.split())}")
    private_directory(_vault.ESCROW)
    write(place.escrow, out)
    write(place.escrow_of, json.dumps(_wanted(place, recipients), sort_keys=True) + "\n")


def text(place: _vault.Place) -> str:
    """The escrow itself, encrypted."""
    return read(place.escrow)
