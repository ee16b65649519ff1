# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The resolver of the agents: it answers names of the allowlist only, and opens the firewall for what it answered.

service.py runs it; listener.py takes questions, resolver.py answers them. Of the rest each file has one idea.
Python 3.8 or later, python3-dnspython 2.1 or later, python3-nftables.
"""
