#!/bin/sh
# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Turn root.tar and overlay.tar of the current directory into disk.img, vmlinuz and initrd.img.
# Runs as root, or as "root" of a user namespace: mke2fs -d reads a tree, so nothing is ever mounted.
set -eu
trap 'rm -rf root' EXIT
mkdir root
# The guest's kernel fills /dev; a user namespace could not make these nodes.
tar --numeric-owner --exclude='./dev/*' -xf root.tar -C root
tar --numeric-owner -xf overlay.tar -C root
cp -L root/vmlinuz vmlinuz
cp -L root/initrd.img initrd.img
mke2fs -q -t ext4 -L testbed -E lazy_itable_init=0,lazy_journal_init=0 -d root disk.img "$1"
