# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small agent that does honest work: read a secret, ask an allowed service, commit what it said.

Usage: scout.py URL CA_FILE
"""

from __future__ import annotations

import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

REPOSITORY = Path("report")
PERIOD = 60  # seconds between rounds


def git(*words: str) -> None:
    """Run git in the report's repository."""
    identity = ["-c", "user.name=scout", "-c", "user.email=scout@localhost"]
    subprocess.run(["git", "-C", str(REPOSITORY), *identity, *words], check=True)


def ask(url: str, ca_file: str, token: str) -> str:
    """Call the service with the secret; its certificate must come from the given authority."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=ca_file), timeout=20) as answer:
        return answer.read().decode()


def work(url: str, ca_file: str) -> None:
    """One round."""
    token = (Path.home() / ".vault" / "github_token").read_text(encoding="utf-8").strip()
    if not REPOSITORY.exists():
        REPOSITORY.mkdir()
        git("init", "--quiet")
    (REPOSITORY / "answer.json").write_text(ask(url, ca_file, token), encoding="utf-8")
    git("add", "answer.json")
    git("commit", "--quiet", "--allow-empty", "--message", f"Report of {time.strftime('%H:%M:%S')}")


def main() -> None:
    """Work for ever; a round that fails is reported and tried again."""
    while True:
        try:
            work(*sys.argv[1:])
            print("scout: one round done", flush=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"scout: {error}", flush=True)
        time.sleep(PERIOD)


if __name__ == "__main__":
    main()
