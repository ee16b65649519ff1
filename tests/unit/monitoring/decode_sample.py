# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print the acts of an audit log as JSON. Run by the system's Python, which alone has libauparse's binding.

/usr/bin/python3 decode_sample.py DIRECTORY_OF_THE_PACKAGE AUDIT_LOG
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])

from cordon_monitoring.audit_stream import AuditStream

stream = AuditStream(Path(sys.argv[2]))
acts = list(stream.poll())
json.dump({"acts": acts, "settled": stream.safe_cursor() == stream.tail.position()}, sys.stdout, indent=1)
