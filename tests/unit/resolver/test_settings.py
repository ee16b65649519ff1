# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file that the role wrote."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Callable

import pytest
from cordon_firewall import settings

from .conftest import DATA


def test_the_file_of_the_filter_is_read(tmp_path: Path) -> None:
    path = tmp_path / "resolver.json"
    path.write_text(json.dumps(DATA))
    read = settings.read(path)
    assert read.servers == ("192.0.2.53",)
    assert read.clients[0].grants[0] == settings.Grant("git.example.org", (("tcp", 22),), ())


def change(*path: Any, to: Any) -> Callable[[Any], None]:
    def apply(data: Any) -> None:
        for step in path[:-1]:
            data = data[step]
        data[path[-1]] = to

    return apply


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (change("servers", to=[]), "servers is empty"),
        (change("servers", to=["dns.example"]), "dns.example"),
        (change("clients", 0, "address", to="::1"), "::1"),
        (change("clients", 0, "set", to="a }; flush ruleset; {"), "no name of a set"),
        (change("clients", 0, "names", 0, "ports", to=[["tcp", 0]]), "no protocol and port"),
        (change("clients", 0, "names", 0, "ports", to=[["tcp . 1 }; flush ruleset; {", 1]]), "no protocol and port"),
        (change("clients", 0, "names", 0, "networks", to=["10.0.0.1/8"]), "host bits"),
        (change("clients", to=DATA["clients"] * 2), "one address"),
        (change("clients", 0, to={}), "missing"),
        (change("clients", to=None), "wrong form"),
    ],
)
def test_what_it_cannot_use_is_named_with_the_file(tmp_path: Path, wrong: Callable[[Any], None], said: str) -> None:
    data = copy.deepcopy(DATA)
    wrong(data)
    path = tmp_path / "resolver.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"resolver\.json") as caught:
        settings.read(path)
    assert said in str(caught.value)
