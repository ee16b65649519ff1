#!/usr/bin/env bash
# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Build the collection and install it from its tarball, as a user would: demo.py provisions from there.
set -euo pipefail
# shellcheck source=tests/setup/lib.sh
. "$(dirname "$0")/../setup/lib.sh"
use_core 2.19
copy_tree "$BUILD/demo/source"
rm -rf "$BUILD/demo/dist" "$BUILD/demo/collections"
ansible-galaxy collection build "$COPY" --output-path "$BUILD/demo/dist"
ansible-galaxy collection install --offline "$BUILD"/demo/dist/cordon-agent_host-*.tar.gz -p "$BUILD/demo/collections"
