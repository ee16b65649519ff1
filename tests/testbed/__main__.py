# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`python3 -m testbed up|down|ssh|services`, with tests/ on PYTHONPATH."""

from __future__ import annotations

import sys

from testbed.cli import main

sys.exit(main(sys.argv[1:]))
