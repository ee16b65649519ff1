# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of the module nftables_table: come in again, and only then keep the change."""

from __future__ import annotations

import time
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

#: Connections that a packet filter on the host could cut. Others (local, docker, chroot) do not pass through it.
OVER_THE_NETWORK = ("ssh", "paramiko", "paramiko_ssh", "libssh", "ansible.netcommon.libssh")


class ActionModule(ActionBase):
    """Runs the module. A change that waits for its confirmation is confirmed over a connection that is new."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ansible's entry point. Without a change of the table this is one call of the module."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        result.update(self._execute_module(task_vars=task_vars))
        if not result.get("pending") or result.get("failed"):
            return result
        confirmed = self._confirm(task_vars)
        if confirmed.get("failed"):
            # It is undone, or will be: what the change would have been is no result.
            return {**confirmed, "changed": False}
        return {**result, "pending": False}

    def _confirm(self, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Come in again. Until the change undoes itself: one connection that fails tells of the network, not of the ruleset."""
        within = int(self._task.args["confirm_within"])
        end = time.monotonic() + within
        while True:
            try:
                return self._confirm_once(task_vars)
            except AnsibleConnectionFailure as error:
                if time.monotonic() > end:
                    raise AnsibleConnectionFailure(
                        "nftables_table: with the new ruleset no connection can be made, so the host will return to the one"
                        f" from before within {within} seconds: {error}"
                    ) from error
            time.sleep(1)

    def _confirm_once(self, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        wanted = {key: self._task.args[key] for key in ("pending",) if key in self._task.args}
        new = self._connection.transport in OVER_THE_NETWORK
        if new:
            # Lets the shared connection of ControlPersist go, so that the next call opens one.
            self._connection.reset()
        confirmed: dict[str, Any] = self._execute_module(
            module_args={**wanted, "state": "confirmed", "new_connection": new}, task_vars=task_vars
        )
        return confirmed
