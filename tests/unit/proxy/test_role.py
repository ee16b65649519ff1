# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role firewall asks before squid-openssl takes the place of a squid that is somebody's."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils import _egress

COLLECTIONS = next(path.parent for path in Path(_egress.__file__).parents if path.name == "ansible_collections")
PLAY = [{
    "hosts": "localhost", "connection": "local", "gather_facts": False,
    "vars": {"firewall_agents": [{"name": "scout", "command": ["/bin/true"]}], "firewall_dns_servers": ["192.0.2.53"],
             "ansible_python_interpreter": sys.executable},
    "tasks": [{"ansible.builtin.import_role": {"name": "cordon.agent_host.firewall"}}],
}]
# As the package facts of ansible.builtin have it. All that the role would install is there, so that apt is not asked.
OTHERS = {name: [{}] for name in ("nftables", "squid-openssl", "openssl", "ca-certificates", "iproute2", "python3-dnspython",
                                  "python3-nftables")}
SQUID = {"squid": [{"version": "5.7-2+deb12u2"}]}


def run(tmp_path: Path, **variables) -> str:
    """The role in check mode as far as it goes: beyond the refusal it needs root and a host."""
    play = tmp_path / "play.yml"
    play.write_text(json.dumps(PLAY))
    variables["ansible_facts"] = {"service_mgr": "systemd", "dns": {"nameservers": ["192.0.2.53"]}}
    variables["__packages_read"] = {"ansible_facts": {"packages": {**OTHERS, **variables.pop("packages")}}}
    done = subprocess.run([str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", "--check", str(play),
                           "-e", json.dumps(variables)], capture_output=True, text=True, check=False, timeout=120,
                          env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS), "ANSIBLE_NOCOLOR": "1",
                               "ANSIBLE_LOCAL_TEMP": str(tmp_path / "local"), "ANSIBLE_REMOTE_TEMP": str(tmp_path / "remote")})
    return done.stdout


NAMED = [{"name": "scout", "command": ["/bin/true"], "egress": [{"name": "api.example.org"}]}]


@pytest.mark.parametrize(("variables", "refused"), [
    ({"packages": SQUID, "firewall_agents": NAMED}, True),
    ({"packages": SQUID, "firewall_agents": NAMED, "firewall_replace_squid": True}, False),
    ({"packages": SQUID}, False),
    ({"packages": {}, "firewall_agents": NAMED}, False),
])
def test_a_squid_that_is_there_is_not_replaced_unasked(tmp_path, variables, refused):
    shown = run(tmp_path, **variables)
    before, found, after = shown.partition("Refuse to replace a squid that is somebody else's] ***")
    assert found, shown
    assert "changed:" not in before
    said = " ".join(after.split("TASK [")[0].split())
    assert ("localhost has the package squid (5.7-2+deb12u2)" in said) == refused, shown
    assert ("firewall_replace_squid: true" in said) == refused
    assert ("TASK [" in after) != refused, "nothing else is begun"
