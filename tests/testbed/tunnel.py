# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An ssh server on the host's loopback that lets a test key open reverse tunnels and nothing else.

It stands for the machine outside to which a hijacked agent would dig (`ssh -R`, the ROME incident).
"""

from __future__ import annotations

import getpass
import os
import shutil
from pathlib import Path

from testbed import access
from testbed.files import write_atomically
from testbed.show import Failure

_CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowTcpForwarding remote
AllowAgentForwarding no
GatewayPorts no
X11Forwarding no
PermitTunnel no
AllowUsers {user}
LogLevel VERBOSE
"""


def _server() -> str:
    program = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        raise Failure("sshd is missing: install it with `apt-get install openssh-server`")
    return program


def prepare(directory: Path, port: int) -> list[str]:
    """Make the keys and the configuration; return the server's command line.

    It runs as whoever runs the test bed, and that is the one user it lets in, for forwarding only.
    """
    directory.mkdir(parents=True, exist_ok=True)
    access.make_key(directory / "host_key", "cordon test bed tunnel host")
    client = access.make_key(directory / "tunnel_key", "cordon test bed tunnel")
    write_atomically(directory / "authorized_keys", f'restrict,port-forwarding,command="/bin/false" {client}\n')
    config = directory / "sshd_config"
    write_atomically(config, _CONFIG.format(directory=directory, port=port, user=getpass.getuser()))
    if os.geteuid() == 0:
        # sshd started by root insists on this directory, which openssh-server's own unit makes as well.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    return [_server(), "-D", "-e", "-f", str(config)]
