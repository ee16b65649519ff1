# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""managed_files: one call, no-follow, atomic, the same again changes nothing."""

from __future__ import annotations

import getpass
import grp
import json
import os

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.cordon.agent_host.plugins.module_utils import _files
from ansible_collections.cordon.agent_host.plugins.modules import managed_files

ME = {"owner": getpass.getuser(), "group": grp.getgrgid(os.getegid()).gr_name}


@pytest.fixture
def run(capsys):
    """Run the module; returns its result as a dict."""

    def call(check: bool = False, **arguments):
        with patch_module_args({"_ansible_check_mode": check, **arguments}), pytest.raises(SystemExit):
            managed_files.main()
        return json.loads(capsys.readouterr().out)

    return call


def wanted(root) -> dict:
    return {
        "directories": [{"path": f"{root}/etc", "mode": "0750", **ME}],
        "files": [{"path": f"{root}/etc/a.conf", "content": "one\n", "mode": "0640", **ME}],
        "links": [{"path": f"{root}/etc/b.conf", "target": "a.conf"}],
        "purge": [{"directory": f"{root}/etc", "pattern": "*.conf"}],
    }


@pytest.mark.parametrize("check", [True, False])
def test_first_run_reports_every_path(run, tmp_path, check):
    result = run(check=check, **wanted(tmp_path))
    assert result["changed"]
    assert result["changed_paths"] == [f"{tmp_path}/etc", f"{tmp_path}/etc/a.conf", f"{tmp_path}/etc/b.conf"]
    assert (tmp_path / "etc").exists() != check


def test_second_run_changes_nothing(run, tmp_path):
    run(**wanted(tmp_path))
    assert run(**wanted(tmp_path))["changed"] is False
    assert run(check=True, **wanted(tmp_path))["changed"] is False


def test_content_and_mode_are_as_asked(run, tmp_path):
    run(**wanted(tmp_path))
    assert (tmp_path / "etc/a.conf").read_text() == "one\n"
    assert (tmp_path / "etc/a.conf").stat().st_mode & 0o7777 == 0o640
    assert (tmp_path / "etc").stat().st_mode & 0o7777 == 0o750
    assert os.readlink(tmp_path / "etc/b.conf") == "a.conf"


def test_drift_is_mended_and_shown(run, tmp_path):
    run(**wanted(tmp_path))
    (tmp_path / "etc/a.conf").write_text("edited\n")
    result = run(**wanted(tmp_path))
    assert "edited" in result["diff"][0]["before"] and "one" in result["diff"][0]["after"]
    assert (tmp_path / "etc/a.conf").read_text() == "one\n"


def test_unlisted_matching_entries_are_removed_and_others_kept(run, tmp_path):
    run(**wanted(tmp_path))
    (tmp_path / "etc/old.conf").touch()
    (tmp_path / "etc/other.txt").touch()
    assert run(**wanted(tmp_path))["changed_paths"] == [f"{tmp_path}/etc/old.conf"]
    assert sorted(os.listdir(tmp_path / "etc")) == ["a.conf", "b.conf", "other.txt"]


def test_a_planted_link_is_replaced_not_followed(run, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/a.conf").symlink_to(victim)
    run(**wanted(tmp_path))
    assert victim.read_text() == "precious"
    assert (tmp_path / "etc/a.conf").read_text() == "one\n"


def test_a_link_on_the_way_is_refused_where_others_may_write(run, tmp_path):
    (tmp_path / "real").mkdir()
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (shared / "way").symlink_to(tmp_path / "real")
    result = run(files=[{"path": f"{shared}/way/x", "content": "", **ME}])
    assert result["failed"] and "symbolic link" in result["msg"]
    assert os.listdir(tmp_path / "real") == []


def test_a_link_on_the_way_is_followed_where_only_we_may_write(run, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "way").symlink_to(tmp_path / "real")
    run(files=[{"path": f"{tmp_path}/way/x", "content": "y", **ME}])
    assert (tmp_path / "real/x").read_text() == "y"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"files": [{"path": "/nowhere/at/all/x", "content": "", **ME}]}, "does not exist"),
        ({"files": [{"path": "/tmp/../etc/x", "content": "", **ME}]}, "without '.', '..'"),
        ({"files": [{"path": "/tmp/x", "content": "", "mode": "rw", **ME}]}, "not octal"),
        (
            {"files": [{"path": "/tmp/x", "content": "", "owner": "no_such_user"}]},
            "does not exist on this host",
        ),
    ],
)
def test_errors_name_the_object_and_the_remedy(run, arguments, message):
    result = run(**arguments)
    assert result["failed"] and message in result["msg"]


def test_a_directory_is_never_replaced_by_a_file(run, tmp_path):
    (tmp_path / "x").mkdir()
    result = run(files=[{"path": f"{tmp_path}/x", "content": "", **ME}])
    assert result["failed"] and "a directory stands there" in result["msg"]


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    (tmp_path / "x").write_text("old")
    monkeypatch.setattr(os, "rename", lambda *_a, **_k: (_ for _ in ()).throw(OSError("disk full")))
    parent = _files.open_parent(f"{tmp_path}/x")
    with pytest.raises(OSError, match="disk full"):
        _files.write_file(parent, "x", _files.Entry("file", 0o644, os.geteuid(), os.getegid(), "new"))
    os.close(parent)
    assert os.listdir(tmp_path) == ["x"] and (tmp_path / "x").read_text() == "old"


def test_a_purged_directory_goes_with_its_content_and_links_in_it_are_not_followed(run, tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "old.d/deeper").mkdir(parents=True)
    (tmp_path / "old.d/deeper/link").symlink_to(tmp_path / "victim")
    run(purge=[{"directory": str(tmp_path), "pattern": "*.d"}])
    assert os.listdir(tmp_path) == ["victim"]
