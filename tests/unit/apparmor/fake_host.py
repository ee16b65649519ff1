# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host made of files: securityfs that takes policy as a kernel does, and a parser that does as it is told.

A compiled profile is `NAME MODE TEXT-DIGEST` here, so that the module's own logic is what is tested. The real parser
and the real kernel are met by test_compiles.py and by Molecule's scenario vm.
"""
from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

from ansible_collections.cordon.agent_host.plugins.module_utils import (
    _apparmor_host,
    _apparmor_info,
    _apparmor_load,
    _facts_apparmor,
    _files,
)
from ansible_collections.cordon.agent_host.plugins.modules import apparmor_profiles

FEATURES = ("domain/stack", "domain/post_nnp_subset", "domain/change_onexec", "file/mask", "caps/mask", "signal/mask",
            "network_v8/af_mask", "ptrace/mask", "mount/mask")
PLACE = "0123abcd.0"  # the name that the parser would derive from the features

PARSER = """#!%(python)s
import hashlib, json, os, re, sys, time
orders = json.load(open(%(orders)r))
with open(%(calls)r, "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
time.sleep(orders.get("sleep", 0))
files = [word for word in sys.argv[1:] if not word.startswith("-")]
cache = next(word for word in sys.argv if word.startswith("--cache-loc=")).partition("=")[2] + "/%(place)s"
os.makedirs(cache, exist_ok=True)
open(cache + "/.features", "w").write("features")
for path in files:
    text = open(path).read()
    name = re.search(r"^profile (\\S+)", text, re.M)[1]
    for number, line in enumerate(text.splitlines(), 1):
        if "broken" in line:
            sys.stderr.write("AppArmor parser error for %%s in profile %%s at line %%d: syntax error\\n" %% (path, path, number))
            sys.exit(0 if orders.get("exits_with_0") else 1)
    mode = "complain" if "complain" in text else "enforce"
    if name not in orders.get("compiles_nothing", []):
        open(cache + "/" + name, "w").write("%%s %%s %%s" %% (name, mode, hashlib.sha256(text.encode()).hexdigest()))
sys.stderr.write(orders.get("says", ""))
"""


class FakeHost:
    """The directories of a host; kind: the hash that its kernel exports, None for a kernel that exports nothing."""

    def __init__(self, root: Path, monkeypatch, kind: str | None = "raw_sha256") -> None:
        self.kind, self.refused, self.lies = kind, set(), {}
        self.security, self.etc = root / "securityfs", root / "apparmor.d"
        self.record, self.cache = root / "cordon" / "apparmor.json", root / "cache"
        self.orders_file, self.calls_file = root / "orders", root / "calls"
        self.policy = self.security / "policy" / "profiles"
        for directory in (self.policy, self.etc, self.cache, root / "bin"):
            directory.mkdir(parents=True)
        for feature in FEATURES:
            path = self.security / "features" / feature
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("yes\n")
        self.switch = root / "enabled"
        self.switch.write_text("Y\n")
        self.parser = root / "bin" / "apparmor_parser"
        self.parser.write_text(PARSER % {"python": sys.executable, "orders": str(self.orders_file),
                                         "calls": str(self.calls_file), "place": PLACE})
        self.parser.chmod(0o755)
        self.orders()
        self._redirect(monkeypatch, root)

    def _redirect(self, monkeypatch, root: Path) -> None:
        for module in (_facts_apparmor, _apparmor_host, _apparmor_load, _apparmor_info):
            monkeypatch.setattr(module, "SECURITYFS", str(self.security))
        monkeypatch.setattr(_facts_apparmor, "POLICY", str(self.policy))
        for module in (_facts_apparmor, _apparmor_host, _apparmor_info):
            monkeypatch.setattr(module, "SWITCH", str(self.switch))
        monkeypatch.setattr(_facts_apparmor, "RECORD", str(self.record))
        for module in (_apparmor_host, _apparmor_load):
            monkeypatch.setattr(module, "CACHE", str(self.cache), raising=False)
        monkeypatch.setattr(_apparmor_load, "_write", self.write)
        mine = {"uid": os.geteuid(), "gid": os.getegid()}
        monkeypatch.setattr(_apparmor_host, "FILE", _files.Entry("file", 0o644, **mine))
        monkeypatch.setattr(apparmor_profiles, "RECORD", _files.Entry("file", 0o640, **mine))
        monkeypatch.setenv("PATH", f"{root / 'bin'}:/usr/bin:/bin")

    def orders(self, **orders) -> None:
        """What the parser is to do besides: sleep, exits_with_0, compiles_nothing, says."""
        self.orders_file.write_text(json.dumps(orders))

    def calls(self) -> list[list[str]]:
        """The arguments of each start of the parser."""
        return [json.loads(line) for line in self.calls_file.read_text().splitlines()] if self.calls_file.exists() else []

    def write(self, entry: str, data: bytes) -> None:
        """The kernel's side of one write to securityfs."""
        if entry == ".remove":
            if data.decode() not in self.loaded():
                raise FileNotFoundError(errno.ENOENT, "No such file or directory")
            self._drop(data.decode())
            return
        name, mode, _digest = data.decode().split()
        if name in self.refused:
            raise OSError(errno.EPROTO, "Protocol error")
        self.load(name, self.lies.get(name, mode), data)

    def load(self, name: str, mode: str, data: bytes) -> None:
        """Have the kernel hold a profile, as somebody's hand would load it."""
        numbers = [int(path.name.rpartition(".")[2]) for path in self.policy.iterdir()]
        self._drop(name)
        place = self.policy / f"{name}.{max(numbers, default=0) + 1}"
        place.mkdir()
        (place / "name").write_text(name + "\n")
        (place / "mode").write_text(mode + "\n")
        if self.kind:
            (place / "raw_data").write_bytes(data)
            (place / self.kind).write_text(hashlib.new(self.kind[4:], data).hexdigest() + "\n")

    def _drop(self, name: str) -> None:
        for path in self.policy.glob(name + ".*"):
            if path.name.rpartition(".")[0] == name:
                shutil.rmtree(path)

    def loaded(self) -> dict[str, tuple[str, str]]:
        """What the kernel holds: {name: (mode, its data)}."""
        return {(path / "name").read_text().strip(): tuple(
            place.read_text().strip() if place.exists() else "" for place in (path / "mode", path / "raw_data"))
            for path in self.policy.iterdir()}

    def snapshot(self) -> dict[str, object]:
        """Everything that a failed run must leave as it was."""
        files = {str(path): path.read_text() for top in (self.etc, self.record.parent) if top.exists()
                 for path in sorted(top.rglob("*")) if path.is_file()}
        return {"files": files, "kernel": self.loaded()}
