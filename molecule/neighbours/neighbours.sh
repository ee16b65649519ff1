#!/bin/sh
# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# In the guest: what an administrator runs beside agents. Addresses are those of vm/tests/world.py.
set -eu

# --- Something to protect: two servers of the host, of which everybody may reach the second.
mkdir -p /srv/listener
echo listener > /srv/listener/index.html
cat > /etc/systemd/system/listener@.service <<'UNIT'
[Unit]
Description=A server of the host on port %i
[Service]
ExecStart=/bin/busybox httpd -f -p %i -h /srv/listener
[Install]
WantedBy=multi-user.target
UNIT

# --- fail2ban: one jail bans by nftables, one by iptables.
cat > /etc/fail2ban/filter.d/neighbours.conf <<'FILTER'
[Definition]
failregex = ^refused <HOST>$
FILTER
cat > /etc/fail2ban/jail.d/neighbours.local <<'JAIL'
[DEFAULT]
backend = polling
filter = neighbours
logpath = /var/log/neighbours.log
port = 8091
bantime = 1d
[sshd]
enabled = false
[by-nftables]
enabled = true
banaction = nftables-multiport
[by-iptables]
enabled = true
banaction = iptables-multiport
JAIL
: > /var/log/neighbours.log

systemctl daemon-reload
systemctl enable --quiet --now listener@8090 listener@8091 docker fail2ban

# --- ufw. The own login first, or the next command would be the last. Its log is made rule by rule, each a slow program here.
systemctl enable --quiet ufw
ufw logging off
ufw allow 22/tcp
ufw deny from 203.0.113.66 to any port 8091 proto tcp
ufw allow 8091/tcp
ufw --force enable

# --- Docker: an image of the guest's own busybox, under the name that users pull.
root=$(mktemp -d)
mkdir "$root/bin" "$root/www"
cp /bin/busybox "$root/bin/"
for applet in grep httpd nc sh sleep wget; do ln -s busybox "$root/bin/$applet"; done
echo container > "$root/www/index.html"
tar -C "$root" -c . | docker import - busybox:latest
rm -r "$root"
# Of two networks Docker publishes by the one whose name comes first: "bridge", its own.
docker network create shared
# As the first process of a container busybox does not heed SIGTERM: without another signal each stop waits ten seconds.
docker run --detach --restart always --stop-signal KILL --name web --publish 8081:80 busybox httpd -f -p 80 -h /www
docker network connect shared web
docker run --detach --restart always --stop-signal KILL --name database --network shared busybox httpd -f -p 5432 -h /www
# An ordinary user whom an administrator lets use Docker.
usermod -aG docker alice

fail2ban-client ping
fail2ban-client set by-nftables banip 203.0.113.10
fail2ban-client set by-iptables banip 203.0.113.11
# It bans when it comes to it.
until iptables --list-rules f2b-by-iptables 2> /dev/null | grep -q 203.0.113.11 && nft list table inet f2b-table 2> /dev/null | grep -q 203.0.113.10; do
    sleep 1
done
