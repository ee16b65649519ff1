# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's own authority, made by the real openssl: what it may sign for, and how it is renewed."""
from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[3] / "roles" / "firewall" / "files" / "proxy_authority.py"


@pytest.fixture
def authority(tmp_path, monkeypatch):
    """The program, with its files in a directory of the test, and owned by whoever runs it."""
    spec = importlib.util.spec_from_file_location("proxy_authority", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.os, "fchown", lambda *_arguments: None)

    def run(*names, days=397):
        monkeypatch.setattr(module, "DAYS", days)
        (tmp_path / "authority.json").write_text(json.dumps({"names": list(names)}))
        (tmp_path / "system.pem").touch()
        module.main(tmp_path, tmp_path, tmp_path, tmp_path / "system.pem", "root")
        return {path.name: path.read_bytes() for path in tmp_path.glob("a*.???")}

    return run


def openssl(*arguments, check=True):
    return subprocess.run(["openssl", *map(str, arguments)], check=check, capture_output=True, text=True)


def leaf(directory, name):
    """A certificate as squid makes one: signed by the authority, for one name."""
    key, out = directory / "authority.key", directory / f"{name}.leaf"
    (directory / "extension").write_text(f"subjectAltName=DNS:{name}\n")
    openssl("req", "-new", "-key", key, "-subj", f"/CN={name}", "-out", directory / "request")
    openssl("x509", "-req", "-in", directory / "request", "-CA", directory / "authority.pem", "-CAkey", key, "-set_serial", "7",
            "-days", "2", "-extfile", directory / "extension", "-out", out)
    return out


def trusted(ca, certificate):
    return openssl("verify", "-CAfile", ca, certificate, check=False).returncode == 0


def test_it_can_sign_for_inspected_names_only(authority, tmp_path):
    authority("api.example.org")
    assert trusted(tmp_path / "authority.pem", leaf(tmp_path, "api.example.org"))
    assert not trusted(tmp_path / "authority.pem", leaf(tmp_path, "bank.example.net"))


def test_without_an_inspected_name_it_can_sign_for_nobody(authority, tmp_path):
    authority()
    assert not trusted(tmp_path / "authority.pem", leaf(tmp_path, "api.example.org"))


def test_a_second_run_writes_nothing(authority):
    assert authority("a.example", "b.example") == authority("b.example", "a.example")


def test_other_names_make_another_certificate_with_the_same_key(authority):
    one, two = authority("a.example"), authority("b.example")
    assert one["authority.key"] == two["authority.key"]
    assert one["authority.pem"] != two["authority.pem"]


def test_it_is_renewed_before_it_ends_and_those_who_trust_the_old_one_trust_on(authority, tmp_path):
    old = authority("a.example", days=30)["authority.pem"]
    new = authority("a.example")["authority.pem"]
    assert new != old
    (tmp_path / "old.pem").write_bytes(old)
    certificate = leaf(tmp_path, "a.example")
    assert trusted(tmp_path / "old.pem", certificate) and trusted(tmp_path / "authority.pem", certificate)


def test_the_key_is_not_for_everybody(authority, tmp_path):
    authority("a.example")
    assert os.stat(tmp_path / "authority.key").st_mode & 0o777 == 0o640
    assert (tmp_path / "ca-bundle.pem").read_text().count("BEGIN") == 1
