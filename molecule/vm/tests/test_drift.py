# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever happens to the profiles, an agent ends in enforce under the right policy, or does not run and somebody is told.

Each round breaks several things at once, looks, lets the roles mend them, and looks again. Reboots: after_reboot,
without_apparmor.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.kernel
SHARED = Path(__file__).resolve().parents[2] / "shared"
PROFILES = "/etc/apparmor.d"
LABELS = {"scout": "cordon.scout//&cordon.scout.main (enforce)", "scribe": "cordon.scribe//&cordon.scribe.main (mixed)"}
RUNNING = "systemctl show --property=MainPID --value cordon-agent@{}"

# A newer version of the installed package apparmor, made of its own files and scripts: no archive is needed.
UPGRADE = r"""
set -e
cd "$(mktemp -d)"
mkdir -p root/DEBIAN
# The image leaves out some of a package's documentation.
dpkg -L apparmor | while read -r path; do [ ! -f "$path" ] || echo "$path"; done > files
tar --create --absolute-names --files-from=files | tar --extract --directory=root
for script in conffiles preinst postinst prerm postrm triggers; do
  [ ! -e /var/lib/dpkg/info/apparmor.$script ] || cp -p /var/lib/dpkg/info/apparmor.$script root/DEBIAN/
done
dpkg -s apparmor | sed -e '/^Status:/d' -e '/^Conffiles:/,/^[^ ]/{/^Conffiles:/d;/^ /d}' \
  -e 's/^Version: .*/&+molecule/' > root/DEBIAN/control
dpkg-deb --root-owner-group -Znone --build root apparmor.deb
DEBIAN_FRONTEND=noninteractive dpkg --force-confold --install apparmor.deb
"""


def mend() -> None:
    """Run the roles that load profiles and start agents."""
    testbed = os.environ["CORDON_TESTBED"]
    argv = ["ansible-playbook", f"--inventory={testbed}/inventory.yml", str(SHARED / "mend.yml")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def labels(host: Any) -> dict[str, str]:
    """The label of each agent's service that runs."""
    pids = {name: host.check_output(RUNNING.format(name)) for name in LABELS}
    return {name: host.run(f"cat /proc/{pid}/attr/current").stdout.strip() for name, pid in pids.items() if pid != "0"}


def attention(host: Any) -> set[str]:
    """The checks that do not pass."""
    shown = json.loads(host.run("cordonctl status --json").stdout)
    return {entry["id"] for entry in shown["attention"] if entry["status"] in ("fail", "error")}


@pytest.fixture
def said(host: Any) -> Callable[[str], bool]:
    """said(TEXT): whether cordon-watch wrote it since the test began."""
    since = host.check_output("date +%s")
    return lambda text: text in host.check_output(f"journalctl --no-pager --output=cat --unit=cordon-watch --since=@{since}")


@pytest.fixture
def sound(host: Any, eventually: Callable[..., Any]) -> Callable[[], None]:
    """sound(): both agents run under the labels that they must have, and no check fails."""

    def look() -> None:
        eventually(lambda: labels(host) == LABELS, seconds=90)
        eventually(lambda: not attention(host), seconds=60)

    return look


def test_reloads_and_an_upgrade_of_the_package_change_nothing(
    host: Any, said: Callable[[str], bool], sound: Callable[[], None]
) -> None:
    before = labels(host)
    host.check_output("systemctl reload apparmor")
    host.check_output("systemctl restart apparmor")
    version = "dpkg-query --show --showformat='${Version}' apparmor"
    old = host.check_output(version)
    host.check_output(UPGRADE)
    assert host.check_output(version) == f"{old}+molecule"
    assert labels(host) == before == LABELS
    sound()
    assert not said("recorded") and not said("killed")


def test_complain_and_removal_end_the_agents_until_they_are_mended(
    host: Any, as_agent: Callable[..., Any], said: Callable[[str], bool], sound: Callable[[], None],
    eventually: Callable[..., Any],
) -> None:
    """As aa-complain and aa-disable do it: by links that the next reload obeys."""
    host.check_output(f"mkdir -p {PROFILES}/force-complain {PROFILES}/disable")
    host.check_output(f"ln -s {PROFILES}/cordon.scout.main {PROFILES}/force-complain/ && systemctl reload apparmor")
    host.check_output(f"ln -s {PROFILES}/cordon.scribe {PROFILES}/disable/ && apparmor_parser -R {PROFILES}/cordon.scribe")
    eventually(lambda: said("cordon.scout.main: the kernel has it in complain"))
    eventually(lambda: said("cordon.scribe: the kernel does not have it"))
    # What ran is free: it is ended. Linux 6.1 does not always pass a new mode on to a stacked label that is in use: then
    # scout goes on under the label that it must have.
    eventually(lambda: said("agent-scribe ran what is not confined"))
    eventually(lambda: "scribe" not in labels(host) and labels(host).items() <= LABELS.items())
    # A reload does not bring back what is disabled, and neither agent starts again.
    host.check_output("systemctl reload apparmor")
    for agent in LABELS:
        assert f"agent {agent} is not started" in as_agent(agent, "true").stderr
    assert "scribe" not in labels(host) and labels(host).items() <= LABELS.items()
    mend()
    sound()
    assert not host.file(f"{PROFILES}/force-complain/cordon.scout.main").exists
    assert not host.file(f"{PROFILES}/disable/cordon.scribe").exists


def test_another_policy_under_the_same_name_lets_nothing_start(
    host: Any, as_agent: Callable[..., Any], said: Callable[[str], bool], sound: Callable[[], None],
    eventually: Callable[..., Any],
) -> None:
    """Somebody edits a profile and loads it: a rule that has an effect, or the policy stays the same."""
    file = f"{PROFILES}/cordon.scout"
    host.check_output(f"sed -i '$ s/}}/  capability sys_admin,\\n}}/' {file} && apparmor_parser -r {file}")
    eventually(lambda: said("cordon.scout: the kernel has another policy under its name"))
    assert as_agent("scout", "true").rc != 0
    assert {"cage-as-recorded"} <= attention(host)
    mend()
    sound()
    assert as_agent("scout", "true").rc == 0


@pytest.mark.parametrize(("agent_name", "rule"), [
    ("scout", "confinement-drift"), ("scribe", "confinement-drift"), ("scribe", "unconfined-process"),
])
def test_somebody_was_told(agent_name: str, rule: str, eventually: Callable[..., Any]) -> None:
    received = Path(os.environ["CORDON_TESTBED"]) / "webhook.jsonl"
    eventually(lambda: [
        line for line in received.read_text().splitlines()
        if (body := json.loads(line)["body"])["alert"] == rule and body["agent"] == agent_name])
