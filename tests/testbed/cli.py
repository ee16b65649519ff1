# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands behind `make vm`, `make vm-down`, `make vm-reboot` and `make vm-ssh`."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed import access, guest, image, kvm, provision, run, services, settings, signals, tpm
from testbed.files import need_space, remove_own
from testbed.settings import Settings
from testbed.show import Failure, Interrupted, complain, say, step

GUEST_MEGABYTES = 1000
# All that a test bed makes in its directory.
OWN = (".lock", "agenthost-*", "cm", "keys", "services", "services.json", "*.jsonl", "inventory.yml", "ssh_config")
PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86", "qemu-img": "qemu-utils",
    "ssh": "openssh-client", "ssh-keygen": "openssh-client",
}


@contextmanager
def _locked(chosen: Settings) -> Iterator[None]:
    """One command at a time on a test bed's directory."""
    chosen.directory.mkdir(parents=True, exist_ok=True)
    with (chosen.directory / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure(f"another command is at work on {chosen.directory}; wait for it to end") from None
        yield


def _boot(chosen: Settings, guests: list[guest.Guest], public_key: str) -> None:
    """Boot the guests together. Whatever ends this early ends those that it started."""
    source = image.obtain(chosen)
    accelerator = kvm.choose(chosen, source)
    need_space(chosen.directory, GUEST_MEGABYTES * len(guests), "running the guests")
    begun = time.monotonic()
    try:
        with step(f"boot {', '.join(each.name for each in guests)}"):
            for each in guests:
                guest.start(each, source, chosen, accelerator, public_key)
            for each in guests:
                guest.wait(each, begun, chosen.boot_timeout)
        _write_access(chosen)
        with step("set the guests up"):
            for each in guests:
                provision.give(each, chosen.directory)
    except BaseException:
        for each in guests:
            guest.discard(each)
        raise


def _key(chosen: Settings) -> Path:
    return chosen.directory / "keys" / "root"


def _write_access(chosen: Settings) -> list[str]:
    """Write ssh_config and inventory.yml of all running guests, and return their names."""
    ports = {each.name: each.port for each in guest.found(chosen.directory) if guest.running(each)}
    access.write(chosen.directory, ports, _key(chosen))
    return sorted(ports)


def up(chosen: Settings) -> None:
    """Bring up what is not up yet, and write how to reach it."""
    run.need_programs(PROGRAMS | services.PACKAGES | (tpm.PACKAGES if chosen.tpm != "0" else {}))
    with _locked(chosen):
        public_key = access.make_key(_key(chosen), "cordon test bed")
        absent = [each for each in guest.all_of(chosen) if not guest.running(each)]
        try:
            services.start(chosen.directory)
            if absent:
                _boot(chosen, absent, public_key)
        except BaseException:
            _leave_nothing(chosen)
            raise
        names = _write_access(chosen)
    say(f"testbed: {', '.join(names)} {'running' if absent else 'already running'} ({chosen.directory})")


def _leave_nothing(chosen: Settings) -> None:
    """After a failed start: keep the guests that ran before, and the services for them; without any, nothing."""
    if any(guest.running(each) for each in guest.found(chosen.directory)):
        _write_access(chosen)
    else:
        services.stop(chosen.directory)
        remove_own(chosen.directory, OWN)


def down(chosen: Settings) -> None:
    """End the guests of this directory and remove it."""
    if not chosen.directory.is_dir():
        say(f"testbed: nothing to end in {chosen.directory}")
        return
    with _locked(chosen):
        for each in guest.found(chosen.directory):
            say(f"testbed: {each.name} {'ended' if guest.stop(each) else 'was not running'}")
        services.stop(chosen.directory)
        remove_own(chosen.directory, OWN)


def reboot(chosen: Settings, words: str) -> None:
    """Power the guests off and boot them again from their disks, with these words for their kernels, TESTBED_TPM=other
    with another TPM."""
    config = chosen.directory / "ssh_config"
    with _locked(chosen):
        guests = [each for each in guest.found(chosen.directory) if guest.running(each)]
        if not guests:
            raise Failure(f"no test bed runs in {chosen.directory}; start one with `make vm`")
        for each in guests:
            guest.power_off(each, config)
        begun = time.monotonic()
        for each in guests:
            guest.boot_again(each, words, chosen.tpm)
        for each in guests:
            guest.wait(each, begun, chosen.boot_timeout)


def ssh(chosen: Settings, words: list[str]) -> None:
    """Become ssh into a guest: `ssh [agenthost-N] [command]`."""
    name = words[0] if words else "agenthost-1"
    config = chosen.directory / "ssh_config"
    if not config.exists():
        raise Failure(f"no test bed runs in {chosen.directory}; start one with `make vm`")
    os.execvp("ssh", ["ssh", "-F", str(config), name, *words[1:]])


def main(words: list[str]) -> int:
    """Exit status: 0 done, 1 failed, 2 bad usage, 130 interrupted."""
    signals.catch()
    commands = {"up": up, "down": down}
    try:
        chosen = settings.read()
        if words[:1] == ["ssh"]:
            ssh(chosen, words[1:])
        elif words[:1] == ["reboot"]:
            reboot(chosen, " ".join(words[1:]))
        elif len(words) == 1 and words[0] in commands:
            commands[words[0]](chosen)
        else:
            print("usage: python3 -m testbed up | down | reboot [KERNEL WORDS...] | ssh [HOST [COMMAND...]]", file=sys.stderr)
            return 2
        return 0
    except Failure as failure:
        complain(str(failure))
        return 1
    except OSError as error:
        complain(f"{error.filename or chosen.directory}: {error.strerror}")
        return 1
    except Interrupted as interruption:
        complain(f"interrupted ({interruption}); what this command had started is stopped and removed")
        return 130
