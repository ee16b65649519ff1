#!/usr/bin/python
# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: agent_host_info
short_description: Read what a host and its agents really are, from kernel and system state
version_added: 0.1.0
description:
  - Reads AppArmor, audit, nftables, mounts, control groups, processes, accounts, units and file modes in one call,
    and changes nothing.
  - Reports what the kernel and the system hold, not what configuration files say. The hashes recorded when policy
    was loaded appear only under C(expected), for the checks to compare with.
  - A value that could not be read is null, and C(unreadable) says why. It is never guessed.
  - The filter P(cordon.agent_host.evidence#filter) judges these facts by checks.
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
      - The agents, as P(cordon.agent_host.agents#filter) resolves them, without promotions. Those are read on the host.
      - Left out, the host's own record F(/etc/cordon/manifest.json) is taken.
    type: list
    elements: dict
  allow_unenforced:
    description:
      - The controls that this host's kernel need not have.
      - Left out, the host's own record is taken.
    type: list
    elements: str
    choices: [apparmor, audit]
notes:
  - Run it as root. To anybody else most of the answers are null, and every check over them fails.
seealso:
  - plugin: cordon.agent_host.evidence
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Read the host
  cordon.agent_host.agent_host_info:
    agents: "{{ agent_host_agents | cordon.agent_host.agents }}"
  register: host

- name: Show what is loaded for one agent
  ansible.builtin.debug:
    var: host.facts.agents.autopilot.apparmor
"""

RETURN = r"""
facts:
  description:
    - The facts. Each part is described at the top of its file, C(plugins/module_utils/_facts*.py).
  returned: success
  type: dict
  contains:
    schema:
      description: Version of this shape.
      type: int
      sample: 1
    collected_at:
      description: When, in UTC.
      type: str
      sample: "2026-11-23T04:30:00Z"
    support:
      description: Whether this kernel offers C(apparmor) and C(audit) at all. Null when that could not be told.
      type: dict
      sample: {apparmor: true, audit: true}
    agents:
      description: The facts of each agent, by name.
      type: dict
      sample: {}
    unreadable:
      description: Every file and command that could not be read, and why.
      type: dict
      sample: {"auditctl -l": "auditctl is not installed"}
"""

from typing import Any, Dict, List, Optional, Tuple

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.cordon.agent_host.plugins.module_utils import _facts

C_LOCALE = {"LANG": "C", "LC_ALL": "C", "LC_MESSAGES": "C", "LC_CTYPE": "C"}
OPTIONS: Dict[str, Any] = {
    "agents": {"type": "list", "elements": "dict"},
    "allow_unenforced": {"type": "list", "elements": "str", "choices": ["apparmor", "audit"]},
}


def main() -> None:
    """Collect and return; a manifest that was not resolved is the only thing that can go wrong."""
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    module.run_command_environ_update = C_LOCALE

    def run(argv: List[str], data: Optional[str] = None) -> Tuple[int, str, str]:
        rc, out, err = module.run_command(argv, data=data)
        return rc, out, err

    try:
        facts = _facts.collect(run, module.params["agents"], allow_unenforced=module.params["allow_unenforced"])
    except KeyError as missing:
        module.fail_json(msg="agents: the key %s is missing: pass the manifest through the filter "
                             "cordon.agent_host.agents first" % missing)
    module.exit_json(changed=False, facts=facts)


if __name__ == "__main__":
    main()
