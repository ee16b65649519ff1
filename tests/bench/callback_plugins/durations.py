# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write how long each task took, and what it answered, one JSON object a line, into BENCH_LOG."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: durations
type: notification
short_description: Durations of tasks
description: From the moment the task is sent to the host until its answer is here.
"""


class CallbackModule(CallbackBase):
    """Ansible's entry point."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "durations"

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """The task is about to be sent."""
        self._begun = time.monotonic()

    def v2_runner_on_ok(self, result: Any) -> None:
        """The answer is here."""
        seconds = time.monotonic() - self._begun
        answer = result.result if hasattr(result, "result") else result._result
        task = result.task if hasattr(result, "task") else result._task
        line = {"name": task.get_name(), "seconds": seconds, "changed": bool(answer.get("changed")),
                "stdout": answer.get("stdout", "")}
        with open(os.environ["BENCH_LOG"], "a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
