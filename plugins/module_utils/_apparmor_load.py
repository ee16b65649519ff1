# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. The acts that change policy: compile, load, remove, and put back.

One call of the parser compiles everything that differs, in parallel, into a scratch cache. What it wrote there is what
the kernel is given, byte for byte, and what becomes the cache that Debian's apparmor.service loads at the next boot.
So nothing is compiled twice, and the kernel's hash is known before the kernel is asked.
"""
from __future__ import annotations

import errno
import hashlib
import os
from typing import Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple

from ._apparmor_host import CACHE, Failed, no_command
from ._apparmor_plan import Wanted, explain
from ._facts_apparmor import SECURITYFS, directories
from ._facts_processes import label_of, split_label
from ._facts_processes import profiles as layers
from ._facts_source import Source

Run = Callable[..., Tuple[int, str, str]]

# A parser that hangs must not hold the lock for ever. 74 profiles take a minute under software emulation.
SECONDS = 900
CHECK = ["--skip-kernel-load", "--skip-read-cache", "--write-cache", "--jobs=auto",
         "--warn=rule-not-enforced", "--warn=rule-downgraded"]


class Compiled(NamedTuple):
    """blobs: policy by profile. place: the scratch cache they lie in, named after the kernel's features.

    messages: what the parser said, warnings included.
    """

    blobs: Dict[str, bytes]
    place: str
    messages: str


def compile_all(run: Run, parser: List[str], scratch: str, profiles: List[Wanted], base: str) -> Compiled:
    """Compile all of them without touching files or kernel; Failed names profile and line.

    scratch: a directory for nothing else. base: where abi files are. It is not the parser's own base directory, because links
    in disable/ and force-complain/ below that one would decide what is compiled.
    """
    cache, texts = os.path.join(scratch, "cache"), os.path.join(scratch, "texts")
    os.makedirs(cache, exist_ok=True)
    os.makedirs(texts, exist_ok=True)
    for profile in profiles:
        with open(os.path.join(texts, profile.name), "w", encoding="utf-8", newline="") as file:
            file.write(profile.text)
    argv = parser + CHECK + ["--cache-loc=" + cache, "--base=" + texts, "--Include=" + base]
    code, out, err = run(argv + [os.path.join(texts, profile.name) for profile in profiles])
    # snapd's experience: some releases report a parser error and exit with 0.
    if code or "parser error" in err:
        raise Failed("%s; nothing was changed" % _complaint(code, err or out, profiles))
    place = next((entry.path for entry in sorted(os.scandir(cache), key=lambda entry: entry.name) if entry.is_dir()),
                 cache)
    return Compiled({profile.name: _blob(os.path.join(place, profile.name)) for profile in profiles}, place, err)


def _complaint(code: int, output: str, profiles: List[Wanted]) -> str:
    if code in (124, 137):  # timeout(1): it had to end the parser
        return "apparmor_parser did not end within %d seconds" % SECONDS
    return explain(output, {profile.name: profile.text for profile in profiles})


def _blob(path: str) -> bytes:
    """Compiled policy; empty where the parser writes none, because there is no kernel to compile for."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


class Kernel:
    """Changes to the loaded policy that know the way back."""

    def __init__(self, again: Callable[[List[str]], Dict[str, bytes]]) -> None:
        """again(NAMES): compile their old texts, for kernels that do not give back what they were given."""
        self._again = again
        self._before: Dict[str, Optional[bytes]] = {}

    def load(self, blobs: Mapping[str, bytes]) -> None:
        """Replace these profiles; Failed names the one that the kernel refuses."""
        self._remember(blobs)
        for name, blob in blobs.items():
            if not blob:
                raise Failed("apparmor_parser reported no error, but compiled nothing for profile %s" % name)
            try:
                _write(".replace", blob)
            except OSError as problem:
                raise Failed("the kernel refused profile %s: %s (journalctl -k shows more)"
                             % (name, problem.strerror)) from problem

    def remove(self, names: List[str]) -> None:
        """Take profiles out of the kernel, unless a process runs under one: the kernel would set it free."""
        self._remember(names)
        refuse_live(names)
        for name in names:
            _unload(name)

    def _remember(self, names: Iterable[str]) -> None:
        loaded = directories()
        before = {name: _blob("%s/raw_data" % loaded[name]) if name in loaded else None for name in names}
        untold = [name for name, blob in before.items() if blob == b""]
        self._before.update(before, **(self._again(untold) if untold else {}))

    def put_back(self) -> List[str]:
        """Restore what was loaded before, and tell what could not be."""
        failed = []
        for name, blob in self._before.items():
            try:
                if blob == b"":
                    failed.append("%s: the kernel does not tell what it held, and its file was gone" % name)
                elif blob is not None:
                    _write(".replace", blob)
                elif name in directories():
                    refuse_live([name])
                    _unload(name)
            except (OSError, Failed) as problem:
                failed.append("%s: %s" % (name, getattr(problem, "strerror", None) or problem))
        return failed


def _unload(name: str) -> None:
    try:
        _write(".remove", name.encode("ascii"))
    except FileNotFoundError:
        pass  # gone already


def _write(entry: str, data: bytes) -> None:
    """One write is one request: the kernel takes or refuses it as a whole."""
    handle = os.open("%s/%s" % (SECURITYFS, entry), os.O_WRONLY | os.O_CLOEXEC)
    try:
        if os.write(handle, data) != len(data):
            raise OSError(errno.EIO, "only a part of it was taken")
    finally:
        os.close(handle)


def refuse_live(names: List[str]) -> None:
    """Raise Failed when a process runs under one of these profiles."""
    found = live(names) if names else []
    if found:
        raise Failed(
            "cannot remove %s: still in use by %s, and the kernel would set such a process free: stop the agent, e.g."
            " systemctl stop cordon-NAME.slice, then run again" % (", ".join(names), "; ".join(found[:5])))


def live(names: Iterable[str]) -> List[str]:
    """Processes that run under one of these profiles, as "pid 12 in cordon.x": removal would set them free."""
    wanted, found, source = set(names), [], Source(no_command)
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        label = split_label(label_of(source, pid))[0]
        if wanted & set(layers(label)):
            found.append("pid %d in %s" % (pid, label))
    return found


def not_as_loaded(profiles: Iterable[Wanted], kernel: Mapping[str, Mapping[str, Optional[str]]],
                  blobs: Mapping[str, bytes]) -> List[str]:
    """What the kernel says that it holds, where that is not what was loaded."""
    found = []
    for profile in profiles:
        there = kernel.get(profile.name, {})
        if there.get("mode") != profile.mode:
            found.append("%s is %s" % (profile.name, there.get("mode") or "not loaded"))
        elif profile.name in blobs and not _same(there, blobs[profile.name]):
            found.append("%s is another policy than the one loaded" % profile.name)
    return found


def _same(there: Mapping[str, Optional[str]], blob: bytes) -> bool:
    kind = (there.get("hash_kind") or "").rpartition("_")[2]
    return not kind or hashlib.new(kind, blob).hexdigest() == there.get("hash")


def forget(names: Iterable[str]) -> None:
    """Remove compiled forms, so that nothing old is loaded at boot."""
    for place in _listed(CACHE):
        for name in names:
            try:
                os.unlink(os.path.join(CACHE, place, name))
            except (FileNotFoundError, NotADirectoryError):
                pass


def _listed(directory: str) -> List[str]:
    return os.listdir(directory) if os.path.isdir(directory) else []


def keep_for_boot(compiled: Compiled, directory: str) -> None:
    """Make the compiled forms the parser's own cache, valid for the files in directory as they are now.

    The parser takes a cached form that is not older than its source, from the directory that is named after the
    kernel's features and holds the same `.features`; anything else it compiles anew.
    """
    place = os.path.join(CACHE, os.path.basename(compiled.place))
    features = _blob(os.path.join(compiled.place, ".features"))
    if not os.path.isdir(place):
        os.makedirs(place, mode=0o755)
        _put(os.path.join(place, ".features"), features, None)
    elif _blob(os.path.join(place, ".features")) != features:
        return  # another kernel's, whose features have the same short hash
    for name, blob in compiled.blobs.items():
        _put(os.path.join(place, name), blob, os.path.join(directory, name))


def _put(path: str, data: bytes, source: Optional[str]) -> None:
    temporary = "%s.cordon-new" % path
    try:
        with open(temporary, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(data)
        if source:
            seen = os.stat(source)
            os.utime(temporary, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        os.rename(temporary, path)
    except OSError:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        raise
