# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""apparmor_profiles on a host made of files: what it does, what it leaves alone, and that a failure leaves no trace."""
from __future__ import annotations

import errno
import json
import multiprocessing
import os
import sys
import time

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args

from ansible_collections.cordon.agent_host.plugins.module_utils import _apparmor_load, _files
from ansible_collections.cordon.agent_host.plugins.module_utils._facts_source import Source
from ansible_collections.cordon.agent_host.plugins.modules import apparmor_profiles

from .fake_host import PLACE, FakeHost

KINDS = ["raw_sha256", "raw_sha1", None]


def profile(name: str, mode: str = "enforce", rules: str = "/etc/passwd r,") -> dict:
    flags = "attach_disconnected" + (", complain" if mode == "complain" else "")
    text = f"abi <abi/3.0>,\n\nprofile cordon.{name} flags=({flags}) {{\n  {rules}\n}}\n"
    return {"name": f"cordon.{name}", "mode": mode, "text": text}


TWO = [profile("a"), profile("a.main", "complain")]
MANY = [profile(f"a{number}") for number in range(74)]


@pytest.fixture(params=KINDS, ids=str)
def any_host(request, tmp_path, monkeypatch):
    return FakeHost(tmp_path, monkeypatch, request.param)


@pytest.fixture
def host(tmp_path, monkeypatch):
    return FakeHost(tmp_path, monkeypatch)


def call(host, profiles, check=False, **arguments) -> None:
    with patch_module_args({"_ansible_check_mode": check, "_ansible_diff": True, "profiles": profiles,
                            "directory": str(host.etc), "record": str(host.record), **arguments}):
        apparmor_profiles.main()


@pytest.fixture
def run(capsys):
    """run(HOST, PROFILES, ...): the module's answer."""

    def started(host, profiles, **arguments):
        with pytest.raises(SystemExit):
            call(host, profiles, **arguments)
        return json.loads(capsys.readouterr().out)

    return started


def fails(run, host, profiles, **arguments) -> str:
    """The message of a run that must fail and leave everything as it was."""
    before = host.snapshot()
    answer = run(host, profiles, **arguments)
    assert answer.get("failed"), answer
    assert host.snapshot() == before
    return answer["msg"]


def test_files_kernel_record_and_boot_cache_are_brought_about(run, any_host):
    host = any_host
    answer = run(host, TWO)
    assert answer["changed"] and answer["enforced"] and answer["written"] == ["cordon.a", "cordon.a.main"]
    assert {name: mode for name, (mode, _data) in host.loaded().items()} == {
        "cordon.a": "enforce", "cordon.a.main": "complain"}
    assert (host.etc / "cordon.a").read_text() == TWO[0]["text"]
    assert set(json.loads(host.record.read_text())["profiles"]["cordon.a"]) == {"mode", "hash", "source_sha256", "since"}
    assert answer["compared_by"] == ("hash" if host.kind else "mode")
    assert sorted(path.name for path in (host.cache / PLACE).iterdir()) == [".features", "cordon.a", "cordon.a.main"]
    assert not [path for path in host.etc.iterdir() if path.name.startswith(".")]


def test_the_boot_s_cache_is_not_older_than_the_files(run, host):
    run(host, TWO)
    for name in ("cordon.a", "cordon.a.main"):
        assert (host.cache / PLACE / name).stat().st_mtime_ns >= (host.etc / name).stat().st_mtime_ns


def test_everything_is_compiled_in_one_call(run, host):
    run(host, MANY)
    [arguments] = host.calls()
    assert len([word for word in arguments if word.endswith(tuple(each["name"] for each in MANY))]) == 74
    assert {"--skip-kernel-load", "--jobs=auto", "--write-cache"} <= set(arguments)


def test_only_what_differs_is_compiled_and_loaded(run, host):
    run(host, MANY)
    changed = [profile("a7", rules="/etc/group r,"), *[each for each in MANY if each["name"] != "cordon.a7"]]
    answer = run(host, changed)
    assert list(answer["loaded"]) == ["cordon.a7"] == answer["written"]
    assert [os.path.basename(word) for word in host.calls()[-1] if not word.startswith("-")] == ["cordon.a7"]


@pytest.mark.parametrize("check", [True, False])
def test_an_unchanged_run_starts_no_parser_and_needs_none(run, any_host, check):
    host = any_host
    run(host, MANY)
    host.parser.write_text(f"#!/bin/sh\ntouch {host.calls_file}.again\nexit 1\n")
    assert run(host, MANY, check=check)["changed"] is False
    assert not os.path.exists(f"{host.calls_file}.again")
    host.parser.unlink()
    assert run(host, MANY, check=check)["changed"] is False


def test_an_unchanged_run_loads_no_code_that_acts(run, host, monkeypatch):
    """On a slow host the time of such a run goes into loading code."""
    run(host, TWO)
    for name in list(sys.modules):
        if name.rpartition(".")[2] in ("_apparmor_load", "_apparmor_replace"):
            monkeypatch.delitem(sys.modules, name)
    assert run(host, TWO)["changed"] is False
    assert not [name for name in sys.modules if name.endswith(("._apparmor_load", "._apparmor_replace"))]


def test_the_answer_does_not_send_the_texts_back(run, host):
    run(host, TWO)
    assert TWO[0]["text"] not in json.dumps(run(host, TWO))


def test_check_mode_changes_nothing_and_foretells_the_run(run, host):
    before = host.snapshot()
    foretold = run(host, TWO, check=True)
    assert host.snapshot() == before and foretold["changed"]
    done = run(host, TWO)
    assert {key: foretold[key] for key in ("written", "loaded", "removed", "diff")} == {
        key: done[key] for key in ("written", "loaded", "removed", "diff")}


def test_check_mode_finds_a_mistake_too(run, host):
    assert "line 4" in fails(run, host, [profile("a", rules="broken")], check=True)


@pytest.fixture
def no_parser(monkeypatch):
    """get_bin_path() looks into the machine's own /usr/sbin too."""
    monkeypatch.setattr(AnsibleModule, "get_bin_path", lambda *_arguments, **_keywords: None)


def test_check_mode_before_the_parser_is_installed_foretells(run, host, no_parser):
    assert run(host, TWO, check=True)["written"] == ["cordon.a", "cordon.a.main"]


@pytest.mark.parametrize(("drift", "why"), [
    (lambda host: host.load("cordon.a", "complain", b"cordon.a complain x"), "the kernel has it in complain"),
    (lambda host: host.load("cordon.a", "enforce", b"cordon.a enforce other"), "the kernel has another policy"),
    (lambda host: host.write(".remove", b"cordon.a"), "the kernel does not have it"),
])
def test_drift_in_the_kernel_is_mended_and_its_time_begins_anew(run, host, drift, why):
    run(host, TWO)
    before = json.loads(host.record.read_text())["profiles"]
    held = host.loaded()
    drift(host)
    time.sleep(0.01)
    answer = run(host, TWO)
    assert list(answer["loaded"]) == ["cordon.a"] and why in answer["loaded"]["cordon.a"]
    assert host.loaded() == held
    after = json.loads(host.record.read_text())["profiles"]
    assert after["cordon.a"]["since"] > before["cordon.a"]["since"]
    assert after["cordon.a.main"] == before["cordon.a.main"]
    assert run(host, TWO)["changed"] is False


def test_a_profile_that_is_replaced_while_it_is_read_is_read_again(run, host, monkeypatch):
    run(host, TWO)
    word, held = Source.word, dict(host.loaded())

    def replaced(self, path):
        if path.endswith("cordon.a.1/mode") and (host.policy / "cordon.a.1").exists():
            host.load("cordon.a", "enforce", held["cordon.a"][1].encode())
        return word(self, path)

    monkeypatch.setattr(Source, "word", replaced)
    assert run(host, TWO)["changed"] is False
    assert not (host.policy / "cordon.a.1").exists()


def test_a_kernel_that_cannot_be_read_is_an_error(run, host):
    run(host, TWO)
    (host.policy / "cordon.a.1/mode").unlink()
    assert "cordon.a.1/mode: No such file" in fails(run, host, TWO)


def test_an_edited_file_is_mended_without_a_load_and_keeps_its_time(run, host):
    run(host, TWO)
    before = json.loads(host.record.read_text())
    (host.etc / "cordon.a").write_text("profile cordon.a { /** rwx, }\n")
    answer = run(host, TWO)
    assert answer["written"] == ["cordon.a"] and answer["loaded"] == {}
    assert json.loads(host.record.read_text()) == before
    assert any("/** rwx" in part["before"] for part in answer["diff"])


@pytest.mark.parametrize("place", ["disable", "force-complain"])
@pytest.mark.parametrize("shape", ["link", "dangling", "file"])
def test_a_link_that_overrides_is_removed(run, host, place, shape):
    run(host, TWO)
    where = host.etc / place / "cordon.a"
    where.parent.mkdir()
    if shape == "file":
        where.write_text("")
    else:
        where.symlink_to(host.etc / "cordon.a" if shape == "link" else "/nowhere")
    (where.parent / "usr.bin.man").touch()
    answer = run(host, TWO)
    assert answer["changed"] and str(where) in json.dumps(answer["diff"])
    assert [path.name for path in where.parent.iterdir()] == ["usr.bin.man"]
    assert run(host, TWO)["changed"] is False


def test_the_parser_is_not_asked_where_links_override(run, host):
    """Its base directory is the scratch one: links below /etc/apparmor.d would decide what is compiled."""
    run(host, TWO)
    [arguments] = host.calls()
    assert f"--Include={host.etc}" in arguments
    assert not any(word == f"--base={host.etc}" for word in arguments)


def test_what_is_no_longer_wanted_goes_from_everywhere(run, host):
    run(host, TWO)
    answer = run(host, TWO[:1])
    assert answer["removed"] == ["cordon.a.main"]
    assert set(host.loaded()) == {"cordon.a"} and not (host.etc / "cordon.a.main").exists()
    assert not (host.cache / PLACE / "cordon.a.main").exists()
    assert set(json.loads(host.record.read_text())["profiles"]) == {"cordon.a"}


def test_other_people_s_profiles_are_left_alone(run, host):
    (host.etc / "usr.bin.man").write_text("profile man { }\n")
    host.load("man", "enforce", b"man enforce x")
    run(host, TWO)
    run(host, [])
    assert set(host.loaded()) == {"man"} and (host.etc / "usr.bin.man").exists()


def test_nothing_is_removed_under_a_running_process(run, host, monkeypatch):
    run(host, TWO)
    monkeypatch.setattr(_apparmor_load, "live", lambda names: ["pid 12 in cordon.a//&cordon.a.main"])
    assert "pid 12" in fails(run, host, [])


def test_a_process_that_starts_meanwhile_keeps_its_profile_too(run, host, monkeypatch):
    run(host, TWO)
    answers = iter([[], ["pid 12 in cordon.a//&cordon.a.main"], []])  # before, just before the removal, putting back
    monkeypatch.setattr(_apparmor_load, "live", lambda names: next(answers))
    assert "pid 12" in fails(run, host, [profile("b")])


@pytest.mark.parametrize("orders", [{}, {"exits_with_0": True}])
def test_one_broken_profile_changes_nothing_and_is_named(run, host, orders):
    run(host, TWO)
    host.orders(**orders)
    message = fails(run, host, [profile("a", rules="/etc/group r,"), profile("a.main", "complain", "broken"), *MANY])
    assert message == "profile cordon.a.main, line 4: syntax error (broken); nothing was changed"


def test_a_profile_that_the_kernel_refuses_puts_back_the_others(run, any_host):
    host = any_host
    run(host, TWO)
    host.refused = {"cordon.c"}
    message = fails(run, host, [profile("a", rules="/etc/group r,"), TWO[1], profile("b"), profile("c")])
    assert "the kernel refused profile cordon.c: Protocol error" in message
    assert "files and kernel are as they were" in message
    assert run(host, TWO)["changed"] is False


def test_a_kernel_that_does_not_tell_is_put_back_from_the_old_files_in_one_call(run, tmp_path, monkeypatch):
    host = FakeHost(tmp_path, monkeypatch, None)
    run(host, TWO)
    host.refused = {"cordon.c"}
    written = []
    monkeypatch.setattr(_apparmor_load, "_write", lambda entry, data: (written.append(data), host.write(entry, data)))
    fails(run, host, [profile("a", rules="/etc/group r,"), profile("a.main", "complain", "/etc/group r,"), profile("c")])
    assert len(host.calls()) == 3, "the first run, the new texts, the old texts"
    assert written[-2:] == [(host.cache / PLACE / name).read_bytes() for name in ("cordon.a", "cordon.a.main")]


def test_what_was_removed_comes_back_too(run, any_host):
    host = any_host
    run(host, TWO)
    host.lies = {"cordon.b": "complain"}
    fails(run, host, [profile("a", rules="/etc/group r,"), profile("b")])


def test_drift_is_mended_where_nobody_knows_what_was_loaded(run, tmp_path, monkeypatch):
    host = FakeHost(tmp_path, monkeypatch, None)
    run(host, TWO)
    (host.etc / "cordon.a").unlink()
    host.load("cordon.a", "complain", b"")
    assert "complain" in run(host, TWO)["loaded"]["cordon.a"]
    (host.etc / "cordon.a").unlink()
    host.load("cordon.a", "complain", b"")
    host.refused = {"cordon.c"}
    assert "cordon.a: the kernel does not tell what it held" in run(host, [*TWO, profile("c")])["msg"]


def test_a_profile_that_did_not_arrive_in_its_mode_puts_back_the_others(run, host):
    run(host, TWO)
    host.lies = {"cordon.b": "complain"}
    assert "cordon.b is complain" in fails(run, host, [profile("a", rules="/etc/group r,"), TWO[1], profile("b")])


def test_a_parser_that_compiles_nothing_is_not_believed(run, host):
    host.orders(compiles_nothing=["cordon.a.main"])
    assert "compiled nothing for profile cordon.a.main" in fails(run, host, TWO)


def test_what_cannot_be_put_back_is_named(run, host, monkeypatch):
    run(host, TWO)
    host.refused = {"cordon.c"}

    def write(entry, data):
        if b"cordon.a enforce" in data and data.decode() in before:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        host.write(entry, data)

    before = host.loaded()["cordon.a"][1]
    monkeypatch.setattr(_apparmor_load, "_write", write)
    message = run(host, [profile("a", rules="/etc/group r,"), TWO[1], profile("c")])["msg"]
    assert "in the kernel these are not: cordon.a: Cannot allocate memory" in message


@pytest.mark.parametrize("number", range(4))
def test_a_full_disk_leaves_everything_as_it_was(run, host, monkeypatch, number):
    """Whichever of the files does not fit: two profiles, the third, or the record after loading."""
    run(host, TWO)
    count = iter(range(100))
    write = _files.write_file

    def full(parent, name, wanted):
        if next(count) == number:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(parent, name, wanted)

    monkeypatch.setattr(_files, "write_file", full)
    wanted = [profile("a", rules="/etc/group r,"), profile("a.main", "complain", "/etc/group r,"), profile("b")]
    message = fails(run, host, wanted)
    assert "No space left on device" in message and str(host.record.parent.parent) in message


@pytest.mark.parametrize("number", range(4))
def test_a_rename_that_fails_leaves_everything_as_it_was(run, host, monkeypatch, number):
    run(host, TWO)
    count, rename = iter(range(100)), os.rename

    def read_only(source, target, **keywords):
        if str(source).endswith("-new") and not str(target).startswith(".") and next(count) == number:
            raise OSError(errno.EROFS, "Read-only file system", str(target))
        rename(source, target, **keywords)

    monkeypatch.setattr(os, "rename", read_only)
    wanted = [profile("a", rules="/etc/group r,"), profile("a.main", "complain", "/etc/group r,"), profile("b")]
    before = host.snapshot()
    answer = run(host, wanted)
    assert answer["failed"] and "Read-only file system" in answer["msg"]
    assert host.snapshot() == before


def test_a_cache_that_cannot_be_written_is_a_warning(run, host, monkeypatch):
    def full(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device", str(host.cache))

    # Beside plugins of the controller ansible-core shows warnings instead of returning them.
    warnings = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda self, text: warnings.append(text))
    monkeypatch.setattr(_apparmor_load, "keep_for_boot", full)
    assert run(host, TWO)["changed"] and "the next boot has to compile" in str(warnings)
    assert run(host, TWO)["changed"] is False


def test_a_fault_of_our_own_is_undone_too(host, monkeypatch):
    before = host.snapshot()
    monkeypatch.setattr(_apparmor_load, "not_as_loaded", lambda *_arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call(host, TWO)
    assert host.snapshot() == before


def test_a_directory_in_a_file_s_place_is_named(run, host):
    (host.etc / "cordon.a").mkdir()
    assert f"{host.etc}/cordon.a: it is a directory: remove it" in fails(run, host, TWO)


def test_left_overs_of_a_killed_run_are_removed(run, host):
    left = host.etc / ".cordon.a.0123456789ab.cordon-new"
    left.write_text("half")
    (host.etc / ".keep").touch()
    run(host, TWO)
    assert not left.exists() and (host.etc / ".keep").exists()


def test_a_parser_that_hangs_is_ended(run, host, monkeypatch):
    monkeypatch.setattr(_apparmor_load, "SECONDS", 1)
    host.orders(sleep=60)
    begun = time.monotonic()
    assert "did not end within 1 seconds" in fails(run, host, TWO)
    assert time.monotonic() - begun < 15


def test_no_parser_is_an_error_with_its_remedy(run, host, no_parser):
    assert fails(run, host, TWO) == "apparmor_parser is not installed: install the package apparmor"


def test_rules_that_the_parser_would_leave_out_are_refused(run, host):
    host.orders(says="Warning from profile cordon.a (x): rlimit rules not enforced\n")
    assert "that nothing stands in for: rlimit; is" in fails(run, host, TWO)


def test_rules_with_another_control_are_listed_and_recorded(run, host):
    host.orders(says="Warning from profile cordon.a (x): downgrading extended network unix socket rule to generic\n")
    answer = run(host, TWO)
    assert {entry["class"] for entry in answer["unenforced"]} >= {"unix", "userns", "io_uring"}
    assert json.loads(host.record.read_text())["unenforced"] == answer["unenforced"]


def test_a_kernel_that_cannot_stack_is_refused(run, host):
    (host.security / "features/domain/stack").unlink()
    assert "it lacks stacked profiles (features/domain/stack)" in fails(run, host, TWO)


@pytest.mark.parametrize(("how", "said"), [
    (lambda host: host.switch.write_text("N\n"), "remove apparmor=0"),
    (lambda host: host.switch.unlink(), "this kernel has none"),
    (lambda host: host.security.rename(f"{host.security}.away"), "mount -t securityfs"),
    (lambda host: (host.security / "policy").rename(host.security / "away"), "run as root on the host itself"),
])
class TestWithoutAppArmor:
    def test_is_an_error_that_says_why(self, run, host, how, said):
        how(host)
        answer = run(host, TWO)
        assert answer["failed"] and said in answer["msg"] and "agent_host_allow_unenforced: [apparmor]" in answer["msg"]
        assert not list(host.etc.iterdir())

    def test_files_are_written_where_that_is_accepted(self, run, host, how, said):
        how(host)
        answer = run(host, TWO, allow_unenforced=True)
        assert answer["changed"] and answer["enforced"] is False and answer["compared_by"] == "nothing"
        assert (host.etc / "cordon.a").exists()
        record = json.loads(host.record.read_text())
        assert record["enforced"] is False and record["profiles"] == {}
        assert record["unenforced"][0]["class"] == "everything" and said in record["unenforced"][0]["why"]
        assert run(host, TWO, allow_unenforced=True)["changed"] is False

    def test_a_broken_profile_is_an_error_all_the_same(self, run, host, how, said):
        how(host)
        assert "line 4" in run(host, [profile("a", rules="broken")], allow_unenforced=True)["msg"]
        assert not list(host.etc.iterdir())


BAD_NAMES = ["firefox", "cordon.a b", "cordon.a\nx", 'cordon."a"', "cordon.*", "cordon.a,b", "cordon.é", "cordon.",
             "cordon.a/../../x", "cordon.a.", "CORDON.a", "cordon.a//b", "cordon.a{b}"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_is_not_ours_is_refused(run, host, name):
    wanted = {"name": name, "mode": "enforce", "text": f"profile {name} {{\n}}\n"}
    assert "is not a name of ours" in fails(run, host, [*TWO, wanted])
    assert not host.calls()


def test_two_runs_at_once_load_once_and_both_are_right(host):
    host.orders(sleep=0.4)
    runs = [multiprocessing.get_context("fork").Process(target=_quietly, args=(host, MANY)) for _each in range(3)]
    for each in runs:
        each.start()
    for each in runs:
        each.join(60)
    assert [each.exitcode for each in runs] == [0, 0, 0]
    assert len(host.calls()) == 1
    assert len(host.loaded()) == 74


def test_two_runs_at_once_that_disagree_leave_one_of_both_whole(host):
    host.orders(sleep=0.2)
    one, other = [profile("a"), profile("b")], [profile("a", rules="/etc/group r,"), profile("c")]
    runs = [multiprocessing.get_context("fork").Process(target=_quietly, args=(host, each)) for each in (one, other)]
    for each in runs:
        each.start()
    for each in runs:
        each.join(60)
    assert [each.exitcode for each in runs] == [0, 0]
    left = {path.name: path.read_text() for path in host.etc.iterdir()}
    assert left in [{each["name"]: each["text"] for each in wanted} for wanted in (one, other)]
    assert set(host.loaded()) == set(left) == set(json.loads(host.record.read_text())["profiles"])


def _quietly(host, wanted) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    call(host, wanted)
