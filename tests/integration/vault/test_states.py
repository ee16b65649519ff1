# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""smoke"""
from .host import Host
def test_smoke(host: Host) -> None:
    for check in (True, False, False, True):
        r = host.vault(check=check)
        print(r)
    r = host.vault(renew="password"); print(r)
    print(host.secrets({"token": "canary-1"}))
    r = host.vault(renew="master"); print(r)
    print(host.read())
    assert 0
