# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brokered secrets: what is sealed for the proxy, what a run says of it, and that nothing says a value.

What squid makes of the text: tests/integration/firewall/test_brokered.py.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.cordon.agent_host.plugins.filter.agents import agents as resolve
from ansible_collections.cordon.agent_host.plugins.filter.brokered_secrets import brokered_secrets
from ansible_collections.cordon.agent_host.plugins.filter.egress_proxy import egress_proxy
from ansible_collections.cordon.agent_host.plugins.filter.secret_values import secret_values
from ansible_collections.cordon.agent_host.plugins.module_utils import _brokered
from ansible_collections.cordon.agent_host.plugins.modules import brokered_secrets as module

CANARY = "sk-canary"
MANIFEST = resolve([
    {"name": "scout", "command": ["/bin/true"], "egress": [{"name": "api.example.org"}, {"name": "git.example.org"}],
     "secrets": [{"name": "key", "broker": {"host": "api.example.org", "header": "Authorization", "prefix": "Bearer "}},
                 {"name": "token", "broker": {"host": "git.example.org", "header": "Authorization", "user": "x"}},
                 {"name": "plain"}]},
    {"name": "scribe", "command": ["/bin/true"], "secrets": [{"name": "key"}]},
])  # fmt: skip
VALUES = {"scout": {"key": CANARY, "token": f"{CANARY}-token", "plain": "p"}, "scribe": {"key": "s", "unknown": "u"}}
DECLARED = _brokered.declared(MANIFEST)
PROXYS = secret_values(VALUES, MANIFEST, brokered=True)


def test_each_value_goes_to_the_vault_or_to_the_proxy_and_none_is_lost() -> None:
    assert secret_values(VALUES, MANIFEST) == {"scout": {"plain": "p"}, "scribe": {"key": "s", "unknown": "u"}}
    assert secret_values(VALUES, MANIFEST, brokered=True) == {"scout": {"key": CANARY, "token": f"{CANARY}-token"}, "scribe": {}}
    assert secret_values({"scout": "text"}, MANIFEST) == {"scout": "text"}


def test_what_the_manifest_becomes_on_disk_has_no_value_and_names_every_secret() -> None:
    texts = "".join(file["content"] for file in egress_proxy(MANIFEST)) + json.dumps(brokered_secrets(MANIFEST))
    assert CANARY not in texts
    assert "# scout: the secret key as Authorization to api.example.org:443\n" in texts
    assert texts.count(f"\ninclude {_brokered.INCLUDED}\n") == 1


def test_a_manifest_without_brokered_secrets_includes_nothing() -> None:
    assert "\ninclude" not in "".join(file["content"] for file in egress_proxy([{**MANIFEST[0], "secrets": []}]))
    assert _brokered.render([], {}) == ""


def test_an_agent_cannot_read_what_it_has_no_file_for() -> None:
    from ansible_collections.cordon.agent_host.plugins.filter.apparmor_profiles import apparmor_profiles

    texts = [profile["text"] for profile in apparmor_profiles(MANIFEST) if profile["agent"] == "scout"]
    assert any("/.vault/plain r," in text for text in texts)
    assert not any("/.vault/key" in text or "/.vault/token" in text for text in texts)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "no value; the manifest declares it"),
        (5, "of type int"),
        ("", "the value is empty"),
        ("x" * 2041, "would have 2048 characters, of which squid reads 2047"),
        ("%" * 1021, "would have 2049 characters"),
        ("x" * 65536, "would have 65543 characters"),
        ("a\nb", "a line break"),
        (f"{CANARY}\n", "a line break"),
        (f" {CANARY}", "a space at an end"),
        (f"{CANARY}ü", "another character"),
        (f"{CANARY}\0", "another character"),
    ],
)
def test_a_value_that_no_header_holds_is_refused_without_being_shown(value: Any, says: str) -> None:
    (said,) = _brokered.mistakes(DECLARED[:1], {"scout": {"key": value}})
    assert said.startswith("scout.key: ") and says in said and CANARY not in said
    assert _brokered.mistakes(DECLARED, {}) and _brokered.mistakes(DECLARED, {"scout": "text"})


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
def test_whatever_a_value_is_it_stays_in_its_quotes(value: str) -> None:
    text = _brokered.render(DECLARED[:1], {"scout": {"key": value}})
    (line,) = [line for line in text.splitlines() if line.startswith("request_header_add")]
    inside, _quote, rest = _quoted(line.split(" ", 2)[2])
    assert inside == f"Bearer {value}"
    assert rest.split() == [f"broker.0.{which}" for which in ("agent", "host", "port")] + ["broker.opened", "!broker.connect",
                                                                                         "!broker.asks"]


def test_no_macro_of_squids_own_stands_in_its_text() -> None:
    """It replaces them in a line before it reads the line (SMP-Related Macros, squid.conf.documented)."""
    text = _brokered.render(DECLARED[:1], {"scout": {"key": "${process_name}$${service_name}"}})
    assert "${" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("request_header_add")]
    assert _quoted(line.split(" ", 2)[2])[0] == "Bearer ${process_name}$${service_name}"


def _quoted(text: str) -> tuple[str, str, str]:
    """As squid reads it: the escapes of a quoted string, then %% for a percent sign."""
    assert text[0] == '"'
    found, place = "", 1
    while text[place] != '"':
        place += text[place] == "\\"
        found += text[place]
        place += 1
    assert found.replace("%%", "").count("%") == 0
    return found.replace("%%", "%"), '"', text[place + 1 :]


def test_a_change_is_told_by_name_whatever_its_place() -> None:
    before = _brokered.render(DECLARED, PROXYS)
    assert _brokered.changes(before, before) == []
    assert _brokered.changes(before, "") == [("scout/key", "absent", "set"), ("scout/token", "absent", "set")]
    assert _brokered.changes(before, None) == [("scout/key", "unreadable", "set"), ("scout/token", "unreadable", "set")]
    assert _brokered.changes(_brokered.render(DECLARED[1:], PROXYS), before) == [("scout/key", "set", "removed")]
    other = _brokered.render(DECLARED, {"scout": {**PROXYS["scout"], "token": "new"}})
    assert _brokered.changes(other, before) == [("scout/token", "set", "set to another value or place")]
    moved = _brokered.render([DECLARED[0]._replace(host="b.example.org"), DECLARED[1]], PROXYS)
    assert _brokered.changes(moved, before) == [("scout/key", "set", "set to another value or place")]


# --- the module ---------------------------------------------------------------------------------------

# Turns text around and notes how it was called; LOCKED: a host that cannot open what another has sealed.
CREDS = """#!/bin/sh
echo "$*" >> {calls}
[ ! -e {locked} ] || [ "$1" = encrypt ] || exit 1
case $1 in encrypt) rev ;; *) rev "$3" ;; esac
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """run(secrets, values, check=False): the module with a systemd-creds and a place of the test's own."""
    (tmp_path / "bin").mkdir()
    creds = tmp_path / "bin" / "systemd-creds"
    creds.write_text(CREDS.format(calls=tmp_path / "calls", locked=tmp_path / "locked"))
    creds.chmod(0o755)
    place = tmp_path / "proxy" / "brokered.cred"
    place.parent.mkdir()
    monkeypatch.setattr(_brokered, "SEALED", str(place))
    monkeypatch.setattr(_brokered, "INCLUDED", str(tmp_path / "opened"))
    monkeypatch.setattr(module, "ROOTS_ALONE", (0o600, os.getuid(), os.getgid()))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")

    def call(secrets: list[Any], values: dict[str, Any], check: bool = False) -> dict[str, Any]:
        arguments = {"secrets": [secret._asdict() for secret in secrets], "values": values, "_ansible_check_mode": check}
        with patch_module_args({**arguments, "_ansible_diff": True}), pytest.raises(SystemExit):
            module.main()
        said = capsys.readouterr()
        assert CANARY not in said.out + said.err
        return {**json.loads(said.out), "place": place, "calls": tmp_path / "calls", "locked": tmp_path / "locked"}

    return call


def test_the_module_seals_once_and_says_names_only(run: Callable[..., dict[str, Any]]) -> None:
    planned = run(DECLARED, PROXYS, check=True)
    assert planned["changed"] and not planned["place"].exists()
    assert planned["diff"]["after"] == "scout/key: set\nscout/token: set\n"
    done = run(DECLARED, PROXYS)
    assert done["changed"] and [secret["name"] for secret in done["secrets"]] == ["scout/key", "scout/token"]
    place = done["place"]
    assert stat.S_IMODE(place.stat().st_mode) == 0o600 and CANARY not in place.read_text()
    assert os.listdir(place.parent) == [place.name]
    assert not run(DECLARED, PROXYS)["changed"] and not run(DECLARED, PROXYS, check=True)["changed"]
    calls = done["calls"].read_text()
    key = "host+tpm2 --tpm2-pcrs=16" if os.path.exists("/dev/tpmrm0") else "host"
    assert f"encrypt --with-key={key} --name=brokered - -" in calls and CANARY not in calls


def test_the_module_changes_removes_and_mends(run: Callable[..., dict[str, Any]]) -> None:
    place = run(DECLARED, PROXYS)["place"]
    changed = run(DECLARED, {"scout": {**PROXYS["scout"], "key": f"{CANARY}-new"}})
    assert [secret["name"] for secret in changed["secrets"]] == ["scout/key"]
    place.chmod(0o644)
    assert run(DECLARED, {"scout": {**PROXYS["scout"], "key": f"{CANARY}-new"}})["changed"]
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    changed["locked"].touch()
    mended = run(DECLARED, PROXYS)
    assert {secret["before"] for secret in mended["secrets"]} == {"unreadable"}
    changed["locked"].unlink()
    assert not run(DECLARED, PROXYS)["changed"]
    assert run([], {})["changed"] and not place.exists()
    assert not run([], {})["changed"]


def test_the_module_writes_nothing_where_a_value_is_missing(run: Callable[..., dict[str, Any]]) -> None:
    done = run(DECLARED, {"scout": {"key": CANARY}})
    assert done["failed"] and "scout.token: no value" in done["msg"] and not done["place"].exists()


def test_it_tells_whether_the_proxy_that_runs_has_them(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """A run that broke off before the restart leaves a file that is right, and a proxy that adds what it had before."""
    opened = tmp_path / "opened"
    assert run([], {})["in_force"] and not run(DECLARED, PROXYS)["in_force"]
    opened.write_text(_brokered.render(sorted(DECLARED), PROXYS))
    assert run(DECLARED, PROXYS)["in_force"]
    other = {"scout": {**PROXYS["scout"], "key": f"{CANARY}-new"}}
    assert not run(DECLARED, other, check=True)["in_force"]
    assert not run([], {})["in_force"], "withdrawn, and still added"


def test_without_systemd_creds_a_check_fails_too(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "bin" / "systemd-creds").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path / "bin"))
        patch.setattr(module.AnsibleModule, "get_bin_path", lambda self, name: None)
        assert "it comes with systemd 250" in run(DECLARED, PROXYS, check=True)["msg"]


def test_its_directory_is_made_where_it_is_missing(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "proxy").rmdir()
    assert run(DECLARED, PROXYS)["place"].exists()


def test_a_link_in_its_place_is_replaced_and_not_followed(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("untouched")
    (tmp_path / "proxy" / "brokered.cred").symlink_to(target)
    place = run(DECLARED, PROXYS)["place"]
    assert target.read_text() == "untouched" and not place.is_symlink()
