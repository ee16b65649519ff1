#!/usr/bin/python
# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: brokered_secrets
short_description: The secrets that the egress proxy adds to agents' requests
version_added: 0.1.0
description:
  - Seals what C(cordon-proxy.service) includes into its configuration - for each secret its agent, host, port, header and value -
    so that only this host can open it. systemd opens it when the proxy starts, into memory that is never swapped, for the
    proxy's user alone.
  - The whole set in one call. A secret that is not listed any more is gone from the sealed file. Without secrets there is none.
  - A proxy that runs goes on with what it was started with. RV(in_force) says whether that is what is wanted.
  - Values appear in no argument of a command, environment variable, log, result or diff, and in no file in the clear.
extends_documentation_fragment:
  - cordon.agent_host.attributes
author: the cordon.agent_host authors (@cordon)
requirements:
  - systemd-creds (systemd 250)
options:
  secrets:
    description: The secrets, as P(cordon.agent_host.brokered_secrets#filter) returns them.
    type: list
    elements: dict
    required: true
    suboptions:
      agent:
        description: Whose requests get the secret.
        type: str
        required: true
      name:
        description: The secret's name.
        type: str
        required: true
      host:
        description: The one host whose requests get it.
        type: str
        required: true
      port:
        description: That host's port.
        type: int
        required: true
      header:
        description: The request header that carries it.
        type: str
        required: true
      prefix:
        description: What stands before the value.
        type: str
        default: ""
      user:
        description: The user of whom the value is the password, in a header of the scheme Basic.
        type: str
  values:
    description: The values, as a mapping of agents to mappings of secret names to text.
    type: dict
    required: true
  seal:
    description:
      - What the file is sealed with. V(auto) is the TPM 2.0 where there is one, and the host's own secret; V(host) is the latter
        alone; V(host+tpm2) fails without a TPM.
      - A file that is right is not sealed anew because of another O(seal).
    type: str
    choices: [auto, host, host+tpm2]
    default: auto
"""

EXAMPLES = r"""
- name: Have the proxy add the key to requests for one host
  cordon.agent_host.brokered_secrets:
    secrets: "{{ agent_host_agents | cordon.agent_host.agents | cordon.agent_host.brokered_secrets }}"
    values:
      scout:
        openai_key: "{{ lookup('ansible.builtin.env', 'SCOUT_OPENAI_KEY') }}"
"""

RETURN = r"""
secrets:
  description: What was, or in check mode would be, done. Secrets that are right are left out.
  returned: success
  type: list
  elements: dict
  sample: [{"name": "scout/openai_key", "before": "set", "after": "set to another value or place"}]
in_force:
  description:
    - Whether what systemd opened for the proxy that runs is this set. Where it is not, restart C(cordon-proxy.service). So a run
      that broke off before its restart is mended by the next one.
    - False too where no proxy runs and there are secrets.
  returned: success
  type: bool
"""

import os
from typing import List, Optional

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.cordon.agent_host.plugins.module_utils import _brokered, _files, _vault

ROOTS_ALONE = (0o600, 0, 0)
SECRET = {
    "agent": {"type": "str", "required": True},
    "name": {"type": "str", "required": True},
    "host": {"type": "str", "required": True},
    "port": {"type": "int", "required": True},
    "header": {"type": "str", "required": True},
    "prefix": {"type": "str", "default": ""},
    "user": {"type": "str"},
}


class Sealer:
    """systemd-creds on this host; what is in the clear goes through pipes."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._program = module.get_bin_path("systemd-creds")

    def missing(self) -> bool:
        return not self._program

    def seal(self, text: str, key: str) -> str:
        """The text as only this host can open it."""
        argv = _vault.creds_argv(_brokered.CREDENTIAL, key, os.path.exists(_vault.TPM))
        rc, out, err = self._module.run_command(argv, data=text, binary_data=True, expand_user_and_vars=False)
        if rc != 0:
            raise ValueError(f"{_brokered.SEALED} was not sealed with {key}: {' '.join(err.split())}")
        return str(out)

    def unseal(self) -> Optional[str]:
        """What the file holds; None where this host cannot open it."""
        if not self._program:
            return None
        argv = [self._program, "decrypt", f"--name={_brokered.CREDENTIAL}", _brokered.SEALED, "-"]
        rc, out, _err = self._module.run_command(argv, expand_user_and_vars=False)
        return str(out) if rc == 0 else None


def _in_force(wanted: str) -> bool:
    """Whether the proxy that runs was started with this."""
    try:
        with open(_brokered.INCLUDED, encoding="utf-8") as stream:
            return stream.read() == wanted
    except FileNotFoundError:
        return not wanted


def _converge(module: AnsibleModule, sealer: Sealer, wanted: str) -> List[_brokered.Change]:
    if wanted and sealer.missing():
        raise ValueError("systemd-creds is missing, so nothing can be sealed for the proxy: it comes with systemd 250 "
                         "(Debian 12, Ubuntu 24.04). On an older host take broker out of the secrets")
    try:
        parent = _files.open_parent(_brokered.SEALED)
    except FileNotFoundError:
        if module.check_mode or not wanted:
            return _brokered.changes(wanted, "")
        os.makedirs(os.path.dirname(_brokered.SEALED), mode=0o755, exist_ok=True)
        parent = _files.open_parent(_brokered.SEALED)
    try:
        return _in_place(module, sealer, parent, wanted)
    finally:
        os.close(parent)


def _in_place(module: AnsibleModule, sealer: Sealer, parent: int, wanted: str) -> List[_brokered.Change]:
    name = os.path.basename(_brokered.SEALED)
    seen = _files.observe(parent, name)
    present = sealer.unseal() if seen.kind == "file" else ""
    right = seen.kind == "file" and (seen.mode, seen.uid, seen.gid) == ROOTS_ALONE
    if (seen.kind == "absent" and not wanted) or (right and wanted and present == wanted):
        return []
    found = _brokered.changes(wanted, present) or [_brokered.Change(_brokered.SEALED, "differs", "set" if wanted else "removed")]
    if module.check_mode:
        return found
    if wanted:
        sealed = sealer.seal(wanted, module.params["seal"])
        _files.write_file(parent, name, _files.Entry("file", *ROOTS_ALONE, sealed))
    else:
        _files.remove(parent, name)
        os.fsync(parent)
    return found


def main() -> None:
    module = AnsibleModule(
        {
            "secrets": {"type": "list", "elements": "dict", "required": True, "options": SECRET, "no_log": False},
            "values": {"type": "dict", "required": True, "no_log": True},
            "seal": {"type": "str", "choices": ["auto", "host", "host+tpm2"], "default": "auto"},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LANG": "C", "LC_ALL": "C", "LC_MESSAGES": "C", "LC_CTYPE": "C"}
    secrets = sorted(_brokered.Secret(**secret) for secret in module.params["secrets"])
    mistakes = _brokered.mistakes(secrets, module.params["values"])
    if mistakes:
        module.fail_json(msg="brokered_secrets: nothing was written. " + "; ".join(mistakes))
    wanted = _brokered.render(secrets, module.params["values"])
    try:
        found = _converge(module, Sealer(module), wanted)
        in_force = _in_force(wanted)
    except (OSError, ValueError, _files.UnsafePath) as error:
        module.fail_json(msg=f"brokered_secrets: {error}")
    done = [change._asdict() for change in found]
    module.exit_json(changed=bool(found), secrets=done, in_force=in_force, diff=_brokered.diff(found))


if __name__ == "__main__":
    main()
