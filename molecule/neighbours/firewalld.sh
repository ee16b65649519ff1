#!/bin/sh
# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# In the guest: firewalld takes the place of ufw and guards the same.
set -eu
ufw disable
systemctl disable --quiet ufw
# Without its daemon, so that nothing is cut off before it is allowed. ssh is open in its zone "public" as it is installed.
firewall-offline-cmd --add-port=8091/tcp
firewall-offline-cmd --add-rich-rule='rule family=ipv4 source address=203.0.113.66 port port=8091 protocol=tcp reject'
# firewalld has its name on the bus, and so counts as started, before it empties what iptables has (its server.py). A ban that
# fail2ban restores in between is gone: without this, one boot in some is not as the one before, whether we are there or not.
mkdir -p /etc/systemd/system/fail2ban.service.d
cat > /etc/systemd/system/fail2ban.service.d/firewalld.conf <<'UNIT'
[Service]
ExecStartPre=/bin/sh -c 'until firewall-cmd --quiet --state; do sleep 1; done'
UNIT
systemctl daemon-reload
systemctl enable --quiet --now firewalld
# Docker asks at its start whether firewalld is there; fail2ban's rules go with what firewalld empties.
systemctl restart docker fail2ban
