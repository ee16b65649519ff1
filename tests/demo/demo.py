# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make demo`: boot a guest, provision it from the collection's tarball, give the tour, say where the time went."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import tour

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build"
TESTBED = Path(os.environ.get("TESTBED_DIR") or BUILD / "testbed").resolve()
EVIDENCE = BUILD / "demo" / "evidence"


class Stages:
    """Runs commands and remembers how long each took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def run(self, name: str, argv: list[str], **environment: str) -> None:
        """Run one stage; ends the demo when it fails."""
        print(f"\ndemo: {name}", flush=True)
        begun = time.monotonic()
        code = subprocess.run(argv, cwd=ROOT, env={**os.environ, **environment}, check=False).returncode
        self.seconds[name] = time.monotonic() - begun
        if code != 0:
            sys.exit(f"demo: {name} failed (exit code {code}); the guests still run, 'make vm-down' ends them")

    def tour(self) -> bool:
        """The last stage, in this process."""
        begun = time.monotonic()
        right = tour.run(TESTBED)
        self.seconds["tour"] = time.monotonic() - begun
        return right


def provision(stages: Stages) -> None:
    """Run the site playbook against the guest."""
    variables = {
        "demo_services": json.loads((TESTBED / "services.json").read_text(encoding="utf-8")),
        "compliance_evidence_directory": str(EVIDENCE),
    }
    stages.run(
        "provision",
        [
            str(BUILD / "venv" / "bin" / "ansible-playbook"),
            *("-i", str(TESTBED / "inventory.yml"), "-e", f"@{HERE / 'manifest.yml'}", "-e", json.dumps(variables)),
            str(HERE / "site.yml"),
        ],
        ANSIBLE_COLLECTIONS_PATH=str(BUILD / "demo" / "collections"),
        ANSIBLE_INJECT_FACT_VARS="false",
        ANSIBLE_DISPLAY_SKIPPED_HOSTS="false",
    )


def main() -> None:
    """Exit code 0 only when every act of the tour went as it must."""
    stages = Stages()
    stages.run("install the collection from its tarball", [str(HERE / "install.sh")])
    stages.run("boot", ["make", "--no-print-directory", "vm", f"TESTBED_DIR={TESTBED}"])
    provision(stages)
    right = stages.tour()
    pages = sorted(EVIDENCE.glob("**/*.html"))
    print(f"\nEvidence page: {pages[0] if pages else 'NONE WRITTEN'}")
    print(f"Try it: ssh -F {TESTBED / 'ssh_config'} -t agenthost-1 cordonctl shell {tour.AGENT}")
    print("End the guest: make vm-down")
    spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in stages.seconds.items())
    print(f"\ndemo: {sum(stages.seconds.values()):.0f} s in all: {spent}")
    if not (right and pages):
        sys.exit("demo: not everything went as it must; see WRONG and NONE above")


if __name__ == "__main__":
    main()
