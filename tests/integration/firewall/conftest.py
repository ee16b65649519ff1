# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One pair of network namespaces per test session; see network.py."""
from __future__ import annotations

import os
import runpy
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
# The unit tests know how to make the collection importable; it must be before network.py is read.
_UNIT = runpy.run_path(str(REPOSITORY / "tests" / "unit" / "conftest.py"))
# What the monitoring makes of the proxy's log.
sys.path.insert(0, str(REPOSITORY / "roles" / "monitoring" / "files"))

from .network import Network


@pytest.fixture(scope="session")
def network() -> Iterator[Network]:
    """The agents' host and the world; skipped where it cannot be had, with the reason."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes network namespaces")
    missing = [program for program in ("ip", "nft", "setpriv", "unshare") if not shutil.which(program)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: apt-get install iproute2 nftables util-linux")
    # Not pytest's own directory: it is closed to the users that the attempts run as.
    with tempfile.TemporaryDirectory(prefix="cordon-firewall-") as directory:
        built = Network(Path(directory), _UNIT["collection_root"]())
        try:
            built.build()
            yield built
        finally:
            built.close()


@pytest.fixture
def clean(network: Network) -> Iterator[Network]:
    """The network, with no table of ours before and after, and whatever the test started ended."""
    network.forget()
    servers = len(network.children)
    yield network
    network.end(servers)
    network.forget()
