# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read one host: files under a root, and commands. Whatever cannot be read is noted, never guessed.

Every reader returns None for "could not be read" and writes the reason into `unreadable`, so that
a check over that fact fails and the operator sees why. `root` exists for tests, which point it at
a recorded tree.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import struct
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

Run = Callable[..., Tuple[int, str, str]]  # run(argv, data=None) -> (rc, stdout, stderr)

# linux/fs.h: _IOR('f', 1, long). The kernel fills in an int in spite of the declared long.
FS_IOC_GETFLAGS = 0x80006601 | struct.calcsize("l") << 16
FS_IMMUTABLE_FL = 0x10
# A unit's or Ansible's PATH need not hold the sbin directories.
SEARCH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
KINDS = ((stat.S_ISDIR, "directory"), (stat.S_ISREG, "file"), (stat.S_ISLNK, "link"))


def title(argv: Sequence[str]) -> str:
    """Name a command for `unreadable`: with its arguments while they are few."""
    return " ".join(argv if len(argv) < 8 else argv[:2])


class Source:
    """Everything that the facts read, they read through this."""

    def __init__(self, run: Run, root: str = "/") -> None:
        self._run = run
        self._root = root.rstrip("/")
        self._owners: Dict[str, Dict[int, str]] = {}
        self.unreadable: Dict[str, str] = {}

    def note(self, what: str, problem: object) -> None:
        """Remember that `what` could not be read, and why."""
        reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem)
        self.unreadable[what] = " ".join(reason.split())[:300]

    def at(self, path: str) -> str:
        """Return where an absolute path lies under the root."""
        return self._root + path

    def text(self, path: str, noted: bool = True) -> Optional[str]:
        """Return a file's text; None when it is absent or unreadable.

        noted: False for what vanishes in the ordinary course of things, a process for example.
        """
        try:
            with open(self.at(path), "rb") as stream:
                return stream.read().decode("utf-8", "replace")
        except OSError as problem:
            if noted:
                self.note(path, problem)
            return None

    def optional(self, path: str) -> Optional[str]:
        """Like text(), but an absent file is the empty text: for files whose absence is a state."""
        return self.text(path) if os.path.lexists(self.at(path)) else ""

    def word(self, path: str) -> Optional[str]:
        """Return a one-line file of /proc or /sys without its newline (and NUL)."""
        text = self.text(path)
        return None if text is None else text.strip().strip("\0")

    def exists(self, path: str) -> bool:
        """Tell whether a name exists, a dangling link included."""
        return os.path.lexists(self.at(path))

    def names(self, path: str) -> Optional[List[str]]:
        """Return the sorted names in a directory; None, noted, when it cannot be listed."""
        try:
            return sorted(os.listdir(self.at(path)))
        except OSError as problem:
            self.note(path, problem)
            return None

    def record(self, path: str) -> Any:
        """Return a JSON file's value; None, noted, when it is absent or not JSON."""
        text = self.text(path)
        if text is None:
            return None
        try:
            return json.loads(text)
        except ValueError as problem:
            self.note(path, "not JSON: %s" % problem)
            return None

    def link(self, path: str) -> Optional[str]:
        """Return a symbolic link's target, not noted: links of /proc vanish with their process."""
        try:
            return os.readlink(self.at(path))
        except OSError:
            return None

    def metadata(self, path: str) -> Optional[Dict[str, Any]]:
        """Return {path, kind, uid, owner, group, mode, writable_by_others}, links not followed."""
        try:
            found = os.lstat(self.at(path))
        except OSError as problem:
            self.note(path, problem)
            return None
        kind = next((word for is_kind, word in KINDS if is_kind(found.st_mode)), "other")
        mode = stat.S_IMODE(found.st_mode)
        return {
            "path": path, "kind": kind, "uid": found.st_uid,
            "owner": self._name("/etc/passwd", found.st_uid), "group": self._name("/etc/group", found.st_gid),
            "mode": "%04o" % mode,
            # A link's own mode is always 0777 and means nothing.
            "writable_by_others": kind != "link" and bool(mode & 0o022),
        }

    def age(self, path: str, now: float) -> Optional[float]:
        """Return the seconds since a file was last written."""
        try:
            return round(max(0.0, now - os.stat(self.at(path)).st_mtime), 1)
        except OSError as problem:
            self.note(path, problem)
            return None

    def immutable(self, path: str) -> Optional[bool]:
        """Tell whether a directory carries the immutable flag (lsattr's `i`)."""
        try:
            handle = os.open(self.at(path), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as problem:
            self.note(path, problem)
            return None
        try:
            raw = fcntl.ioctl(handle, FS_IOC_GETFLAGS, bytes(8))
            return bool(struct.unpack("i", raw[:4])[0] & FS_IMMUTABLE_FL)
        except OSError as problem:
            self.note("%s (file flags)" % path, problem)
            return None
        finally:
            os.close(handle)

    def program(self, name: str) -> Optional[str]:
        """Return a program's path, or None when it is not installed."""
        return next((path for path in ("%s/%s" % (where, name) for where in SEARCH)
                     if os.access(self.at(path), os.X_OK)), None)

    def command(self, *argv: str) -> Optional[Tuple[int, str, str]]:
        """Run a program and return (rc, stdout, stderr); None, noted, when it is not installed."""
        path = self.program(argv[0])
        if path is None:
            self.note(title(argv), "%s is not installed" % argv[0])
            return None
        return self._run([path] + list(argv[1:]))

    def output(self, *argv: str) -> Optional[str]:
        """Run a program and return its output; None, noted, when it is missing or fails."""
        answer = self.command(*argv)
        if answer is None:
            return None
        rc, out, err = answer
        if rc != 0:
            self.note(title(argv), "exit code %d: %s" % (rc, err or out))
            return None
        return out

    def _name(self, database: str, number: int) -> str:
        """Return the name of an id from passwd or group, or the number: local users only."""
        if database not in self._owners:
            lines = [line.split(":") for line in (self.text(database) or "").splitlines()]
            self._owners[database] = {int(f[2]): f[0] for f in reversed(lines) if len(f) > 2 and f[2].isdigit()}
        return self._owners[database].get(number, str(number))
