# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of every module that is given secrets: their values reach the host through a pipe, or not at all.

Without pipelining Ansible writes a module with its arguments to a file on the host, removes it after the task and
overwrites nothing (docs.ansible.com, `pipelining` and `DEFAULT_KEEP_REMOTE_FILES`).  Pipelining is off by default.
"""

from __future__ import annotations

import contextlib
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Runs the module of the task's name, with pipelining whatever the configuration says."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ansible's entry point. Fails before anything is sent where there can be no pipe."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        self._ask_for_a_pipe()
        if not self._is_pipelining_enabled("new", bool(self._task.async_val)):
            return {**result, "failed": True, "msg": self._refusal()}
        result.update(self._execute_module(task_vars=task_vars))
        return result

    def _ask_for_a_pipe(self) -> None:
        """Plugins such as ssh have an option for it, others such as docker heed the play; one without a pipe heeds neither."""
        with contextlib.suppress(AnsibleError, KeyError):
            self._connection.set_option("pipelining", True)
        self._connection._play_context.pipelining = True

    def _refusal(self) -> str:
        become = self._connection.become.name if self._connection.become else "none"
        return (
            f"{self._task.action}: nothing was sent, because its arguments hold secrets and Ansible would write them to a file"
            f" on the host: there is no pipelining with ANSIBLE_KEEP_REMOTE_FILES, with async, or with every connection and"
            f" become plugin (here {self._connection.transport} and {become}). Use ssh with sudo, without these"
        )
