#!/bin/sh
# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Runs as root in a guest after provision/ was unpacked over it. Safe to run again.
set -eu
id alice >/dev/null 2>&1 || useradd --create-home --shell /bin/bash alice
install -d -m 0700 -o alice -g alice /home/alice/.ssh
install -m 0600 -o alice -g alice /srv/testbed/tunnel_key /home/alice/.ssh/tunnel_key
# A test key: the agent, another user, must be able to try with it.
chmod 0644 /srv/testbed/tunnel_key
systemctl daemon-reload
systemctl enable --quiet testbed-metadata.service
systemctl restart --no-block testbed-metadata.service
