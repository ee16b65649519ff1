#!/bin/bash
# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# vault_guest.sh AGENT TURNS: milliseconds of a bare gocryptfs mount, of the vault's unit until it is active, of the start of one
# process (env true), in turns; one line each.
set -euo pipefail
name=$1 turns=$2
vault=cordon-vault@$name.service cipher=/var/lib/cordon/vault/$name
bare=$(mktemp -d)
trap 'umount -q "$bare" || :; rmdir "$bare"' EXIT
key=$(systemd-creds decrypt --name="cordon-vault-$name" "/etc/cordon/vault/$name.cred" -)

milliseconds() { # since MICROSECONDS
    echo $((($(date +%s%6N) - $1) / 1000))
}

for ((turn = 0; turn < turns; turn++)); do
    begun=$(date +%s%6N)
    printf %s "$key" | gocryptfs -q -nosyslog -ro -- "$cipher" "$bare"
    mounted=$(milliseconds "$begun")
    umount "$bare"

    # systemd's own clock, asked while the unit is open: it is forgotten with the unit.
    times=$(systemd-run --quiet --wait --pipe --property=BindsTo="$vault" --property=After="$vault" \
        systemctl show --property=InactiveExitTimestampMonotonic,ActiveEnterTimestampMonotonic "$vault")
    opened=$(awk -F= '{ time[$1] = $2 }
        END { printf "%d", (time["ActiveEnterTimestampMonotonic"] - time["InactiveExitTimestampMonotonic"]) / 1000 }' <<< "$times")
    while systemctl --quiet is-active "$vault"; do sleep 0.1; done

    begun=$(date +%s%6N)
    env true
    echo "$mounted $opened $(milliseconds "$begun")"
done
