#!/usr/bin/python
# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: agent_users
short_description: Users without a way in, one for each agent
version_added: 0.1.0
description:
  - Makes the users of all agents in one call, or corrects them.
  - Such a user has no login shell, no password, an expired account, no group but its own, no cron or at,
    no lingering user manager and no subordinate ids.
  - Users are never removed. Files that an agent left behind would otherwise belong to whoever gets its number next.
extends_documentation_fragment:
  - cordon.agent_host.attributes
author: the cordon.agent_host authors (@cordon)
options:
  users:
    description: The users to have.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the user and of its group.
        type: str
        required: true
      home:
        description: Home directory. It is not made here.
        type: path
        required: true
      comment:
        description: What the user database says of the user. No colon and no line break can stand in it.
        type: str
        default: AI agent
"""

EXAMPLES = r"""
- name: Make the users of two agents
  cordon.agent_host.agent_users:
    users:
      - {name: agent-scout, home: /srv/agents/scout}
      - {name: agent-scribe, home: /srv/agents/scribe}

- name: Make the user of a service that agents use
  cordon.agent_host.agent_users:
    users:
      - {name: cordon-proxy, home: /nonexistent, comment: Egress proxy of AI agents}
"""

RETURN = r"""
steps:
  description: What was, or in check mode would be, changed.
  returned: success
  type: list
  elements: str
  sample: ["agent-scout: create the user"]
"""

import os
from typing import Dict, List, Optional

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.cordon.agent_host.plugins.module_utils import _files, _users

LISTS = ("cron.allow", "cron.deny", "at.allow", "at.deny")


def _text(path: str) -> Optional[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _host() -> _users.Host:
    lingering = tuple(os.listdir(_users.LINGER)) if os.path.isdir(_users.LINGER) else ()
    return _users.Host(
        passwd=_text("/etc/passwd") or "",
        group=_text("/etc/group") or "",
        shadow=_text("/etc/shadow") or "",
        subuid=_text("/etc/subuid") or "",
        subgid=_text("/etc/subgid") or "",
        lingering=lingering,
        lists={name: _text(f"/etc/{name}") for name in LISTS},
    )


def _correct_accounts(module: AnsibleModule, host: _users.Host) -> List[str]:
    done = []
    for user in module.params["users"]:
        for step in _users.steps(host, user["name"], user["home"], user["comment"]):
            done.append(f"{user['name']}: {step.what}")
            if not module.check_mode:
                module.run_command(step.argv, check_rc=True)
    return done


def _deny_schedulers(module: AnsibleModule, lists: Dict[str, Optional[str]]) -> List[str]:
    done = []
    names = sorted(user["name"] for user in module.params["users"])
    for service in ("cron", "at"):
        file, text = _users.denied(lists, service, names)
        if text != (lists[file] or ""):
            done.append(f"/etc/{file}: keep {', '.join(names)} from {service}")
            if not module.check_mode:
                _replace(f"/etc/{file}", text)
    return done


def _replace(path: str, text: str) -> None:
    parent = _files.open_parent(path)
    try:
        name = os.path.basename(path)
        before = _files.observe(parent, name)
        # crontab and at are setgid and read these lists as their caller's group: keep what was there.
        kept = (before.mode, before.uid, before.gid) if before.kind == "file" else (0o644, 0, 0)
        _files.write_file(parent, name, _files.Entry("file", *kept, text))
    finally:
        os.close(parent)


def main() -> None:
    entry = {
        "name": {"type": "str", "required": True},
        "home": {"type": "path", "required": True},
        "comment": {"type": "str", "default": _users.COMMENT},
    }
    module = AnsibleModule(
        {"users": {"type": "list", "elements": "dict", "required": True, "options": entry}},
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LANG": "C", "LC_ALL": "C", "LC_MESSAGES": "C", "LC_CTYPE": "C"}
    try:
        host = _host()
        steps = _correct_accounts(module, host) + _deny_schedulers(module, host.lists)
    except (OSError, _files.UnsafePath) as error:
        module.fail_json(msg=f"agent_users: {error}")
    diff = {"before": "", "after": "".join(f"{step}\n" for step in steps)}
    module.exit_json(changed=bool(steps), steps=steps, diff=diff)


if __name__ == "__main__":
    main()
