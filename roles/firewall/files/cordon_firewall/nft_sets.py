# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sets of the packet filter that hold what was answered: named4_NAME and named6_NAME of table inet cordon.

libnftables is asked in this process: a transaction takes about 0.1 ms, starting nft(8) would take twenty times that.
"""

from __future__ import annotations

import math
from typing import Callable, Dict, List, Mapping, Optional, Tuple

from .policy import Element

TABLE = "inet cordon"

Run = Callable[[str], Optional[str]]  # nft commands, all or none of them -> what went wrong


class SetError(Exception):
    """An element is not in the set: whoever asked must not be told the address."""


def libnftables() -> Run:
    """The kernel's own tables. Raises ImportError or OSError where the library is missing."""
    import nftables  # not on the controller, where the rest of this package is tested too

    library = nftables.Nftables()

    def run(commands: str) -> Optional[str]:
        code, _output, error = library.cmd(commands)
        return (error.strip() or f"libnftables returned {code}") if code else None

    return run


class Sets:
    """Puts elements into the sets, and knows how long each stays."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._until: Dict[str, Dict[Element, float]] = {}

    def place(self, name: str, elements: Mapping[Element, float], now: float) -> None:
        """Have each element in the sets of this name at least until its time. Raises SetError: then none is certain."""
        known = self._until.setdefault(name, {})
        wanted = {element: until for element, until in elements.items() if known.get(element, 0.0) < until}
        if not wanted:
            return
        self._commit(name, _lasting(name, wanted, now))
        known.update(wanted)

    def replace(self, name: str, elements: Mapping[Element, float], now: float) -> None:
        """Have these elements in the sets and no others, in one step."""
        flush = [f"flush set {TABLE} named{version}_{name}" for version in (4, 6)]
        self._commit(name, flush + _lasting(name, elements, now))
        self._until[name] = dict(elements)

    def forget_old(self, now: float) -> None:
        """The kernel has let go of them by itself."""
        for name, known in self._until.items():
            self._until[name] = {element: until for element, until in known.items() if until > now}

    def _commit(self, name: str, commands: List[str]) -> None:
        text = "\n".join(commands) + "\n"
        # Twice: an element that runs out between its "add" and its "delete" fails the transaction.
        problem = self._run(text) and self._run(text)
        if problem:
            self._until.pop(name, None)
            raise SetError(f"sets named4_{name} and named6_{name} of table {TABLE}: {problem.splitlines()[0]}:"
                           " load the table again (systemctl reload cordon-firewall)")  # fmt: skip


def _lasting(name: str, elements: Mapping[Element, float], now: float) -> List[str]:
    """Commands that give each element its time, whether it is there or not.

    Kernels before 6.12 do not change the time of an element that is there, and "delete" fails for one that is not.
    Within a transaction nobody sees the element missing.
    """
    commands = []
    for element, until in elements.items():
        target, key = _spell(name, element)
        timed = f"add element {target} {{ {key} timeout {max(1, math.ceil(until - now))}s }}"
        commands += [timed, f"delete element {target} {{ {key} }}", timed]
    return commands


def _spell(name: str, element: Element) -> Tuple[str, str]:
    address, protocol, port = element
    version = 6 if ":" in address else 4
    return f"{TABLE} named{version}_{name}", f"{address} . {protocol} . {port}"
