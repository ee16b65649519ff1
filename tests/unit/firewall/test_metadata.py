# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which addresses count as a cloud's metadata endpoint."""
from __future__ import annotations

import ipaddress

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils._metadata import ENDPOINTS, NETWORKS, endpoint_of


@pytest.mark.parametrize("address", [
    "169.254.169.254", "169.254.170.2", "169.254.170.23", "169.254.0.23", "169.254.42.42", "168.63.129.16",
    "100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:c1::a9fe:a9fe",
    "fe80::a9fe:a9fe", "fd00:42::42", "::ffff:169.254.169.254", "64:ff9b::169.254.169.254", "2002:a9fe:a9fe::1",
    "64:ff9b::168.63.129.16", "::169.254.169.254",
])
def test_every_spelling_of_an_endpoint_is_known(address):
    assert endpoint_of(address)


@pytest.mark.parametrize("network", [
    "0.0.0.0/0", "::/0", "10.0.0.0/8", "169.0.0.0/8", "::1", "127.0.0.1", "168.63.129.17", "2001:db8::/32",
])
def test_other_and_wider_networks_are_none(network):
    assert endpoint_of(network) is None


def test_the_list_is_sound():
    networks = [ipaddress.ip_network(cidr) for cidr in NETWORKS]
    assert len(set(networks)) == len(networks)
    assert {str(ipaddress.ip_network(cidr)) for cidr, _who in ENDPOINTS} <= set(NETWORKS)
