# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the collection's code importable the way it runs, without installing it.

- ``ansible_collections.cordon.agent_host.plugins...`` goes through ansible-core's own
  collection loader, as in a play (and as in ansible-test's pytest plugin).
- ``cordon`` is the package that the roles install as ``/usr/lib/cordon/cordon``: on a host it is
  the files of ``roles/*/files/cordon`` beside copies of ``plugins/module_utils``; here it is one
  package that looks into the same directories.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder

REPOSITORY = Path(__file__).resolve().parents[2]


def collection_root() -> Path:
    """A search path that holds this tree as ``ansible_collections/cordon/agent_host``."""
    if REPOSITORY.parts[-3:-1] == ("ansible_collections", "cordon"):
        return REPOSITORY.parents[2]
    root = REPOSITORY / "build" / "dev"
    link = root / "ansible_collections" / "cordon" / "agent_host"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(REPOSITORY, target_is_directory=True)
    return root


def install_host_package() -> None:
    """Register ``cordon`` as one package spread over the directories that the roles copy together."""
    places = [str(path) for path in sorted(REPOSITORY.glob("roles/*/files/cordon"))]
    places.append(str(REPOSITORY / "plugins" / "module_utils"))
    spec = importlib.machinery.ModuleSpec("cordon", None, is_package=True)
    spec.submodule_search_locations = places
    sys.modules["cordon"] = importlib.util.module_from_spec(spec)


_AnsibleCollectionFinder(paths=[str(collection_root())])._install()
install_host_package()
