# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private: small acts on root's own files, each on disk when it returns, so that their order is kept by a power loss."""

from __future__ import annotations

import os

from . import _files


def read(path: str) -> str:
    """Return the text of a file of root's."""
    parent = _files.open_parent(path)
    try:
        found = _files.observe(parent, os.path.basename(path))
    finally:
        os.close(parent)
    if found.text is None or found.kind != "file":
        raise FileNotFoundError(2, "no such file", path)
    return found.text


def write(path: str, text: str) -> None:
    """Write a file for root alone, on disk before it is visible."""
    parent = _files.open_parent(path)
    try:
        _files.write_file(parent, os.path.basename(path), _files.Entry("file", 0o600, 0, 0, text))
    except OSError as problem:  # of a full disk it does not say which
        raise OSError(problem.errno, problem.strerror, path) from problem
    finally:
        os.close(parent)


def private_directory(path: str) -> None:
    """Make a directory for root alone."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    parent = _files.open_parent(path)
    try:
        _files.make_directory(parent, os.path.basename(path), _files.Entry("directory", 0o700, 0, 0))
        os.fsync(parent)
    finally:
        os.close(parent)


def rename(source: str, target: str) -> None:
    """Give a file or directory another name, and put both directories on disk."""
    parents = [_files.open_parent(path) for path in (source, target)]
    try:
        names = [os.path.basename(path) for path in (source, target)]
        os.rename(names[0], names[1], src_dir_fd=parents[0], dst_dir_fd=parents[1])
        for parent in reversed(parents):
            os.fsync(parent)
    except OSError as problem:
        raise OSError(problem.errno, problem.strerror, source, None, target) from problem
    finally:
        for parent in parents:
            os.close(parent)


def remove(path: str) -> None:
    """Remove a file or a directory with all that is in it, if it is there."""
    if not os.path.lexists(path):
        return
    parent = _files.open_parent(path)
    try:
        _files.remove(parent, os.path.basename(path))
        os.fsync(parent)
    finally:
        os.close(parent)
