#!/bin/sh
# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# exec.sh CAGE INNER COUNT: seconds of COUNT fork and exec of /usr/bin/true, in turns unconfined, in the cage, in both
# layers; five turns, one line each.
set -eu
cage=$1 inner=$2 count=$3
# shellcheck disable=SC2016 # for the inner shell
work='i=0; while [ $i -lt '$count' ]; do /usr/bin/true; i=$((i + 1)); done'

seconds() {
    begun=$(date +%s.%N)
    "$@" /usr/bin/dash -c "$work"
    echo "$begun $(date +%s.%N)" | awk '{ printf "%.3f ", $2 - $1 }'
}

for _ in 1 2 3 4 5; do
    seconds env
    seconds aa-exec -p "$cage" --
    seconds aa-exec -p "$cage//&$inner" --
    echo
done
