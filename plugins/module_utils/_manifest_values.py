# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to the collection. Readers of single values of the manifest.

A reader takes a value as YAML gave it and its Place, notes what is wrong there, and returns the plain value.
After a mistake it returns any value of the right type: nobody gets to see it, because a manifest with a
mistake is refused.

ansible-core 2.19+ hands over subclasses of str, int, dict and list that carry tags: all are tested by
isinstance and returned as the plain type.
"""

from __future__ import annotations

import datetime
import re
from typing import Any, Callable, Collection, Dict, List, TypeVar

from ._manifest_place import Place, near, show
from ._manifest_refused import (
    credential_refusal,
    device_refusal,
    environment_refusal,
    output_refusal,
    path_refusal,
    program_refusal,
)

T = TypeVar("T")
Reader = Callable[[Any, Place], T]

LONGEST = 4096  # characters of one string; the kernel's PATH_MAX, and ample for an argument
NAME = re.compile(r"[a-z][a-z0-9_]{0,25}")
SECRET_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
TOOL_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
# Paths go into AppArmor profiles, unit files and audit rules: nothing that any of them reads as syntax.
PATH = re.compile(r"(/[A-Za-z0-9._@+=:-]+)+")
CPU = re.compile(r"[1-9][0-9]{0,5}%")
MEMORY = re.compile(r"([1-9][0-9]{0,6})([KMGT])")
DURATION = re.compile(r"([1-9][0-9]{0,4})([mhd])")

KIBIBYTES = {"K": 1, "M": 1024, "G": 1024**2, "T": 1024**3}
# KiB; with less the start chain itself is killed, more no host has
MEMORIES = (64 * 1024, 1024**4)
SECONDS = {"m": 60, "h": 3600, "d": 86400}
SILENCE = (300, 30 * 86400)  # seconds; shorter alarms at every pause, longer is no dead man's switch
IDLE = (60, 30 * 86400)  # seconds; sessions are looked at once a minute
TASKS = 4194304  # the kernel's PID_MAX_LIMIT
PORTS = 65535
SEVERAL = re.compile(r"[0-9]+ ?[-:,].*")  # "8000-8100", "80, 443"

PROTOCOLS = ("tcp", "udp", "ssh")
PROTOCOLS_BY_NAME = ("https", *PROTOCOLS)
MODES = ("burn_in", "enforce")
INNER_SANDBOX = ("deny", "allow")
UNCONFINED = ("stop", "alert")
UNLOCK = ("sealed", "operator")
OWN = "own"  # what the agent itself stores in a writable vault lies below ~/.vault/own
DAYS = 365


def read_text(value: Any, place: Place, empty: bool = True) -> str:
    """One line of printable text: anything else could add a line or a rule to what is rendered from it."""
    if not isinstance(value, str):
        place.refuse(f"{show(value)} is not text", "put it in quotes" if _scalar(value) else "write text")
    elif not value.isprintable():
        char = next(char for char in value if not char.isprintable())
        place.refuse(f"it contains the character U+{ord(char):04X}", "use one line of printable characters")
    elif len(value) > LONGEST:
        place.refuse(f"it is {len(value)} characters long", f"use at most {LONGEST}")
    elif not value and not empty:
        place.refuse("it is empty", "write a value")
    else:
        return str(value)
    return ""


def _scalar(value: Any) -> bool:
    return isinstance(value, (bool, int, float, datetime.date))


def read_name(value: Any, place: Place) -> str:
    """The agent's name."""
    return _match(
        value,
        place,
        NAME,
        "an agent's name",
        "use a lower-case letter, then up to 25 of a-z, 0-9 and _; the name becomes the Linux user agent-NAME"
        " (at most 32 characters), the unit cordon-NAME.slice (where systemd reads - as nesting) and the"
        " AppArmor profile cordon.NAME (where . parts agent from tool)",
    )


def read_secret_name(value: Any, place: Place) -> str:
    """The secret's name, which becomes a file name in the vault."""
    if value == OWN:
        place.refuse(f"{OWN} is the agent's own directory in a writable vault", "use another name")
        return ""
    return _match(
        value,
        place,
        SECRET_NAME,
        "a secret's name",
        "use a lower-case letter, then up to 63 of a-z, 0-9 and _; the name becomes the file ~/.vault/NAME",
    )


def _match(value: Any, place: Place, pattern: re.Pattern[str], what: str, remedy: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        place.refuse(f"{show(value)} is not {what}", remedy)
        return ""
    return str(value)


def read_path(value: Any, place: Place) -> str:
    """An absolute path of characters that no file rendered from it can take for syntax."""
    text = read_text(value, place, empty=False)
    if not text:
        return ""
    parts = text.split("/")
    if not text.startswith("/"):
        place.refuse(f"{show(text)} is not an absolute path", "begin it with /")
    elif text == "/":
        place.refuse("/ is the whole file system", "name what the agent needs")
    elif ".." in parts or "." in parts or "" in parts[1:]:
        place.refuse(
            f"{show(text)} is not in its plain form", "write it without //, /./, /../ and a / at the end"
        )
    elif not PATH.fullmatch(text):
        char = next(char for char in text if not PATH.fullmatch("/" + char) and char != "/")
        place.refuse(
            f"{show(text)} contains {char!r}",
            "use letters, digits and . _ @ + = : - only, since a path goes into profiles and units",
        )
    else:
        return text
    return ""


def read_data_path(value: Any, place: Place) -> str:
    """A path that an agent may be given to read."""
    path = read_path(value, place)
    reason = path_refusal(path) if path else None
    if reason:
        place.refuse(f"{path} cannot be given to an agent, {reason}", "name what holds nothing but the data")
    return path


def read_program_path(value: Any, place: Place) -> str:
    """A program, or a directory of programs and their libraries, that no tool of the catalogue has."""
    before = len(place.problems)
    path = read_data_path(value, place)
    reason = program_refusal(path) if path and len(place.problems) == before else None
    if reason:
        place.refuse(f"{path} cannot be given to an agent, {reason}", "grant the tool that brings the program")
    return path


def read_output_path(value: Any, place: Place) -> str:
    """A path that an agent may be given to write."""
    before = len(place.problems)
    path = read_data_path(value, place)
    reason = output_refusal(path) if path and len(place.problems) == before else None
    if reason:
        place.refuse(
            f"{path} cannot be given to an agent for writing, {reason}", "name what holds nothing but its data"
        )
    return path


def read_device(value: Any, place: Place) -> str:
    """A device node below /dev that does not amount to root."""
    path = read_path(value, place)
    if path and not path.startswith("/dev/"):
        place.refuse(f"{path} is not a device", "name a node below /dev/")
        return path
    reason = device_refusal(path) if path else None
    if reason:
        place.refuse(f"{path} cannot be given to an agent, {reason}", "remove it")
    return path


def command_in(home: str) -> Reader[List[str]]:
    """A reader of the program, by its absolute path, and its arguments: never a line for a shell."""

    def read(value: Any, place: Place) -> List[str]:
        remedy = "write a list, [/absolute/path/to/program, argument, ...]; no shell reads it"
        if isinstance(value, str):
            place.refuse("it is one string", remedy)
            return []
        words = list_of(read_text)(value, place)
        if isinstance(value, (list, tuple)) and not value:
            place.refuse("it is empty", remedy)
        elif words and value[0] == words[0]:  # else it is no text, and that was said
            _read_program(value[0], place.item(0), home)
        return words

    return read


def _read_program(value: str, place: Place, home: str) -> None:
    path = read_path(value, place)
    if not path:
        return
    reason = credential_refusal(path) if path.startswith(home + "/") else path_refusal(path)
    if reason:
        place.refuse(f"{path} cannot be run by the agent, {reason}", f"install it below /usr, /opt or {home}")


def read_replay(value: Any, place: Place) -> List[str]:
    """One command of the workload replay: a program, by its path or its name, and its arguments."""
    before = len(place.problems)
    words = list_of(read_text)(value, place)
    if len(place.problems) == before and not (words and words[0]):
        place.refuse("it names no program", "write a list, [program, argument, ...]; no shell reads it")
    return words


def read_environment(value: Any, place: Place) -> Dict[str, str]:
    """Environment variables, sorted by name."""
    if not isinstance(value, dict):
        place.refuse(f"{show(value)} is not a mapping", "write {NAME: value, ...}")
        return {}
    names = [name for name in value if _is_variable(name, place)]
    return {str(name): read_text(value[name], place.member(name)) for name in sorted(names)}


def _is_variable(name: Any, place: Place) -> bool:
    if not isinstance(name, str) or not ENVIRONMENT_NAME.fullmatch(name):
        place.refuse(
            f"{show(name)} is not a variable's name",
            "use a letter or _, then letters, digits and _ (up to 128)",
        )
        return False
    reason = environment_refusal(name)
    if reason:
        place.refuse(f"{name} is refused, because {reason}", "remove it")
    return True


def read_port(value: Any, place: Place) -> int:
    """A port number. Digits in quotes are refused: one form, so that editors, filter and firewall agree."""
    if isinstance(value, (list, tuple)) or (isinstance(value, str) and SEVERAL.fullmatch(value)):
        place.refuse(f"{show(value)} is not a port", "write one entry for each port")
        return 0
    return _number(value, place, PORTS, "a port")


def read_tasks(value: Any, place: Place) -> int:
    """How many processes and threads an agent may have."""
    return _number(value, place, TASKS, "a number of tasks")


def number_to(most: int, what: str) -> Reader[int]:
    """A reader of a whole number from 1 to most."""
    return lambda value, place: _number(value, place, most, what)


def _number(value: Any, place: Place, most: int, what: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most:
        return int(value)
    quoted = isinstance(value, str) and re.fullmatch(r"[0-9]{1,7}", value)
    remedy = f"write {int(value)} without quotes (in Jinja: | int)" if quoted else f"use 1 to {most}"
    place.refuse(f"{show(value)} is not {what}", remedy)
    return 0


def read_flag(value: Any, place: Place) -> bool:
    """true or false."""
    if isinstance(value, bool):
        return value
    place.refuse(
        f"{show(value)} is neither true nor false", "write true or false, without quotes (in Jinja: | bool)"
    )
    return False


def read_cpu(value: Any, place: Place) -> str:
    """CPU time in percent of one core, as systemd's CPUQuota= takes it."""
    return _match(
        value, place, CPU, "a share of CPU time", "write percent of one core, e.g. 200% for two cores"
    )


def read_memory(value: Any, place: Place) -> str:
    """Memory with a binary unit, as systemd's MemoryMax= takes it: 4G is 4 * 2**30 bytes."""
    remedy = "write a whole number and its unit, K, M, G or T, e.g. 512M or 4G"
    text = _match(value, place, MEMORY, "an amount of memory", remedy)
    if text and not MEMORIES[0] <= _scaled(MEMORY, KIBIBYTES, text) <= MEMORIES[1]:
        place.refuse(f"{text} is no useful limit", "use 64M to 1024T")
    return text


def read_silence(value: Any, place: Place) -> str:
    """How long an agent may be silent before somebody is woken."""
    remedy = "write a whole number and its unit, m, h or d, e.g. 30m, 4h or 2d"
    text = _match(value, place, DURATION, "a duration", remedy)
    if text and not SILENCE[0] <= duration_seconds(text) <= SILENCE[1]:
        place.refuse(f"{text} is no useful silence", "use 5m to 30d")
    return text


def read_idle(value: Any, place: Place) -> str | None:
    """After how long a session that does nothing is ended; None for never."""
    if value is None:
        return None
    remedy = "write a whole number and its unit, m, h or d, e.g. 30m, 4h or 2d, or null for never"
    text = _match(value, place, DURATION, "a duration", remedy)
    if text and not IDLE[0] <= duration_seconds(text) <= IDLE[1]:
        place.refuse(f"{text} is no useful time to be idle", "use 1m to 30d")
    return text


def duration_seconds(text: str) -> int:
    """Seconds of a resolved duration: "30m" is 1800."""
    return _scaled(DURATION, SECONDS, text)


def _scaled(pattern: re.Pattern[str], units: Dict[str, int], text: str) -> int:
    match = pattern.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} was not resolved: pass the manifest through resolve first")
    return int(match.group(1)) * units[match.group(2)]


def choice(choices: Collection[str]) -> Reader[str]:
    """A reader of one word out of several."""

    def read(value: Any, place: Place) -> str:
        if isinstance(value, str) and value in choices:
            return str(value)
        place.refuse(f"{show(value)} is not known here", near(value, choices))
        return ""

    return read


def list_of(
    read_item: Reader[T], identity: Callable[[T], Any] | None = None, most: int = 1024
) -> Reader[List[T]]:
    """A reader of a list. identity says what makes two resolved items the same; the second is refused."""

    def read(value: Any, place: Place) -> List[T]:
        if not isinstance(value, (list, tuple)):
            place.refuse(f"{show(value)} is not a list", "write a list, [] when there is nothing in it")
            return []
        if len(value) > most:
            place.refuse(f"it has {len(value)} items", f"use at most {most}")
            return []
        items: List[T] = []
        first: Dict[Any, Place] = {}
        for index, item in enumerate(value):
            at, before = place.item(index), len(place.problems)
            items.append(read_item(item, at))
            if identity is not None and len(place.problems) == before:  # a refused item is like no other
                same = first.setdefault(identity(items[-1]), at)
                if same is not at:
                    at.refuse(f"it repeats {same.path}", "remove one of them")
        return items

    return read
