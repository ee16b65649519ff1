# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private: what the OpenSSH client finds when an agent starts it.

~/.ssh belongs to root and holds no key, so the client gets its keys from the vault and notes hosts elsewhere. Host keys
stay checked: an agent that nobody tells a host's key cannot connect to it (ssh_config(5), StrictHostKeyChecking).
"""

from __future__ import annotations

from typing import Any, Dict, List

CLIENT_CONFIG = "/etc/ssh/ssh_config.d/50-cordon.conf"
KNOWN_HOSTS = ".config/ssh_known_hosts"


def client_config(agents: List[Dict[str, Any]]) -> str:
    """The drop-in for ssh_config: one block per agent that has the tool ssh."""
    head = [
        "# What ssh uses when an agent starts it. Rendered by cordon.agent_host; edits are undone by the next run.",
        "# Host keys for all agents belong into /etc/ssh/ssh_known_hosts.",
    ]
    blocks = [_block(agent) for agent in agents if "ssh" in agent["tools"]]
    return "\n".join(head + [line for block in blocks for line in block]) + "\n"


def _block(agent: Dict[str, Any]) -> List[str]:
    # localuser is matched before anything else is read, and ends with the next Match.
    keys = [secret["name"] for secret in agent["secrets"] if "ssh" in secret["tools"]]
    return [
        "",
        f"Match localuser {agent['user']}",
        f"    UserKnownHostsFile {agent['home']}/{KNOWN_HOSTS}",
        "    IdentityAgent none",
        "    IdentitiesOnly yes",
        *[f"    IdentityFile {agent['home']}/.vault/{name}" for name in keys],
    ]
