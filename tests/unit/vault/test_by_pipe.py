# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The arguments of a module that is given secrets are in no file, whatever the configuration says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ansible_collections.cordon.agent_host as collection

COLLECTIONS = Path(next(iter(collection.__path__))).parents[2]
TASKS = {
    "vault_secrets": {"declared": {}, "values": {}},
    "gocryptfs_vault": {"agents": []},
    "vault_backup": {"agents": [], "state": "rehearsed", "archive": "/nonexistent"},
    "brokered_secrets": {"secrets": [], "values": {}},
    "vault_unlock": {"passwords": {}},
}
WRITTEN = "AnsiballZ_"  # Ansible says at -vvv which file it puts on the host


def play(tmp_path, module, arguments, **environment):
    playbook = tmp_path / "play.yml"
    playbook.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": [{module: arguments}]}]))
    argv = [str(Path(sys.executable).parent / "ansible-playbook"), "-vvv", "--check", "-i", "localhost,", "-c", "local"]
    variables = {"ANSIBLE_PIPELINING": "false", "ANSIBLE_HOME": str(tmp_path),
                 "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS), "ANSIBLE_REMOTE_TMP": str(tmp_path / "remote")}
    argv += ["-e", f"ansible_python_interpreter={sys.executable}", str(playbook)]
    return subprocess.run(argv, env={**os.environ, **variables, **environment}, capture_output=True, text=True, check=False)


def test_another_module_is_written_to_a_file(tmp_path):
    """Or the tests below would prove nothing."""
    done = play(tmp_path, "ansible.builtin.command", {"argv": ["true"]})
    assert done.returncode == 0 and WRITTEN in done.stdout, done.stdout


@pytest.mark.parametrize("module", TASKS)
def test_one_of_ours_is_not(tmp_path, module):
    done = play(tmp_path, f"cordon.agent_host.{module}", TASKS[module])
    assert f"{module}: " in done.stdout or done.returncode == 0, "the module itself did not run"
    assert WRITTEN not in done.stdout


@pytest.mark.parametrize("module", TASKS)
def test_where_it_would_have_to_be_nothing_is_sent(tmp_path, module):
    done = play(tmp_path, f"cordon.agent_host.{module}", TASKS[module], ANSIBLE_KEEP_REMOTE_FILES="true")
    assert done.returncode != 0
    assert "nothing was sent" in done.stdout
    assert WRITTEN not in done.stdout and not list((tmp_path / "remote").glob("**/AnsiballZ*"))
