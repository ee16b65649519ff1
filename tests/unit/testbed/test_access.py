# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ssh_config and inventory."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from testbed import access

PORTS = {"agenthost-1": 40001, "agenthost-2": 40002}


def test_inventory_reaches_each_guest_by_its_port(tmp_path):
    group = yaml.safe_load(access.inventory(tmp_path, PORTS, tmp_path / "key"))["agent_hosts"]
    assert group["hosts"]["agenthost-2"] == {"ansible_host": "127.0.0.1", "ansible_port": 40002}
    assert group["vars"]["ansible_python_interpreter"] == "/usr/bin/python3"
    assert group["vars"]["ansible_ssh_private_key_file"] == str(tmp_path / "key")
    assert group["vars"]["ansible_ssh_pipelining"] is True
    assert "StrictHostKeyChecking=no" in group["vars"]["ansible_ssh_args"]


def test_ssh_config_has_a_block_for_each_guest():
    text = access.ssh_config(Path("/t"), PORTS, Path("/t/key"))
    assert "Host agenthost-1\n  HostName 127.0.0.1\n  Port 40001\n" in text
    assert "IdentityFile /t/key" in text


@pytest.mark.parametrize(("length", "shared"), [(60, True), (120, False)])
def test_connections_are_shared_only_where_the_socket_s_path_fits(length, shared):
    directory = Path("/" + "d" * length)
    options = access.options(directory)
    assert ("ControlPath" in options) is shared
    # ssh appends 17 characters while it makes the socket; unix(7) allows 107.
    assert not shared or len(options["ControlPath"].replace("%r@%p", "root@65535")) + 17 <= 107
