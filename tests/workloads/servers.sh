#!/bin/bash
# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Set up what the agents meet on the guest: the forge (ssh and https), PostgreSQL, Redis, and the agents' own programs.
# Run in the directory where guest.tar was unpacked. A second run changes nothing.
# shellcheck disable=SC2154 # the settings come from prepare.py
set -euo pipefail
# shellcheck source=/dev/null
. ./settings
here=$PWD

# the addresses that the sample manifest names
for address in 203.0.113.10 203.0.113.11 203.0.113.20 203.0.113.22; do
    ip address replace "$address/32" dev lo
done

mkdir -p /opt/agents
cp -r agents/. /opt/agents/
chown -R root:root .
chmod -R go+rX packages /opt/agents
cp ca.crt /usr/local/share/ca-certificates/workloads.crt
update-ca-certificates --fresh > /dev/null
# It exits with 1 for warnings too: what counts is that the locale is there.
localedef -i de_DE -f UTF-8 de_DE.UTF-8 2> /dev/null || locale -a | grep -qi "^de_DE.utf-\?8$"

# git over ssh: a user that may do nothing else
id git > /dev/null 2>&1 || useradd --system --home-dir /srv/git --create-home --shell /usr/bin/git-shell git
install -d -o git -g git -m 700 /srv/git/.ssh
printf '%s\n' "$workloads_deploy_key" > /srv/git/.ssh/authorized_keys
chown git:git /srv/git/.ssh/authorized_keys
as_git() { runuser -u git -- env -C /srv/git HOME=/srv/git "$@"; }
if [ ! -d /srv/git/project.git ]; then
    as_git git init -q --bare -b main /srv/git/project.git
    as_git git -C /srv/git/project.git config http.receivepack true
    as_git git clone -q /srv/git/project.git /srv/git/seed 2> /dev/null
    as_git sh -c 'cd seed && git checkout -q -b main && printf "one\ntwo\n" > numbers && git add numbers &&
        git -c user.name=seed -c user.email=seed@example.net commit -qm "Begin" && git push -q origin main'
fi
printf '203.0.113.10 %s\n' "$(cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub)" > /etc/ssh/ssh_known_hosts

# the forge over https
chown git server.key
systemctl is-active --quiet forge || systemd-run --quiet --unit=forge --uid=git --working-directory="$here" \
    --property=AmbientCapabilities=CAP_NET_BIND_SERVICE \
    /usr/bin/python3 -I forge.py server.crt server.key "$workloads_token" /srv/git "$here/packages" 203.0.113.10 203.0.113.11

# PostgreSQL: one database, by password only
cluster=$(ls /etc/postgresql)
sed -i "s/^#\?listen_addresses.*/listen_addresses = '203.0.113.20'/" "/etc/postgresql/$cluster/main/postgresql.conf"
grep -q '^host sales' "/etc/postgresql/$cluster/main/pg_hba.conf" ||
    echo 'host sales analyst samehost scram-sha-256' >> "/etc/postgresql/$cluster/main/pg_hba.conf"
systemctl restart "postgresql@$cluster-main"
as_postgres() { runuser -u postgres -- env -C / psql -qtA "$@"; }
[ -n "$(as_postgres -c "select 1 from pg_roles where rolname = 'analyst'")" ] || as_postgres -c "create role analyst login"
as_postgres -c "alter role analyst password '$workloads_password'"
[ -n "$(as_postgres -c "select 1 from pg_database where datname = 'sales'")" ] || as_postgres -c "create database sales owner analyst"

# Redis, for everybody who reaches its address
systemctl stop redis-server
systemctl is-active --quiet workloads-redis || systemd-run --quiet --unit=workloads-redis --uid=redis \
    /usr/bin/redis-server --bind 203.0.113.22 --protected-mode no --save '' --dir /tmp
