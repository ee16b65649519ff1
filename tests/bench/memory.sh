#!/bin/sh
# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Print, caches dropped, the KiB of kernel memory that cannot be reclaimed (slab and vmalloc, where policy lies), and the
# bytes of our policy as compiled.
set -eu
sync
echo 3 > /proc/sys/vm/drop_caches
sleep 2
raw=$(cat /sys/kernel/security/apparmor/policy/profiles/cordon.*/raw_data 2> /dev/null | wc -c)
awk -v raw="$raw" '/^(SUnreclaim|VmallocUsed):/ { kib += $2 } END { print "kernel=" kib, "raw_data=" raw }' /proc/meminfo
