# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ways on which memory reaches a disk, read from small trees of /proc and /sys."""

from __future__ import annotations

import os

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils import _facts_memory, _facts_vault
from ansible_collections.cordon.agent_host.plugins.module_utils._facts_source import Source

HEAD = "Filename\tType\tSize\tUsed\tPriority\n"
CRYPT, LVM = "CRYPT-PLAIN-swap\n", "LVM-abc\n"
CLASS = "/sys/class/block"


def tree(root, files, swaps=""):
    for path, text in {**files, "/proc/swaps": HEAD + swaps}.items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return Source(lambda argv, data=None: (0, "", ""), str(root))


def layers(*uuids):
    """dm-0 over dm-1 over ... over the disk vda2, by their device mapper uuids."""
    names = [f"dm-{number}" for number in range(len(uuids))] + ["vda2"]
    found = {f"{CLASS}/vda2/size": "1"}
    for name, below, uuid in zip(names, names[1:], uuids):
        found[f"{CLASS}/{name}/dm/uuid"] = uuid
        found[f"{CLASS}/{name}/slaves/{below}"] = ""
    return found


@pytest.mark.parametrize(
    ("files", "line", "clear"),
    [
        ({f"{CLASS}/vda2/size": "1"}, "/dev/vda2 partition 1 0 -2", True),
        (layers(CRYPT), "/dev/dm-0 partition 1 0 -2", False),
        (layers(LVM), "/dev/dm-0 partition 1 0 -2", True),
        (layers("CRYPT-INTEGRITY-swap\n"), "/dev/dm-0 partition 1 0 -2", True),  # integritysetup: nothing is encrypted
        (layers("CRYPT-INTEGRITY-swap\n", "CRYPT-LUKS2-0123-swap\n"), "/dev/dm-0 partition 1 0 -2", False),
        (layers(LVM, CRYPT), "/dev/dm-0 partition 1 0 -2", False),  # Debian's encrypted LVM
        (layers(CRYPT, LVM), "/dev/dm-0 partition 1 0 -2", False),
        ({}, "/dev/vdb1 partition 1 0 -2", None),
        ({}, "/dev/zram0 partition 1 0 5", False),
        ({"/sys/block/zram0/backing_dev": "none\n"}, "/dev/zram0 partition 1 0 5", False),
        ({"/sys/block/zram0/backing_dev": "/dev/vda2\n", **layers()}, "/dev/zram0 partition 1 0 5", True),
        ({"/sys/block/zram0/backing_dev": "/dev/dm-0\n", **layers(CRYPT)}, "/dev/zram0 partition 1 0 5", False),
        ({}, "/gone/swapfile file 1 0 -2", None),
        ({}, "/gone/zram.swap file 1 0 -2", None),  # a name, and no memory
    ],
)
def test_what_is_swapped_lies_in_the_clear_unless_it_is_known_not_to(tmp_path, files, line, clear):
    areas = _facts_memory.swaps(tree(tmp_path, files, line + "\n"))
    assert areas is not None and [area["in_the_clear"] for area in areas] == [clear]
    assert _facts_memory.in_the_clear(areas) == ([] if clear is False else [line.split()[0]])


def test_one_leg_in_the_clear_is_enough(tmp_path):
    files = {**layers(LVM, CRYPT), f"{CLASS}/dm-0/slaves/vdb": "", f"{CLASS}/vdb/size": "1"}
    assert _facts_memory.in_the_clear(_facts_memory.swaps(tree(tmp_path, files, "/dev/dm-0 partition 1 0 -2\n"))) == ["/dev/dm-0"]


def test_a_swap_file_is_as_good_as_the_disk_below_its_file_system(tmp_path):
    source = tree(tmp_path, {"/swap file": ""}, "/swap\\040file file 1 0 -2\n")
    device = os.stat(tmp_path / "swap file").st_dev
    assert [area["in_the_clear"] for area in _facts_memory.swaps(source) or []] == [None]
    place = tmp_path / f"sys/dev/block/{os.major(device)}:{os.minor(device)}/dm"
    place.mkdir(parents=True)
    (place / "uuid").write_text(CRYPT)
    assert [area["in_the_clear"] for area in _facts_memory.swaps(source) or []] == [False]


def test_a_loop_in_the_layers_ends_and_is_not_trusted(tmp_path):
    files = {f"{CLASS}/dm-0/dm/uuid": LVM, f"{CLASS}/dm-0/slaves/dm-0": ""}
    assert _facts_memory.in_the_clear(_facts_memory.swaps(tree(tmp_path, files, "/dev/dm-0 partition 1 0 -2\n"))) == ["/dev/dm-0"]


def test_swaps_that_cannot_be_read_are_not_no_swaps(tmp_path):
    source = tree(tmp_path, {})
    assert _facts_memory.swaps(source) == []
    (tmp_path / "proc/swaps").unlink()
    assert _facts_memory.swaps(source) is None
    assert _facts_memory.in_the_clear(None) == ["/proc/swaps cannot be read"]


@pytest.mark.parametrize(
    ("pattern", "count"),
    [("core", 0), ("|/usr/lib/systemd/systemd-coredump %P", 0), ("|/usr/share/apport/apport", 0), ("@/run/coredump.socket", 1)],
)
def test_a_handler_is_bounded_by_the_limit_of_one_unless_it_is_a_socket(pattern, count):
    assert len(_facts_memory.core_faults(pattern)) == count


AWAKE = {"/sys/power/disk": "[platform] shutdown reboot\n", "/sys/power/state": "freeze mem disk\n", f"{CLASS}/vda2/size": "1"}


@pytest.mark.parametrize(
    ("files", "swap", "count"),
    [
        (AWAKE, "/dev/vda2 partition 1 0 -2\n", 1),
        (AWAKE, "", 0),
        (AWAKE, "/dev/zram0 partition 1 0 -2\n", 0),
        ({**AWAKE, **layers(CRYPT)}, "/dev/dm-0 partition 1 0 -2\n", 0),
        ({**AWAKE, "/sys/power/disk": "[disabled]\n"}, "/dev/vda2 partition 1 0 -2\n", 0),
        ({**AWAKE, "/sys/power/state": "freeze mem\n"}, "/dev/vda2 partition 1 0 -2\n", 0),
        ({f"{CLASS}/vda2/size": "1"}, "/dev/vda2 partition 1 0 -2\n", 0),
    ],
)
def test_hibernation_is_a_fault_where_its_image_would_lie_in_the_clear(tmp_path, files, swap, count):
    source = tree(tmp_path, files, swap)
    assert len(_facts_memory.read(source, _facts_memory.swaps(source))["hibernation_faults"]) == count


def test_hibernation_that_systemd_is_not_to_begin_is_none(tmp_path):
    source = tree(tmp_path, AWAKE, "/dev/vda2 partition 1 0 -2\n")
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    for unit in _facts_memory.HIBERNATING:
        assert len(_facts_memory.read(source, _facts_memory.swaps(source))["hibernation_faults"]) == 1
        (units / unit).symlink_to("/dev/null")
    assert _facts_memory.read(source, _facts_memory.swaps(source))["hibernation_faults"] == []


@pytest.mark.parametrize(
    ("loaded", "settings", "count"),
    [
        ("0\n", None, 0),
        (None, None, 0),
        ("1\n", None, 1),
        ("1\n", "USE_KDUMP=1\n", 0),
        ("1\n", 'MAKEDUMP_ARGS="-c -d 31"\n', 0),
        ("1\n", 'MAKEDUMP_ARGS="-c -d 14"\n', 0),
        ("1\n", 'MAKEDUMP_ARGS="-c -d 17"\n', 1),
        ("1\n", 'MAKEDUMP_ARGS="-c"\n', 1),
        ("1\n", '#MAKEDUMP_ARGS="-d 1"\nUSE_KDUMP=1\n', 0),
    ],
)
def test_a_crash_kernel_is_a_fault_unless_its_dump_leaves_programs_out(tmp_path, loaded, settings, count):
    files = {"/sys/kernel/kexec_crash_loaded": loaded, "/etc/default/kdump-tools": settings}
    source = tree(tmp_path, {path: text for path, text in files.items() if text is not None})
    assert len(_facts_memory.read(source, [])["kdump_faults"]) == count


CLEAR = [{"device": "/dev/vda2", "kind": "partition", "in_the_clear": True}]
VAULT, AGENT = (group % "a" for group in _facts_vault.GROUPS.values())


@pytest.mark.parametrize(
    ("limits", "mounted", "areas", "count"),
    [
        ({VAULT: "0", AGENT: "0"}, True, CLEAR, 0),
        ({VAULT: "max", AGENT: "0"}, True, CLEAR, 1),
        ({VAULT: "0", AGENT: "1048576"}, True, CLEAR, 1),
        ({VAULT: "0"}, True, CLEAR, 1),
        ({}, True, CLEAR, 2),
        ({}, True, [], 0),
        ({}, True, None, 2),
        ({}, False, CLEAR, 0),
        ({VAULT: "max"}, True, [dict(CLEAR[0], in_the_clear=False)], 0),
    ],
)
def test_memory_that_could_be_swapped_to_a_disk_is_a_fault_of_its_unit(tmp_path, limits, mounted, areas, count):
    source = tree(tmp_path, {f"{group}/memory.swap.max": f"{limit}\n" for group, limit in limits.items()})
    found = _facts_vault._swappable(source, "a", mounted, areas)
    assert found is not None and len(found) == count


META = {"path": "/v", "uid": 0, "owner": "root", "mode": "0700"}
SEALED = {"path": "/k", "uid": 0, "owner": "root", "mode": "0600"}


@pytest.mark.parametrize(
    ("cipher", "keys", "unlock", "found"),
    [
        (META, {"/k": SEALED}, "sealed", []),
        (META, {"/k": SEALED, "/k.next": dict(SEALED, path="/k.next")}, "sealed", []),
        (META, {}, "sealed", ["/k: missing"]),
        (META, {}, "operator", []),
        (META, {"/k": SEALED}, "operator", ["/k: a sealed key, though an operator unlocks this vault"]),
        (META, {"/k": dict(SEALED, mode="0640")}, "sealed", ["/k: belongs to root, mode 0640"]),
        (dict(META, uid=998, owner="agent-a"), {"/k": SEALED}, "sealed", ["/v: belongs to agent-a, mode 0700"]),
        (None, {"/k": SEALED}, "sealed", None),
        (META, {"/k": None}, "sealed", None),
    ],
)
def test_only_root_may_have_a_vault_and_its_sealed_keys(cipher, keys, unlock, found):
    assert _facts_vault.loose(cipher, keys, unlock, "/k") == found
