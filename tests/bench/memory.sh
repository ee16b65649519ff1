#!/bin/sh
# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Print the kernel's memory in KiB, caches dropped: free, unreclaimable slab, vmalloc; and the bytes of our policy.
set -eu
sync
echo 3 > /proc/sys/vm/drop_caches
sleep 2
raw=$(cat /sys/kernel/security/apparmor/policy/profiles/cordon.*/raw_data 2> /dev/null | wc -c)
awk -v raw="$raw" '/^(MemFree|SUnreclaim|VmallocUsed):/ { sub(":", "", $1); printf "%s=%s ", $1, $2 }
    END { printf "raw_data=%s\n", raw }' /proc/meminfo
