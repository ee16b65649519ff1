# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the verifying tests of the scenarios share: the manifest, the agents, and the journal of a failure.

The tests look at the kernel and at systemd, never at a file that a role has written and nothing else read.
See molecule/README.md.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import yaml

HERE = Path(__file__).parent
MANIFEST = yaml.safe_load((HERE / "shared" / "group_vars" / "all.yml").read_text())
AGENTS: list[dict[str, Any]] = MANIFEST["agent_host_agents"]

SCENARIO = HERE / os.environ.get("MOLECULE_SCENARIO_NAME", "default")

# Booted kernels have both; what a container lacks is waived in shared/host_vars.
KERNEL = os.environ.get("MOLECULE_SCENARIO_NAME") != "default"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kernel: needs AppArmor and audit, which a container does not have")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not KERNEL:
        for item in items:
            if item.get_closest_marker("kernel"):
                reason = "a container has neither AppArmor nor audit; scenario vm runs it"
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with an argument `agent` runs once for each agent of the manifest."""
    if "agent" in metafunc.fixturenames:
        metafunc.parametrize("agent", AGENTS, ids=[each["name"] for each in AGENTS])


@pytest.fixture
def secrets() -> dict[str, dict[str, str]]:
    """{agent: {secret: value}} that the converge was given."""
    return MANIFEST["vault_secrets"]


@pytest.fixture
def main_pid(host: Any) -> Callable[[str], int]:
    """main_pid(NAME): the process of that agent's service; the test fails if it does not run."""

    def find(name: str) -> int:
        shown = host.check_output(f"systemctl show --property=MainPID --value cordon-agent@{name}.service")
        assert int(shown) > 0, f"cordon-agent@{name}.service has no process"
        return int(shown)

    return find


@pytest.fixture
def as_agent(host: Any) -> Callable[..., Any]:
    """as_agent(NAME, *ARGV): run a command in a session of the agent, the way `cordonctl run` does."""

    def run(name: str, *argv: str) -> Any:
        return host.run(f"cordonctl run {name} -- {shlex.join(argv)}")

    return run


def _of_the_guest() -> dict[str, Any]:
    """The guest's own variables: what its agents may reach by name, so that the manifest is the one that was applied."""
    own = SCENARIO / "host_vars"
    text = ((own if own.is_dir() else HERE / "shared" / "host_vars") / "agenthost-1.yml").read_text()
    return yaml.safe_load(text)


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """play(NAME, *ARGUMENTS, **VARIABLES): run a playbook of the collection against the guest, as an operator does."""

    def run(name: str, *arguments: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        site = tmp_path / "site.json"
        site.write_text(json.dumps({**MANIFEST, **_of_the_guest(), "compliance_evidence_directory": str(tmp_path), **variables}))
        playbook = str(SCENARIO / name) if name.endswith(".yml") else f"cordon.agent_host.{name}"
        argv = ["ansible-playbook", "-i", f"{os.environ['CORDON_TESTBED']}/inventory.yml", "-e", f"@{site}", *arguments, playbook]
        environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": os.environ["CORDON_COLLECTIONS"],
                       "ANSIBLE_INJECT_FACT_VARS": "false", "ANSIBLE_NOCOLOR": "1", "USER": "molecule"}
        done = subprocess.run(argv, env=environment, cwd=SCENARIO, check=False, capture_output=True, text=True)
        print(done.stdout, done.stderr)
        return done

    return run


@pytest.fixture
def unwatched(host: Any) -> Generator[None]:
    """The watch stands still: what root runs as an agent outside its unit, to try permissions, is not ended at once."""
    host.check_output("systemctl kill --signal=STOP cordon-watch.service")
    yield
    host.check_output("systemctl kill --signal=CONT cordon-watch.service")


@pytest.fixture
def status(host: Any) -> dict[str, Any]:
    """`cordonctl status --json` as data. Its exit status says whether a check fails: not our business here."""
    return json.loads(host.run("cordonctl status --json").stdout)


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """eventually(PROBE, seconds=90): call PROBE until what it returns is true; return that, or fail with the last."""

    def wait(probe: Callable[[], Any], seconds: float = 90) -> Any:
        end = time.monotonic() + seconds
        while not (found := probe()):
            assert time.monotonic() < end, f"not within {seconds} s; last seen: {found!r}"
            time.sleep(1)
        return found

    return wait


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the journal of our units under the first failure: the host is gone when somebody reads this."""
    report = yield
    host = getattr(item, "funcargs", {}).get("host")
    if report.failed and host is not None and not item.session.stash.get(_SHOWN, False):
        item.session.stash[_SHOWN] = True
        journal = host.run("journalctl --no-pager --lines=80 --output=short-precise --unit='cordon-*'")
        report.sections.append(("journal of cordon-*", journal.stdout))
    return report


_SHOWN = pytest.StashKey[bool]()
