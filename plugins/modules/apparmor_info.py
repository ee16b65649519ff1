#!/usr/bin/python
# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: apparmor_info
short_description: Read what AppArmor really does on a host, profiles and processes
version_added: 0.1.0
description:
  - Reads in one call which profiles of ours the kernel holds, in which mode and with which hash; under which label each
    process of each agent's user runs; what the kernel can enforce; what differs from the record of the last load; and
    which agents were promoted to enforce.
  - Everything comes from the kernel's own files. It changes nothing, and starts a program for V(parser) only.
  - A value that could not be read is null, and RV(unreadable) says why. It is never guessed.
extends_documentation_fragment:
  - cordon.agent_host.attributes
attributes:
  diff_mode:
    support: none
    details: It changes nothing.
author: the cordon.agent_host authors (@cordon)
options:
  agents:
    description:
      - Names of the agents whose processes are looked at.
      - Left out, those of the host's own record F(/etc/cordon/manifest.json), and every other user C(agent-*).
    type: list
    elements: str
  gather:
    description: The parts to read. V(support) and V(promotions) cost next to nothing.
    type: list
    elements: str
    choices: [support, promotions, profiles, agents, kernel, parser]
    default: [support, promotions, profiles, agents, kernel, parser]
notes:
  - Run it as root. To anybody else most of the answers are null.
seealso:
  - module: cordon.agent_host.apparmor_profiles
"""

EXAMPLES = r"""
- name: Ask whether there is AppArmor, and who was promoted
  cordon.agent_host.apparmor_info:
    gather: [support, promotions]
  register: apparmor

- name: Stop where something of ours is not as it was loaded, or an agent's process is not in its cage
  cordon.agent_host.apparmor_info:
  register: apparmor
  failed_when: apparmor.drift or apparmor.agents.values() | selectattr('unconfined')
"""

RETURN = r"""
supported:
  description: Whether the kernel's AppArmor is on and its policy can be read here.
  returned: with support
  type: bool
enabled:
  description: The kernel's switch, V(Y) or V(N).
  returned: with support
  type: str
abi:
  description: The newest policy ABI that our profiles are written for and the host's parser has. Null without a parser.
  returned: with support
  type: str
  sample: "3.0"
promotions:
  description: The content of F(/etc/cordon/promotions.json), by agent; empty when nobody was promoted.
  returned: with promotions
  type: dict
  sample: {}
profiles:
  description: Our profiles as the kernel holds them, each with C(mode), C(hash) and C(hash_kind). Null without AppArmor.
  returned: with profiles
  type: dict
  sample: {cordon.autopilot: {mode: enforce, hash: 6f9c, hash_kind: raw_sha256}}
counts:
  description: All profiles of the host by mode.
  returned: with profiles
  type: dict
  sample: {enforce: 76, unconfined: 71}
drift:
  description: What differs from the record of the last load, a C(profile) and a C(problem) each. Null without AppArmor.
  returned: with profiles
  type: list
  elements: dict
  sample: [{profile: cordon.autopilot, problem: the kernel has it in complain}]
recorded:
  description: The record of the last load, by profile.
  returned: with profiles
  type: dict
  sample: {cordon.autopilot: {mode: enforce, hash: 6f9c, source_sha256: 4be1, since: 1763900000.0}}
unenforced:
  description:
    - What the kernel does not enforce of the profiles, a C(class), C(why), its C(control) outside AppArmor, and what
      C(remains) open. Null before the first load.
  returned: with profiles
  type: list
  elements: dict
  sample: [{class: userns, why: this kernel does not have it, control: RestrictNamespaces=, remains: ""}]
agents:
  description:
    - By agent, its C(user), its C(processes) (C(pid), C(program), C(label), C(mode), C(confined)), the C(modes) that they
      run in, and how many of them are C(confined) and C(unconfined). Confined means to be in this agent's cage and one of
      its inner profiles.
  returned: with agents
  type: dict
  sample: {autopilot: {user: agent-autopilot, processes: [], modes: [], confined: 0, unconfined: 0}}
features:
  description: What this kernel can enforce, each file below securityfs's C(features) with its content.
  returned: with kernel
  type: dict
  sample: {domain/stack: "yes"}
revision:
  description: Number of the policy's last change since boot; it rises with each load and removal.
  returned: with kernel
  type: int
  sample: 87
parser:
  description: Version of apparmor_parser. Null when it is not installed.
  returned: with parser
  type: str
  sample: 3.0.8
unreadable:
  description: Every file and command that could not be read, and why.
  returned: success
  type: dict
  sample: {}
"""

from typing import Any, Dict, List, Optional, Tuple

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.cordon.agent_host.plugins.module_utils import _apparmor_info as info
from ansible_collections.cordon.agent_host.plugins.module_utils._facts_source import Source

C_LOCALE = {"LANG": "C", "LC_ALL": "C", "LC_MESSAGES": "C", "LC_CTYPE": "C"}
GATHER = ["support", "promotions", "profiles", "agents", "kernel", "parser"]


def read(source: Source, gather: List[str], agents: Optional[List[str]]) -> Dict[str, Any]:
    """Every part asked for, as one flat answer."""
    found: Dict[str, Any] = {}
    for part in gather:
        found.update(info.agents(source, agents) if part == "agents" else info.PARTS[part](source))
    return dict(found, unreadable=dict(sorted(source.unreadable.items())))


def main() -> None:
    """Ansible's entry point."""
    module = AnsibleModule(
        argument_spec={
            "agents": {"type": "list", "elements": "str"},
            "gather": {"type": "list", "elements": "str", "choices": GATHER, "default": GATHER},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = C_LOCALE

    def run(argv: List[str], data: Optional[str] = None) -> Tuple[int, str, str]:
        rc, out, err = module.run_command(argv, data=data)
        return rc, out, err

    try:
        module.exit_json(changed=False, **read(Source(run), module.params["gather"], module.params["agents"]))
    except info.Unusable as problem:
        module.fail_json(msg=str(problem))


if __name__ == "__main__":
    main()
