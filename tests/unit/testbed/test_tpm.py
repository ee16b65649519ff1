# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest's software TPM, started for real where swtpm is installed."""

from __future__ import annotations

import shutil
import time

import pytest

from testbed import process, tpm
from testbed.show import Failure


def test_the_other_chip_has_secrets_of_its_own(tmp_path):
    assert tpm.state(tmp_path, "1") == tpm.state(tmp_path, "0") != tpm.state(tmp_path, "other")
    assert f"dir={tpm.state(tmp_path, 'other').name}" in tpm.arguments(tpm.state(tmp_path, "other"))
    assert not tpm.fitted(tmp_path)


def test_a_chip_that_cannot_start_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(tpm, "arguments", lambda place: ["sh", "-c", "echo no such chip; exit 1"])
    with pytest.raises(Failure, match="no such chip"):
        tpm.start(tmp_path, "1")


@pytest.mark.skipif(not shutil.which("swtpm") or not shutil.which("qemu-system-x86_64"), reason="make setup installs both")
def test_a_machine_takes_its_chip_and_each_boot_has_one_that_keeps_its_secrets(tmp_path):
    # -S: no instruction is ever run, the devices are all that matters.
    argv = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-accel", "tcg", "-m", "16", "-S", *tpm.device()]
    secrets = []
    for _boot in range(2):
        tpm.start(tmp_path, "1")
        machine = process.launch(argv, tmp_path, tmp_path / "qemu.log", tmp_path / "qemu.pid")
        kept, deadline = tpm.state(tmp_path, "1") / "tpm2-00.permall", time.monotonic() + 30
        while not kept.exists() and process.alive(machine) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)
        assert process.alive(machine), (tmp_path / "qemu.log").read_text()
        secrets.append(kept.read_bytes())
        process.end(machine)
    assert secrets[0] == secrets[1] != b""
    tpm.end(tmp_path)
    assert not process.alive(process.load(tmp_path / "tpm.pid"))
