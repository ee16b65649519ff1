# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of one agent's vault: open only while the agent works, and nothing left when it is closed.

    mounted      bool|null: null also where there is no mount point, so that no vault does not pass
                 for a closed one
    mount        {source, type, options: [str]}|null: as the kernel mounted it
    mount_point  {immutable, empty}|null: the bare directory, empty but for notices; null while something is mounted
                 over it
    cipher       metadata of the encrypted directory | null
    sealed_key   metadata of the sealed key | null: a vault that an operator unlocks has none
    unlock       sealed or operator: who opens it, as the manifest says
    locked       true while it is closed and an operator must open it
    loose        [str]|null: what others could read of the encrypted directory and its sealed keys, a key that
                 is missing, and one that should not be there
    swappable    [str]|null: units whose memory could be swapped out to a disk in the clear
    mount_faults [str]|null: what is wrong with the mount; [] while closed
    closed_faults  [str]|null: what would let plaintext onto the disk while closed; [] while open
    secrets      [{name, owner, mode}]|null: the plaintext names while open
    faults       [str]|null: secrets that are missing, not the agent's, or open to others;
                 [] while closed: there is nothing to read
    residue      [str]|null: keys in the clear that should be gone
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Mapping, Optional, Sequence

from . import _facts_memory, _mountinfo
from ._facts_source import Source
from ._manifest_values import OWN

SOURCE = "cordon-vault-%s"
OPTIONS = ("noexec", "nosuid", "nodev")
MOUNTS = "/proc/self/mountinfo"
CIPHER = "/var/lib/cordon/vault/%s"
KEY = "/etc/cordon/vault/%s.cred"
# The control groups that hold a vault's gocryptfs, and all processes of its agent (systemd escapes a dash as \x2d).
GROUPS = {"the vault": "/sys/fs/cgroup/system.slice/system-cordon\\x2dvault.slice/cordon-vault@%s.service",
          "the agent": "/sys/fs/cgroup/cordon.slice/cordon-%s.slice"}
# What a secret is called while it is written (_files.write_file); no secret of a manifest begins with a dot.
UNFINISHED = r"\..+\.[0-9a-f]{12}"
# Where systemd puts a running service's decrypted credentials (systemd.exec(5)).
CREDENTIALS = "/run/credentials"


def read(source: Source, entry: Mapping[str, Any], preflight: bool,
         areas: Optional[Sequence[_facts_memory.Swap]] = ()) -> Dict[str, Any]:
    """Return the facts of this module (shape: module docstring). areas: the host's swap, as _facts_memory has it."""
    name, top = entry["name"], entry["home"] + "/.vault"
    text = source.text(MOUNTS)
    mount = None if text is None else _mountinfo.at(text, top)
    # No vault was ever made here: nothing may then pass for a closed one.
    mounted = None if text is None or not source.exists(top) else mount is not None
    secrets = _secrets(source, top) if mounted else None
    bare = _mount_point(source, top) if mounted is False else None
    unlock = (entry.get("vault") or {}).get("unlock", "sealed")
    facts: Dict[str, Any] = {
        "mounted": mounted,
        "unlock": unlock,
        "locked": None if mounted is None else unlock == "operator" and not mounted,
        "swappable": _swappable(source, name, mounted, areas),
        "mount": {"source": mount.source, "type": mount.type, "options": mount.options} if mount else None,
        "mount_faults": mount_faults(mount, name, _writable(entry)) if mount else ([] if mounted is False else None),
        "mount_point": bare,
        "closed_faults": closed_faults(bare) if mounted is False else ([] if mounted else None),
        "secrets": secrets,
        "faults": faults(secrets, entry) if mounted else ([] if mounted is False else None),
    }
    if not preflight:
        cipher = source.metadata(CIPHER % name)
        keys = {path: source.metadata(path) for path in (KEY % name, KEY % name + ".next") if source.exists(path)}
        facts.update(cipher=cipher, sealed_key=keys.get(KEY % name), loose=loose(cipher, keys, unlock, KEY % name),
                     residue=None if mounted is None else _residue(source, name, mounted))
    return facts


def _writable(entry: Mapping[str, Any]) -> bool:
    return bool(entry.get("vault", {}).get("writable"))


def mount_faults(mount: _mountinfo.Mount, agent: str, writable: bool = False) -> List[str]:
    """Say what is wrong with the mount that lies over an agent's mount point."""
    options = OPTIONS if writable else (*OPTIONS, "ro")
    found = []
    if mount.source != SOURCE % agent:
        found.append("the source is %s, not %s" % (mount.source, SOURCE % agent))
    if mount.type != "fuse.gocryptfs":
        found.append("the type is %s, not fuse.gocryptfs" % mount.type)
    return found + ["option %s is missing" % option for option in options if option not in mount.options]


def closed_faults(bare: Optional[Mapping[str, Optional[bool]]]) -> Optional[List[str]]:
    """Say what lets plaintext reach the disk under a closed vault: a write there would be in the clear."""
    if bare is None or None in bare.values():
        return None
    found = [] if bare["immutable"] else ["the mount point is not immutable: a write while closed lands in the clear"]
    return found + ([] if bare["empty"] else ["files lie in the clear under the mount point"])


def loose(cipher: Optional[Mapping[str, Any]], keys: Mapping[str, Optional[Mapping[str, Any]]], unlock: str,
          key: str) -> Optional[List[str]]:
    """Say what of an encrypted directory and its sealed keys (metadata by path) is not root's alone, missing or too much."""
    seen = [cipher] + list(keys.values())
    if None in seen:
        return None
    found = ["%s: belongs to %s, mode %s" % (one["path"], one["owner"], one["mode"]) for one in seen if one is not None
             and (one["uid"], one["mode"]) != (0, "0700" if one is cipher else "0600")]
    if unlock == "operator":
        return found + ["%s: a sealed key, though an operator unlocks this vault" % path for path in keys]
    return found + ([] if key in keys else ["%s: missing" % key])


def faults(secrets: Optional[List[Dict[str, Any]]], entry: Mapping[str, Any]) -> Optional[List[str]]:
    """Name each secret of the manifest that is missing, and each one that others could read or replace.

    One with a broker is the proxy's and never lies in a vault.
    """
    if secrets is None:
        return None
    present = {secret["name"] for secret in secrets}
    found = ["%s: missing" % secret["name"] for secret in entry["secrets"]
             if not secret.get("broker") and secret["name"] not in present]
    for secret in secrets:
        if secret["owner"] != entry["user"]:
            found.append("%s: belongs to %s" % (secret["name"], secret["owner"]))
        if int(secret["mode"], 8) & 0o377:
            found.append("%s: mode %s, not 0400" % (secret["name"], secret["mode"]))
    return sorted(found)


def _secrets(source: Source, top: str) -> Optional[List[Dict[str, Any]]]:
    names = source.names(top)
    # OWN is the agent's directory, and no secret.
    found = [source.metadata(top + "/" + name) for name in names or [] if name != OWN and not re.fullmatch(UNFINISHED, name)]
    if names is None or None in found:
        return None
    return [{"name": item["path"].rpartition("/")[2], "owner": item["owner"], "mode": item["mode"]}
            for item in found if item is not None]


def _mount_point(source: Source, top: str) -> Dict[str, Any]:
    names = source.names(top)
    # The notices for who reads a secret while the vault is closed are links that lead nowhere (_vault_notice).
    left = None if names is None else [name for name in names if source.link(top + "/" + name) is None]
    return {"immutable": source.immutable(top), "empty": None if left is None else not left}


def _swappable(source: Source, agent: str, mounted: Optional[bool],
               areas: Optional[Sequence[_facts_memory.Swap]]) -> Optional[List[str]]:
    """Where swap lies in the clear, only the kernel's own limit on a unit keeps its memory out of it."""
    if mounted is None:
        return None
    if not _facts_memory.in_the_clear(None if areas is None else list(areas)):
        return []
    found = []
    for what, group in GROUPS.items():
        path = group % agent
        # Nothing of a closed vault runs; an open one that runs elsewhere is bounded by nothing.
        there = source.exists(path)
        if (there and source.word(path + "/memory.swap.max") != "0") or (mounted and not there):
            found.append("%s: no memory.swap.max of 0 in %s" % (what, path))
    return found


def _residue(source: Source, agent: str, mounted: bool) -> Optional[List[str]]:
    """A credential directory is rightly there while the vault is open; a key in /dev/shm never is."""
    found: List[str] = []
    places = ((CREDENTIALS, r"cordon-vault@%s\.service" % agent), ("/dev/shm", r".*(cordon|vault|gocryptfs).*"))
    for top, pattern in places:
        names = source.names(top) if source.exists(top) else []
        if names is None:
            return None
        if not (mounted and top == CREDENTIALS):
            found += ["%s/%s" % (top, name) for name in names if re.fullmatch(pattern, name)]
    return found
