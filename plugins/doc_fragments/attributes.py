# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attributes that every module of the collection promises unless it says otherwise."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation of check mode, diff mode and platform, written once.

    A module that supports less overrides the key in its own ``attributes``.
    """

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return the changed status prediction without modifying the target.
    support: full
  diff_mode:
    description: Returns details on what has changed (or what would change in C(check_mode)) in diff mode.
    support: full
  platform:
    description: Target operating systems that the module is written for.
    platforms: Debian, Ubuntu
    support: full
"""
