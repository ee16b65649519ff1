# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make bench`: what AppArmor costs, measured in one run on a booted guest with the profiles of examples/hosts.

Figures that depend on the machine are given as ratios to something measured beside them. Exit code 1 when one of the
requirements is missed.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build"
TESTBED = Path(os.environ.get("TESTBED_DIR") or BUILD / "testbed").resolve()
MANIFEST = ROOT / "examples" / "hosts" / "many_agents.yml"
TURNS, EXECS = 9, 60
LEAST_PROFILES = 74

sys.path.insert(0, str(ROOT / "tests" / "unit"))
import conftest  # noqa: F401 (makes the collection importable)
import yaml

from ansible_collections.cordon.agent_host.plugins.filter.agents import agents
from ansible_collections.cordon.agent_host.plugins.filter.apparmor_profiles import apparmor_profiles

Row = tuple[str, str, bool | None]


def render() -> tuple[list[dict[str, str]], float]:
    """The profiles, and the seconds from the manifest as Ansible has it to their texts, catalogue included."""
    manifest = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))["agent_host_agents"]
    begun = time.perf_counter()
    profiles = apparmor_profiles(agents(manifest))
    return profiles, time.perf_counter() - begun


def play(profiles: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Run apparmor.yml against the guest; one entry for each task."""
    with tempfile.TemporaryDirectory() as place:
        texts, log = Path(place) / "profiles.json", Path(place) / "log"
        texts.write_text(json.dumps(profiles), encoding="utf-8")
        variables = {"bench_file": str(texts), "bench_turns": TURNS, "bench_execs": EXECS,
                     "bench_inner": profiles[0]["name"] + ".main"}
        subprocess.run(
            [str(BUILD / "venv" / "bin" / "ansible-playbook"), "-i", str(TESTBED / "inventory.yml"),
             "-e", json.dumps(variables), str(HERE / "apparmor.yml")],
            check=True, stdout=sys.stderr, env={
                **os.environ, "BENCH_LOG": str(log), "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "callback_plugins"),
                "ANSIBLE_CALLBACKS_ENABLED": "durations", "ANSIBLE_COLLECTIONS_PATH": str(BUILD / "dev")})
        return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def numbers(text: str) -> dict[str, int]:
    """`name=1 other=2` as a mapping."""
    return {key: int(value) for key, _sign, value in (word.partition("=") for word in text.split())}


def table(profiles: list[dict[str, str]], rendering: float, tasks: list[dict[str, Any]]) -> list[Row]:
    """Rows of name, figure, and whether the requirement is met (None where there is none)."""
    def seconds(name: str) -> list[float]:
        return [task["seconds"] for task in tasks if task["name"] == name]

    def said(name: str) -> str:
        return next(task["stdout"] for task in tasks if task["name"] == name).strip()

    first, loop = seconds("first load")[0], seconds("loop of apparmor_parser")[0]
    # Pair by pair: on a busy machine the load changes between the first and the last.
    ping, same = seconds("ping"), seconds("no change")
    ratio = statistics.median(one / other for one, other in zip(same, ping, strict=True))
    unchanged = not any(task["changed"] for task in tasks if task["name"] == "no change")
    before, after = numbers(said("memory before")), numbers(said("memory after"))
    memory = after["kernel"] - before["kernel"]
    free, caged, both = (statistics.median(column) for column in zip(
        *([float(word) for word in line.split()] for line in said("exec").splitlines()), strict=True))
    count = len(profiles)
    return [
        ("profiles", str(count), count >= LEAST_PROFILES),
        ("rendering them on the controller", f"{rendering:.2f} s", rendering < 0.5),
        ("first load by the module", f"{first:.1f} s", None),
        (f"{count} calls of apparmor_parser -r", f"{loop:.1f} s", None),
        ("  the loop takes", f"{loop / first:.1f} times as long", None),
        ("run that changes nothing, median", f"{statistics.median(same):.2f} s", unchanged),
        ("ping, median", f"{statistics.median(ping):.2f} s", None),
        ("  the run takes", f"{ratio:.2f} times as long", ratio <= 1.5),
        ("found in the boot's cache", f"{said('boot cache')} of {count}", said("boot cache") == str(count)),
        ("fork and exec in the cage", f"{caged / free:.2f} times unconfined", None),
        ("fork and exec in both layers", f"{both / free:.2f} times unconfined", None),
        ("policy as compiled", f"{after['raw_data'] / 1024:.0f} KiB ({after['raw_data'] / 1024 / count:.0f} each)", None),
        ("kernel memory that it takes", f"{memory} KiB ({memory / count:.0f} each)", None),
    ]


def main() -> None:
    """Print the table."""
    profiles, rendering = render()
    rows = table(profiles, rendering, play(profiles))
    for name, figure, met in rows:
        print(f"{name:38} {figure:28} {'' if met is None else 'ok' if met else 'MISSED'}".rstrip())
    sys.exit(0 if all(met is not False for _name, _figure, met in rows) else 1)


if __name__ == "__main__":
    main()
