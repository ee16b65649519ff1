#!/bin/sh
# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Load every profile of ours by a parser of its own, as a loop of tasks or handlers would, compiling each anew.
set -eu
for file in /etc/apparmor.d/cordon.*; do
    apparmor_parser --replace --write-cache --skip-read-cache "$file"
done
