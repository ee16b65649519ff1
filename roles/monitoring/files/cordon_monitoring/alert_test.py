# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Send one test alert to the webhook, and note that it was taken.

    python3 -m cordon_monitoring.alert_test [PROOF]

Run by the role when the address is new: an alert that nobody can receive is found out now and not at night.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from . import alert_queue, alert_rules, config


def main() -> int:
    """Exit status 0: the webhook took it."""
    settings = config.settings()
    if settings.webhook_url is None:
        print("no webhook: monitoring_webhook_url is 'none'", file=sys.stderr)
        return 1
    summary = f"test from {settings.host}: alerts about its agents will arrive here"
    try:
        alert_queue.post(settings.webhook_url, alert_rules.host_alert(alert_rules.TEST, settings.host, time.time(), summary))
    except alert_queue.Refused as error:
        print(f"the webhook did not take the test alert: {error}", file=sys.stderr)
        return 1
    for proof in map(Path, sys.argv[1:]):
        for old in proof.parent.glob("tested-*"):
            old.unlink()
        proof.touch()
    return 0


if __name__ == "__main__":
    sys.exit(main())
