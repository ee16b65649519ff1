# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who runs the module, and who decides about a change that waits. The kernel's part is tests/integration/firewall's."""
from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils import _nftables, _safe_apply

SSH = "198.51.100.7 50022 192.0.2.1 22"
LISTED = "table inet cordon {\n}\n"


def processes(root, *chain):
    """A /proc of (pid, parent, uid, environment)."""
    for pid, parent, uid, environment in chain:
        (root / str(pid)).mkdir()
        (root / str(pid) / "status").write_text(f"Name:\tx\nPPid:\t{parent}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")
        (root / str(pid) / "environ").write_text("\0".join(environment))
    return str(root)


def test_the_operator_is_found_behind_sudo(tmp_path):
    proc = processes(tmp_path, (40, 30, 0, ["HOME=/root"]), (30, 20, 0, ["X=SSH_CONNECTION=no"]),
                     (20, 10, 1000, ["A=b", f"SSH_CONNECTION={SSH}"]), (10, 5, 1000, []), (5, 1, 0, []))
    assert _safe_apply.operator(40, {}, proc) == ({1000}, SSH)


def test_what_sudo_says_counts_where_proc_ends(tmp_path):
    proc = processes(tmp_path, (40, 30, 0, []))
    assert _safe_apply.operator(40, {"SUDO_UID": "1001", "SSH_CONNECTION": SSH}, proc) == ({1001}, SSH)
    assert _safe_apply.operator(40, {}, proc) == (set(), "")


class Host:
    """Answers like nft, systemd-run and sh; what is started waits for ever, or does not even do that."""

    def __init__(self, listed=LISTED, timer=0, waits=True):
        self.listed, self.timer, self.waits, self.timers = listed, timer, waits, []

    def __call__(self, argv, _data):
        if argv[0] == "nft":
            missing = "list" in argv and not self.listed
            return (1, "", "Error: No such file or directory") if missing else (0, self.listed if "list" in argv else "", "")
        self.timers.append(argv)
        if self.waits:
            Path(argv[-1]).with_suffix(".waits").touch()
            Path(argv[-1]).unlink()
        return self.timer, "", "no timers today"


@pytest.fixture
def directory(tmp_path):
    return str(tmp_path / "run" / "firewall")


def change(host, directory, connection=SSH, **other):
    token = _safe_apply.arm(host, "nft", directory, 60)
    _safe_apply.note(directory, _safe_apply.Pending(token, _nftables.digest(host.listed), connection, 60, [("/x", "y")]))
    return token


def test_what_stood_is_written_down_before_anything_else_and_for_root_only(directory):
    host = Host()
    token = change(host, directory)
    path = os.path.join(directory, f"{token}.nft")
    with open(path, encoding="utf-8") as stream:
        assert stream.read() == _nftables.REPLACE + LISTED
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.stat(directory).st_mode & 0o777 == 0o700
    assert len(host.timers) == 1
    assert _safe_apply.waiting(directory).files == [("/x", "y")]


def test_without_a_table_the_way_back_is_none(directory):
    token = _safe_apply.arm(Host(listed=""), "nft", directory, 60)
    with open(os.path.join(directory, f"{token}.nft"), encoding="utf-8") as stream:
        assert stream.read() == _nftables.REPLACE


def test_without_a_timer_nothing_is_changed(directory):
    with pytest.raises(_nftables.NftablesError, match="nothing was changed: no timers today"):
        _safe_apply.arm(Host(timer=1), "nft", directory, 60)
    assert _safe_apply.waiting(directory) is None


def test_what_would_undo_the_change_must_wait_before_anything_is_changed(directory, monkeypatch):
    """A unit that was garbled on its way ended at once, and the change that followed was never undone."""
    monkeypatch.setattr(_safe_apply, "PATIENCE", 0.1)
    with pytest.raises(_nftables.NftablesError, match="does not wait after 0 seconds, nothing was changed: see journalctl"):
        _safe_apply.arm(Host(waits=False), "nft", directory, 60)
    assert _safe_apply.waiting(directory) is None
    assert not [name for name in os.listdir(directory) if name.endswith(".nft")]


def test_under_systemd_the_unit_waits_by_itself(directory, tmp_path, monkeypatch):
    """A transient unit is read again at a daemon-reload, and then is another one (systemd 252)."""
    monkeypatch.setattr(_safe_apply, "_SYSTEMD", str(tmp_path))
    host = Host()
    token = _safe_apply.arm(host, "nft", directory, 60)
    (argv,) = host.timers
    assert argv[0] == "systemd-run" and not [word for word in argv if word.startswith(("--on-", "--timer-"))]
    assert argv[-2:] == ("sh", os.path.join(directory, f"{token}.sh"))
    assert not [word for word in argv if re.search(r"[$%\\\"\n]", word)], "special to systemd"
    assert f"sleep 60\nmv {token}.nft rolled-back.nft" in _safe_apply.script(directory, token, "nft", 60)


def test_a_change_is_confirmed_once_and_over_another_connection(directory):
    host = Host()
    change(host, directory)
    with pytest.raises(ValueError, match=r"proves nothing about new ones.*reset_connection"):
        _safe_apply.confirm(host, "nft", directory, SSH)
    assert _safe_apply.waiting(directory)
    assert _safe_apply.confirm(host, "nft", directory, SSH.replace("50022", "50023")).files == [("/x", "y")]
    _safe_apply.forget(directory)
    assert _safe_apply.confirm(host, "nft", directory, SSH) is None
    assert os.listdir(directory) == []


def test_where_there_is_no_connection_to_lose_none_is_asked_for(directory):
    change(Host(), directory, connection="")
    assert _safe_apply.confirm(Host(), "nft", directory, "")
    change(Host(), directory)
    assert _safe_apply.confirm(Host(), "nft", directory, None)


def test_a_confirmation_that_is_late_is_told_so_once(directory):
    token = change(Host(), directory)
    os.rename(os.path.join(directory, f"{token}.nft"), os.path.join(directory, _safe_apply.ROLLED_BACK))
    with pytest.raises(ValueError, match="nobody confirmed the change within 60 seconds, so it was undone"):
        _safe_apply.confirm(Host(), "nft", directory, "")
    assert _safe_apply.confirm(Host(), "nft", directory, "") is None


def test_a_table_that_somebody_else_changed_is_not_confirmed(directory):
    change(Host(), directory)
    with pytest.raises(ValueError, match="another program changed table inet cordon since"):
        _safe_apply.confirm(Host(LISTED + "# more"), "nft", directory, "")
    assert _safe_apply.waiting(directory)


def test_a_second_change_returns_to_what_stood_before_the_first(directory):
    first = change(Host(), directory)
    second = change(Host("table inet cordon {\n\tchain worse {\n\t}\n}\n"), directory)
    assert first != second
    with open(os.path.join(directory, f"{second}.nft"), encoding="utf-8") as stream:
        assert stream.read() == _nftables.REPLACE + LISTED
    assert not os.path.exists(os.path.join(directory, f"{first}.nft"))


def test_what_waits_is_still_undone_where_the_next_change_cannot_be_made(directory, monkeypatch):
    """Else the first change would stand for good, confirmed by nobody."""
    monkeypatch.setattr(_safe_apply, "PATIENCE", 0.1)
    first = change(Host(), directory)
    for broken in (Host(timer=1), Host(waits=False)):
        with pytest.raises(_nftables.NftablesError, match="nothing was changed"):
            _safe_apply.arm(broken, "nft", directory, 60)
        assert _safe_apply.waiting(directory).token == first


def test_a_change_without_a_note_is_settled_by_the_next_one(directory):
    stray = _safe_apply.arm(Host(), "nft", directory, 60)
    change(Host(), directory)
    assert not os.path.exists(os.path.join(directory, f"{stray}.nft"))


@pytest.mark.parametrize("text", ["", "{}", "[]", json.dumps({"token": "x"}), json.dumps({"files": 1})])
def test_a_note_that_cannot_be_read_is_none(directory, text):
    change(Host(), directory)
    with open(os.path.join(directory, "pending.json"), "w", encoding="utf-8") as stream:
        stream.write(text)
    assert _safe_apply.waiting(directory) is None
