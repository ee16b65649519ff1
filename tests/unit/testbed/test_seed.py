# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cloud-init seed is what cloud-init reads."""

from __future__ import annotations

import yaml

from testbed import seed

KEY = "ssh-ed25519 KEY it's \"quoted\": test"


def test_user_data_is_cloud_config_that_lets_root_in_by_key_only():
    text = seed.user_data(KEY)
    assert text.startswith("#cloud-config\n")
    data = yaml.safe_load(text)
    assert data["disable_root"] is False and data["ssh_pwauth"] is False
    assert data["users"] == [{"name": "root", "lock_passwd": True, "ssh_authorized_keys": [KEY]}]


def test_both_files_are_written(tmp_path):
    seed.write(tmp_path / "seed", "agenthost-2", "instance", KEY)
    assert sorted(path.name for path in (tmp_path / "seed").iterdir()) == ["meta-data", "user-data"]
    meta = yaml.safe_load((tmp_path / "seed" / "meta-data").read_text())
    assert meta == {"instance-id": "instance", "local-hostname": "agenthost-2"}
