# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A certificate authority of the test bed's own, and the certificate of its HTTPS service, by openssl(1)."""

from __future__ import annotations

from pathlib import Path

from testbed import run
from testbed.files import write_atomically

_DAYS = "30"
_EXTENSIONS = """\
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = {names}
"""


def _openssl(where: Path, *words: str) -> None:
    run.quiet(["openssl", *words], "making the test bed's certificates", where)


def make(directory: Path, addresses: list[str]) -> None:
    """Make ca.crt, server.key and server.crt (valid for the IP `addresses`) unless they exist. The CA's key is not
    kept: nobody can sign with it later."""
    if (directory / "server.crt").exists():
        return
    directory.mkdir(parents=True, exist_ok=True)
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc")
    write_atomically(directory / "server.ext", _EXTENSIONS.format(names=",".join(f"IP:{a}" for a in addresses)))
    _openssl(directory, "req", "-x509", *curve, "-days", _DAYS, "-subj", "/CN=cordon test bed CA",
             "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign",
             "-keyout", "ca.key", "-out", "ca.crt")
    _openssl(directory, "req", *curve, "-subj", "/CN=cordon test bed", "-keyout", "server.key", "-out", "server.csr")
    _openssl(directory, "x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
             "-days", _DAYS, "-extfile", "server.ext", "-out", "server.new")
    (directory / "ca.key").unlink()
    (directory / "server.new").rename(directory / "server.crt")
