# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest's image is made of. Pure: everything that decides the image's content is in the recipe's key."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

# A booted Debian that Ansible can enter. iproute2, procps and netbase are what every server install has.
BASE = (
    "systemd", "systemd-sysv", "udev", "dbus", "libpam-systemd", "linux-image-cloud-amd64", "initramfs-tools",
    "lz4", "kmod", "iproute2", "iputils-ping", "netbase", "procps", "openssh-server", "openssh-client",
    "python3", "python3-apt", "sudo", "ca-certificates", "curl", "apt-utils", "cron", "at", "logrotate",
)
# What the roles install. With these in the image a converge does not wait for apt; TESTBED_PACKAGES=minimal
# leaves them out, so that the roles' own installing is exercised.
ROLES = (
    "acl", "apparmor", "apparmor-utils", "auditd", "nftables", "gocryptfs", "fuse3", "tpm2-tools",
    "python3-jmespath", "python3-audit", "git", "python3-venv",
)
# Every package of the tool catalogue (a unit test compares), for the workloads: TESTBED_PACKAGES=tools.
TOOLS = (
    "bash", "bc", "bind9-dnsutils", "bubblewrap", "bzip2", "ca-certificates", "cargo", "cmake", "coreutils", "curl", "dash",
    "default-jdk-headless", "default-mysql-client", "diffutils", "ed", "fd-find", "file", "findutils", "g++",
    "gcc", "git", "git-lfs", "gnupg", "golang-go", "grep", "groff-base", "gzip", "jq", "less", "libc6-dev",
    "libxml2-utils", "make", "man-db", "mawk", "nano", "ninja-build", "nodejs", "npm", "openssh-client", "openssl",
    "patch", "perl", "php-cli", "pkg-config", "postgresql-client", "procps", "python3", "python3-pip",
    "python3-venv", "redis-tools", "ripgrep", "rsync", "ruby", "rustc", "sed", "shellcheck", "sqlite3", "tar",
    "time", "tree", "universal-ctags", "unzip", "util-linux", "vim", "wget", "xxd", "xz-utils", "zip",
    "zstd",
)
# What the workloads meet beside the tools: a database server, and the sources of locales and time zones.
SERVERS = ("postgresql", "locales", "tzdata", "manpages", "redis-server")
# What administrators run beside agents, and what agents' names need: TESTBED_PACKAGES=neighbours.
NEIGHBOURS = (
    "docker.io", "busybox-static", "ufw", "firewalld", "fail2ban", "python3-systemd", "iptables",
    "squid-openssl", "python3-dnspython", "python3-nftables", "openssl",
)
# None of them acts before somebody wants it to: who runs ufw does not run firewalld.
ASLEEP = {
    "docker.io": ("docker.service", "docker.socket", "containerd.service"), "ufw": ("ufw.service",),
    "firewalld": ("firewalld.service",), "fail2ban": ("fail2ban.service",), "squid-openssl": ("squid.service",),
}
# Under emulation each of these costs seconds of a boot, or takes apt's lock behind a test's back.
MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
    "e2scrub_reap.service", "fstrim.timer", "getty@tty1.service", "serial-getty@ttyS0.service",
    "systemd-networkd-wait-online.service", "systemd-pstore.service", "systemd-binfmt.service",
    "systemd-machine-id-commit.service", "systemd-firstboot.service",
)
ENABLED = ("systemd-networkd.service", "ssh.service")


@dataclass(frozen=True)
class Recipe:
    """A guest image: the suite, apt source lines, packages, disk size in GB, and digest of the files laid over it."""

    suite: str
    sources: tuple[str, ...]
    packages: tuple[str, ...]
    overlay: str
    script: str
    disk_gigabytes: int = 8

    def key(self) -> str:
        """Name of the image in the cache: changes whenever the image would."""
        # Only where there are such packages: the other images keep their names.
        text = json.dumps([self.__dict__, MASKED, ENABLED, *asleep(self)], sort_keys=True)
        return f"{self.suite}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def packages(kind: str) -> tuple[str, ...]:
    """Packages of an image kind (settings.PACKAGE_SETS); each once, though tools repeat some of the roles'."""
    kinds = {
        "minimal": BASE, "full": BASE + ROLES, "tools": BASE + ROLES + TOOLS + SERVERS, "neighbours": BASE + ROLES + NEIGHBOURS,
    }
    return tuple(dict.fromkeys(kinds[kind]))


def asleep(recipe: Recipe) -> list[str]:
    """The units of the recipe's packages that do not start by themselves, though their package enables them."""
    return [unit for package, units in ASLEEP.items() if package in recipe.packages for unit in units]


def mmdebstrap(recipe: Recipe, overlay: str, target: str) -> list[str]:
    """Command that makes the root file system as a tar file.

    The overlay goes in before the kernel's package, whose hook builds the initrd by the overlay's configuration.
    """
    units = " ".join(ENABLED)
    masks = " ".join(MASKED)
    disabled = " ".join(asleep(recipe))
    sleep = [f"--customize-hook=chroot \"$1\" systemctl --quiet disable {disabled}"] if disabled else []
    return [
        "mmdebstrap", "--variant=minbase", "--format=tar", f"--include={','.join(recipe.packages)}",
        "--aptopt=Apt::Install-Recommends \"false\"", "--aptopt=Acquire::Retries \"3\"",
        f"--essential-hook=tar-in {overlay} /",
        f"--customize-hook=chroot \"$1\" systemctl --quiet enable {units}",
        f"--customize-hook=chroot \"$1\" systemctl --quiet mask {masks}",
        *sleep,
        "--customize-hook=chroot \"$1\" useradd --create-home --shell /bin/bash alice",
        recipe.suite, target, *recipe.sources,
    ]
