# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. What a filter over a resolved manifest says when it cannot do its work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ansible.errors import AnsibleFilterError

from ansible_collections.cordon.agent_host.plugins.plugin_utils._catalogue import CatalogueError


@contextmanager
def filter_errors(name: str) -> Iterator[None]:
    """Turn what the filter `name` meets into an AnsibleFilterError.

    A key or a shape that is missing means that the manifest was not resolved; a ValueError is a refusal in words.
    """
    try:
        yield
    except (KeyError, TypeError) as error:
        raise AnsibleFilterError(f"{name}: {error!r}: pass the manifest through cordon.agent_host.agents first") from error
    except (ValueError, CatalogueError) as error:
        raise AnsibleFilterError(f"{name}: {error}") from error
