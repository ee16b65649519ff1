# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs in the guest, as an agent and as an ordinary user: try each way to another program, and say what came of it.

Prints {way: outcome}: the label that the program saw of itself, or why it did not run. test_ways_in.py judges.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import json
import os
import shutil
import subprocess
import tempfile

LABEL = "/proc/self/attr/current"
CAT = "/usr/bin/cat"
LOADER = "/lib64/ld-linux-x86-64.so.2"
# Not granted to the agent of the test, and prints its version to anybody.
FOREIGN = "/usr/bin/unshare"
CLONE_NEWUSER, CLONE_NEWNS, PTRACE_ATTACH = 0x10000000, 0x00020000, 16
libc = ctypes.CDLL(None, use_errno=True)


def run(*argv, **options):
    """What a program printed, or the name of the error that its start ended with."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL, **options)
    except OSError as error:
        return errno.errorcode[error.errno]
    return done.stdout.strip() or f"exit {done.returncode}: {done.stderr.strip()[-120:]}"


def call(function, *arguments):
    """The same of a system call, made by a child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        failed = function(*arguments) != 0
        os.write(writer, errno.errorcode[ctypes.get_errno()].encode() if failed else b"done")
        os._exit(0)
    os.waitpid(child, 0)
    return os.read(reader, 100).decode()


def executable(path, text):
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, 0o755)


def memory_file():
    handle = os.memfd_create("way")
    with open(CAT, "rb") as source:
        os.write(handle, source.read())
    return run(f"/proc/self/fd/{handle}", LABEL, pass_fds=[handle])


def preloaded():
    """The label, once it is sure that the planted library was mapped."""
    shutil.copy(glob.glob("/lib/x86_64-linux-gnu/libutil.so.1")[0], "planted.so")
    lines = run(CAT, "/proc/self/maps", LABEL, env={"LD_PRELOAD": os.path.abspath("planted.so")}).splitlines()
    return lines[-1] if any("planted.so" in line for line in lines) else "the library was not mapped"


def attach():
    target = subprocess.Popen(["/usr/bin/sleep", "20"])
    try:
        return call(libc.ptrace, PTRACE_ATTACH, target.pid, None, None)
    finally:
        target.kill()


def setuid_programs():
    """Every program with another owner's rights that files let this user start: outcome by path."""
    listed = subprocess.run(["find", "/usr", "-xdev", "-perm", "/6000", "-type", "f"], capture_output=True, text=True)
    programs = [path for path in listed.stdout.split() if os.access(path, os.X_OK, effective_ids=True)]
    return {f"setuid {path}": "ran" if (seen := run(path, "--help")) not in ("EACCES", "EPERM") else seen for path in programs}


def ways():
    executable("script", f"#!/bin/sh\ncat {LABEL}\n")
    shutil.copy(CAT, "copied")
    os.link("copied", "hard")
    os.symlink(CAT, "soft")
    os.symlink(FOREIGN, "soft-foreign")
    shutil.copy(LOADER, "loader")
    os.chmod("loader", 0o755)
    return {
        "interpreter with a script": run("sh", "script"),
        "script": run("./script"),
        "copied binary": run("./copied", LABEL),
        "hard link": run("./hard", LABEL),
        "symbolic link": run("./soft", LABEL),
        "copied loader": run("./loader", CAT, LABEL),
        "preloaded library": preloaded(),
        "path through /proc/self/root": run(f"/proc/self/root{CAT}", LABEL),
        "dynamic loader": run(LOADER, CAT, LABEL),
        "file in memory": memory_file(),
        "symbolic link to what is not granted": run("./soft-foreign", "--version"),
        "/proc/self/root to what is not granted": run(f"/proc/self/root{FOREIGN}", "--version"),
        "bind mount in a user namespace": run(FOREIGN, "-Urm", "sh", "-c", f"mount --bind {CAT} script && ./script {LABEL}"),
        "user namespace by the system call": call(libc.unshare, CLONE_NEWUSER | CLONE_NEWNS),
        "ptrace": attach(),
        "aa-exec": run("/usr/bin/aa-exec", "-p", "unconfined", CAT, LABEL),
        **setuid_programs(),
    }


if __name__ == "__main__":
    home = os.path.expanduser("~/workspace")
    os.chdir(tempfile.mkdtemp(dir=home if os.path.isdir(home) else os.path.expanduser("~")))
    print(json.dumps(ways()))
