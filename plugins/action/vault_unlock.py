# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of the module vault_unlock: its arguments hold passwords."""

from __future__ import annotations

from ansible_collections.cordon.agent_host.plugins.plugin_utils._by_pipe import ActionModule

__all__ = ["ActionModule"]
