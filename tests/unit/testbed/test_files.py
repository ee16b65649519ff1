# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Only the test bed's own files are ever removed, and a written file is whole."""

from __future__ import annotations

from testbed import cli, files


def test_somebody_elses_files_survive_the_end_of_a_test_bed(tmp_path):
    bed = tmp_path / "bed"
    (bed / "agenthost-1").mkdir(parents=True)
    for name in ("services.json", "webhook.jsonl", "agenthost-1/disk.qcow2", "thesis.txt"):
        (bed / name).write_text("x")
    files.remove_own(bed, cli.OWN)
    assert [path.name for path in bed.iterdir()] == ["thesis.txt"]


def test_a_test_bed_of_its_own_goes_away_whole(tmp_path):
    bed = tmp_path / "bed"
    (bed / "keys").mkdir(parents=True)
    (bed / ".lock").write_text("")
    files.remove_own(bed, cli.OWN)
    assert not bed.exists()


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "inventory.yml"
    files.write_atomically(path, "old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    try:
        files.write_atomically(path, "new")
    except OSError as error:
        assert error.errno == 28
    assert path.read_text() == "old" and [each.name for each in tmp_path.iterdir()] == ["inventory.yml"]
