# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The addresses and names at which clouds hand out credentials, as data.

An agent never reaches them, whatever its allowlist says. ``ENDPOINTS`` is the one list to edit;
``NETWORKS`` adds every spelling of its IPv4 entries that an IPv6 packet can carry.

Sources: each cloud's own documentation of its instance metadata service, the datasource pages of
cloud-init, RFC 6052 (NAT64 prefix 64:ff9b::/96), RFC 8215 (64:ff9b:1::/48), RFC 3056 (6to4,
2002::/16), RFC 4291 (IPv4-mapped and IPv4-compatible).
"""
from __future__ import annotations

import ipaddress

# (network, who answers there)
ENDPOINTS: tuple[tuple[str, str], ...] = (
    # The whole link-local block: AWS, GCP, Azure, Oracle, OpenStack, DigitalOcean, Hetzner, Linode,
    # Vultr, IBM on .169.254; ECS .170.2; EKS pod identity .170.23; GKE .169.252; Tencent .0.23;
    # Scaleway .42.42. Nothing else that an agent needs lives in it.
    ("169.254.0.0/16", "IPv4 link-local: the metadata service of nearly every cloud"),
    ("168.63.129.16/32", "Azure wire server"),
    ("100.100.100.200/32", "Alibaba Cloud metadata"),
    ("192.0.0.192/32", "Oracle Cloud classic metadata"),
    ("fe80::/10", "IPv6 link-local: OpenStack and Linode answer on fe80::a9fe:a9fe"),
    ("fd00:ec2::/32", "AWS: metadata ::254, EKS pod identity ::23"),
    ("fd20:ce::254/128", "Google Cloud metadata"),
    ("fd00:c1::a9fe:a9fe/128", "Oracle Cloud metadata"),
    ("fd00:a9fe:a9fe::1/128", "Linode metadata"),
    ("fd00:42::42/128", "Scaleway metadata"),
    ("fd00:100::100:200/128", "Alibaba Cloud metadata"),
)

# Names that resolve to the addresses above; whatever resolves names for agents refuses them.
NAMES: tuple[str, ...] = (
    "metadata.google.internal",
    "metadata.goog",
    "metadata",
    "instance-data",
    "instance-data.ec2.internal",
    "metadata.azure.internal",
    "metadata.tencentyun.com",
    "metadata.packet.net",
    "metadata.platformequinix.com",
    "api.metadata.cloud.ibm.com",
)

# (IPv6 prefix, its length): the IPv4 address follows the prefix directly.
_EMBEDDINGS: tuple[tuple[str, int], ...] = (
    ("64:ff9b::", 96),    # NAT64, well-known prefix
    ("64:ff9b:1::", 96),  # NAT64, local-use prefix in its usual form
    ("::ffff:0:0", 96),   # IPv4-mapped
    ("::", 96),           # IPv4-compatible (deprecated, still parsed)
    ("2002::", 16),       # 6to4
)


def embedded(network: ipaddress.IPv4Network) -> list[str]:
    """Return the IPv6 networks that carry this IPv4 network inside (see RFCs above)."""
    found = []
    for prefix, length in _EMBEDDINGS:
        address = int(ipaddress.IPv6Address(prefix)) | int(network.network_address) << (96 - length)
        found.append(str(ipaddress.IPv6Network((address, length + network.prefixlen))))
    return found


def _networks() -> tuple[str, ...]:
    found = []
    for cidr, _who in ENDPOINTS:
        network = ipaddress.ip_network(cidr)
        found.append(str(network))
        if isinstance(network, ipaddress.IPv4Network):
            found.extend(embedded(network))
    return tuple(found)


NETWORKS: tuple[str, ...] = _networks()
# Parsed once: a manifest asks for each of its destinations.
_PARSED = tuple(ipaddress.ip_network(cidr) for cidr in NETWORKS)


def endpoint_of(cidr: str) -> str | None:
    """Return the network of ``NETWORKS`` that holds all of ``cidr``, or None.

    An allowlist entry for which this is not None could never match: it is refused with that reason.
    A wider entry (``0.0.0.0/0``) is fine, since the firewall refuses metadata before it reads the
    allowlist.
    """
    wanted = ipaddress.ip_network(cidr, strict=False)
    for network in _PARSED:
        if network.version == wanted.version and wanted.subnet_of(network):  # type: ignore[arg-type]
            return str(network)
    return None


def name_of(name: str) -> str | None:
    """Return the name of ``NAMES`` that this one is or stands below, or None. Lower case, no dot at the end."""
    labels = name.split(".")
    for start in range(len(labels)):
        candidate = ".".join(labels[start:])
        # A single label is a name of its own: metadata.example.org has nothing to do with "metadata".
        if candidate in NAMES and (start == 0 or "." in candidate):
            return candidate
    return None
