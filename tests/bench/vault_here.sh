#!/bin/bash
# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# vault_here.sh VAULT_SESSION TURNS: milliseconds of a bare gocryptfs mount, of `vault-session open` of the same vault, of the
# start of one process (env true), in turns; one line each. In a mount namespace of its own (unshare --mount), where it lays
# empty file systems over what vault-session uses, so nothing of this machine is touched.
set -euo pipefail
session=$1 turns=$2 name=bench
cipher=/var/lib/cordon/vault/$name key=/etc/cordon/vault/$name.cred

mount --make-rprivate /
for place in /mnt /srv /var/lib; do
    mount -t tmpfs -o mode=0755 none $place
done
[ ! -e /proc/swaps ] || mount --bind /dev/null /proc/swaps # who looks into this machine's swap is not installed here
mkdir -p /mnt/upper /mnt/work /mnt/bare "/srv/agents/$name/.vault" "$cipher" /var/lib/systemd
mount -t overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work none /etc
mkdir -p /etc/cordon/vault
echo "agent-$name:x:64999:64999::/srv/agents/$name:/bin/false" >> /etc/passwd

password=$(openssl rand -hex 32)
printf %s "$password" | gocryptfs -init -q -scryptn 10 -- "$cipher"
printf %s "$password" | systemd-creds --quiet encrypt --with-key=host --name="cordon-vault-$name" - "$key" 2> /dev/null

milliseconds() { # since MICROSECONDS
    echo $((($(date +%s%6N) - $1) / 1000))
}

for ((turn = 0; turn < turns; turn++)); do
    begun=$(date +%s%6N)
    printf %s "$password" | gocryptfs -q -nosyslog -ro -- "$cipher" /mnt/bare
    mounted=$(milliseconds "$begun")
    umount /mnt/bare

    begun=$(date +%s%6N)
    "$session" open $name 2> /dev/null
    opened=$(milliseconds "$begun")
    "$session" close $name

    begun=$(date +%s%6N)
    env true
    echo "$mounted $opened $(milliseconds "$begun")"
done
