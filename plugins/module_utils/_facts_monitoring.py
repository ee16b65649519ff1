# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of the event log, the watch and the heartbeat: is what the agents do being written, right now?

    writer     {age_seconds: number|null, fresh, log_writable, kernel_log_readable: bool|null}
               the writer refreshes its state file at least every 10 s while it is healthy
    watch      {age_seconds: number|null, fresh: bool|null}: cordon-watch writes its state after every look, 5 s apart
    receivers  {webhook, heartbeat: true|"declined"|null}: whether somebody off this host is told;
               declined where the operator gave `none`. The addresses may hold tokens: they are left out
    log        metadata of the event log | null
    retention_days  int|null: for how long logrotate keeps the event log
"""

from __future__ import annotations

import re
import time
from typing import Any, Dict, List, Optional, Tuple

from ._facts_source import Source

LOG = "/var/log/cordon/events.jsonl"
STATE = "/run/cordon/events.json"
WATCH = "/run/cordon/watch.json"
SETTINGS = "/etc/cordon/monitoring.json"
FRESH_SECONDS = 30  # three missed refreshes of the writer, six of the watch
LOGROTATE = "/etc/logrotate.d"
PERIOD_DAYS = {"daily": 1, "weekly": 7, "monthly": 30, "yearly": 365}


def read(source: Source) -> Dict[str, Any]:
    """Return the facts of this module (shape: module docstring)."""
    return {
        "writer": _writer(source),
        "watch": _age(source, WATCH),
        "receivers": _receivers(source),
        "log": source.metadata(LOG),
        "retention_days": _retention(source),
    }


def _writer(source: Source) -> Dict[str, Any]:
    state = source.record(STATE)
    said = state if isinstance(state, dict) else {}
    return dict(_age(source, STATE), log_writable=said.get("log_writable"),
                kernel_log_readable=said.get("kernel_log_readable"))


def _age(source: Source, path: str) -> Dict[str, Any]:
    age = source.age(path, time.time())
    return {"age_seconds": age, "fresh": None if age is None else age <= FRESH_SECONDS}


def _receivers(source: Source) -> Dict[str, Any]:
    settings = source.record(SETTINGS)
    found: Dict[str, Any] = {"webhook": None, "heartbeat": None}
    for name in found:
        key = name + "_url"
        if isinstance(settings, dict) and key in settings:
            found[name] = True if settings[key] else "declined"
    return found


def _retention(source: Source) -> Optional[int]:
    names = source.names(LOGROTATE) if source.exists(LOGROTATE) else []
    texts = [source.text("%s/%s" % (LOGROTATE, name)) for name in names or [] if name.startswith("cordon")]
    days = [found for found in (retention_days(text or "", LOG) for text in texts) if found is not None]
    return min(days) if days else None


def retention_days(text: str, log: str) -> Optional[int]:
    """Return how many days logrotate(8) keeps `log` by one configuration file; null if it says nothing.

    A `size` or `maxsize` rotates early, so that fewer days are kept than counted here: then null.
    """
    for patterns, body in _stanzas(text):
        if not any(re.fullmatch(_glob(pattern), log) for pattern in patterns):
            continue
        words = dict(line.partition(" ")[::2] for line in body)
        days = next((PERIOD_DAYS[word] for word in words if word in PERIOD_DAYS), None)
        if days is None or not words.get("rotate", "").strip().isdigit() or "size" in words or "maxsize" in words:
            return None
        kept = days * int(words["rotate"])
        limit = words.get("maxage", "").strip()
        return min(kept, int(limit)) if limit.isdigit() else kept
    return None


def _stanzas(text: str) -> List[Tuple[List[str], List[str]]]:
    plain = re.sub(r"#.*", "", text)
    return [(names.replace('"', " ").split(), [" ".join(line.split()) for line in body.splitlines() if line.strip()])
            for names, body in re.findall(r"([^{}]+)\{([^}]*)\}", plain)]


def _glob(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
