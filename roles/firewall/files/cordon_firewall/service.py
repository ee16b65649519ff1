# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""cordon-resolver.service: answer the names of the allowlist to each agent, and nothing else to anybody.

    python3 -m cordon_firewall.service [FILE]

SIGHUP reads FILE (/etc/cordon/resolver.json) again and puts what is open back into the packet filter. The latter also
happens by itself whenever the kernel tells of a new table.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Dict, List

from . import settings, table_watch
from .journal import Journal
from .listener import Listener
from .nft_sets import SetError, Sets, libnftables
from .resolver import Resolver
from .settings import Client
from .upstream import Upstream

SETTINGS = Path("/etc/cordon/resolver.json")
TICK = 5.0  # seconds; the unit's watchdog waits for six times that
EMERGENCY, NOTICE = 2, 5  # sd-daemon(3)


def say(text: str, level: int = NOTICE) -> None:
    """A line for people; those for programs are on standard output."""
    print(f"<{level}>{text}", file=sys.stderr, flush=True)


def notify(message: str) -> None:
    """Tell systemd (sd_notify(3)); nothing happens outside of it. If it does not listen, agents still want their answers."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto(message.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
        except OSError as error:
            say(f"systemd was not told {message.split()[0]}: {error}")


class Service:
    """Everybody's listeners, as the settings want them."""

    def __init__(self, path: Path, sets: Sets, journal: Journal, port: int = 53) -> None:
        self._path, self._sets, self._journal, self._port = path, sets, journal, port
        self._listeners: Dict[str, Listener] = {}  # by address
        self._changing = asyncio.Lock()

    async def start(self) -> None:
        """Raises OSError or ValueError: nobody is served."""
        await self._use(settings.read(self._path))

    async def reload(self) -> None:
        """Read the settings again. Those that cannot be used change nothing, and are told."""
        async with self._changing:
            notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            try:
                await self._use(settings.read(self._path))
            except (OSError, ValueError) as error:
                say(f"not all of the new settings are in use: {error}", EMERGENCY)
            self.put_back()
            notify("READY=1")

    async def _use(self, wanted: settings.Settings) -> None:
        ask = Upstream(wanted.servers, self._port).ask
        for address in [*self._listeners]:
            if not any(_same(client, self._listeners[address].resolver.client) for client in wanted.clients):
                self._listeners.pop(address).close()
        await asyncio.sleep(0)  # asyncio closes a socket in its next round, and another client may want the address
        for client in wanted.clients:
            listener = self._listeners.get(client.address)
            if listener is not None:
                listener.resolver.ask = ask
                listener.resolver.change(client)
                continue
            listener = Listener(Resolver(client, ask, self._sets, self._journal), self._port)
            await listener.open()
            self._listeners[client.address] = listener

    def put_back(self) -> None:
        """Each client's sets hold what is open for it; where that fails, its answers are forgotten."""
        problems: List[str] = []
        for listener in self._listeners.values():
            try:
                listener.resolver.put_back()
            except SetError as error:
                problems.append(str(error))
        if problems:
            say(f"names are not answered before the table is there again: {problems[0]}", EMERGENCY)

    def close(self) -> None:
        """Serve nobody."""
        for listener in self._listeners.values():
            listener.close()


def _same(one: Client, other: Client) -> bool:
    return (one.name, one.address, one.set) == (other.name, other.address, other.set)


async def serve(path: Path) -> None:
    """Until SIGTERM."""
    loop, journal, sets = asyncio.get_running_loop(), Journal(), Sets(libnftables())
    service, ended = Service(path, sets, journal), asyncio.Event()
    await service.start()
    watch = table_watch.listen()
    loop.add_reader(watch, lambda: service.put_back() if table_watch.changed(watch) else None)
    reloads: List[asyncio.Task[None]] = []
    loop.add_signal_handler(signal.SIGHUP, lambda: reloads.append(asyncio.ensure_future(service.reload())))
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    notify("READY=1")
    while not ended.is_set():
        try:
            await asyncio.wait_for(ended.wait(), TICK)
        except asyncio.TimeoutError:
            pass
        journal.due(time.monotonic())
        sets.forget_old(time.monotonic())
        reloads[:] = [task for task in reloads if not task.done()]
        notify("WATCHDOG=1")
    service.close()
    journal.due(time.monotonic(), at_once=True)


def main(arguments: List[str]) -> int:
    """Serve; 1 where that cannot be done."""
    try:
        asyncio.run(serve(Path(arguments[0]) if arguments else SETTINGS))
    except (ImportError, OSError, ValueError) as error:
        say(f"cannot resolve names: {error}. Run the role firewall of cordon.agent_host again", EMERGENCY)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
