# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's own certificate authority, which signs for inspected names only, and what agents are to trust.

Makes what is missing, renews what ends soon, and writes nothing that is right already:

    /var/lib/cordon/proxy/authority.key   made once, never leaves the host; root writes it, the proxy reads it
    /var/lib/cordon/proxy/authority.pem   may sign for the inspected names only (critical name constraints, RFC 5280 4.2.1.10)
    /usr/lib/cordon/trust/ca-bundle.pem   the system's authorities, the company's, this one: for agents, which read nothing
                                          below /etc/cordon
    /usr/lib/cordon/trust/java-trust-store  the same for Java

A renewed certificate has the key and the name of the one before, so a program that still trusts that one trusts what is
signed from now on too. Runs as root before the proxy starts or reloads, and once a day. Uses openssl(1).
"""
import base64
import grp
import hashlib
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Dict, List

CONFIG = Path("/etc/cordon/proxy")
STATE = Path("/var/lib/cordon/proxy")
TRUST = Path("/usr/lib/cordon/trust")
SYSTEM = Path("/etc/ssl/certs/ca-certificates.crt")
GROUP = "cordon-proxy"

DAYS = 397
RENEW = 60 * 86400  # seconds before its end
# Java's own password; the store holds nothing secret.
JAVA_PASSWORD = "changeit"
PEM = re.compile(r"-----BEGIN CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+?)-----END CERTIFICATE-----")


def openssl(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run openssl; its words go to the journal where it fails."""
    return subprocess.run(["/usr/bin/openssl", *arguments], check=False, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, env={"PATH": "/usr/bin", "LC_ALL": "C"})


def must(*arguments: str) -> str:
    """Run openssl and insist."""
    done = openssl(*arguments)
    if done.returncode:
        raise SystemExit(f"openssl {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout


def key(path: Path, group: int) -> None:
    """The private key: P-256, as short a handshake as there is."""
    if not path.exists():
        text = must("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
        replace(path, text.encode(), 0o640, group)


def extensions(names: List[str]) -> List[str]:
    """What this authority may do, as arguments of openssl-req."""
    # Without a name it may sign for nobody: RFC 6761 has ".invalid" for that.
    permitted = ",".join(f"permitted;DNS:{name}" for name in names or ["cordon.invalid"])
    wanted = ("basicConstraints=critical,CA:TRUE,pathlen:0", "keyUsage=critical,keyCertSign", "subjectKeyIdentifier=hash",
              f"nameConstraints=critical,{permitted},excluded;IP:0.0.0.0/0.0.0.0,excluded;IP:::/::")
    return [word for one in wanted for word in ("-addext", one)]


def certificate(path: Path, key_path: Path, names: List[str]) -> None:
    """The authority's certificate, made anew for other names or shortly before its end."""
    if path.exists() and fits(path, names):
        return
    # Only letters, digits, "-", "." and "_" are in a name of the manifest; -config of our own: the system's adds extensions.
    subject = f"/O=cordon/CN=cordon proxy of {host_name()}"
    before = openssl("x509", "-in", str(path), "-noout", "-subject", "-nameopt", "RFC2253") if path.exists() else None
    if before and not before.returncode:
        found = re.search(r"CN=(cordon proxy of [A-Za-z0-9.-]+)", before.stdout)
        subject = f"/O=cordon/CN={found.group(1)}" if found else subject
    text = must("req", "-x509", "-new", "-key", str(key_path), "-days", str(DAYS), "-sha256", "-subj", subject,
                "-config", str(minimal_config(path.parent)), *extensions(names))
    replace(path, text.encode(), 0o644)


def minimal_config(directory: Path) -> Path:
    """openssl-req wants a file with a section for names."""
    path = directory / "openssl.cnf"
    replace(path, b"[req]\ndistinguished_name = name\nprompt = no\n[name]\n", 0o644)
    return path


def host_name() -> str:
    """The host's name as it may stand in a certificate."""
    return re.sub(r"[^A-Za-z0-9.-]", "-", os.uname().nodename)[:40] or "host"


def fits(path: Path, names: List[str]) -> bool:
    """Whether the certificate is for these names and lasts."""
    text = openssl("x509", "-in", str(path), "-noout", "-text", "-checkend", str(RENEW))
    permitted = text.stdout.partition("Permitted:")[2].partition("Excluded:")[0]
    return text.returncode == 0 and sorted(re.findall(r"DNS:(\S+)", permitted)) == sorted(names or ["cordon.invalid"])


def bundle(*texts: str) -> str:
    """All certificates of these texts, each once, without what stands around them."""
    found = dict.fromkeys("".join(match.group(1).split()) for text in texts for match in PEM.finditer(text))
    return "".join(f"-----BEGIN CERTIFICATE-----\n{folded(body)}-----END CERTIFICATE-----\n" for body in found)


def folded(body: str) -> str:
    """base64 in lines of 64, as PEM wants it (RFC 7468)."""
    return "".join(body[start:start + 64] + "\n" for start in range(0, len(body), 64))


def java_trust_store(text: str) -> bytes:
    """The same certificates as a Java key store of type JKS, which every Java reads without being told its type.

    keytool would need a Java, and openssl before 3.2 cannot mark a certificate of a PKCS#12 store as trusted. The format:
    a magic number, version 2, the entries, and SHA-1 over the password, a fixed text and all that
    (sun.security.provider.JavaKeyStore). Dates are 0: the same certificates are the same bytes.
    """
    found = [base64.b64decode("".join(match.group(1).split())) for match in PEM.finditer(text)]
    store = struct.pack(">III", 0xFEEDFEED, 2, len(found))
    for number, der in enumerate(found):
        alias = f"cordon-{number}".encode()
        store += struct.pack(">IH", 2, len(alias)) + alias + struct.pack(">QH", 0, 5) + b"X.509"
        store += struct.pack(">I", len(der)) + der
    return store + hashlib.sha1(JAVA_PASSWORD.encode("utf-16-be") + b"Mighty Aphrodite" + store).digest()


def replace(path: Path, content: bytes, mode: int, group: int = 0) -> None:
    """Write a file in one rename, unless it has this content."""
    if path.exists() and path.read_bytes() == content:
        return
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fchown(file.fileno(), 0, group)
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    temporary.rename(path)


def main(config: Path, state: Path, trust: Path, system: Path, group: str) -> None:
    """Bring all files to what they should be."""
    wanted: Dict[str, List[str]] = json.loads((config / "authority.json").read_text(encoding="utf-8"))
    for place in (state, trust):
        place.mkdir(mode=0o755, parents=True, exist_ok=True)
    key(state / "authority.key", grp.getgrnam(group).gr_gid)
    certificate(state / "authority.pem", state / "authority.key", wanted["names"])
    texts = [path.read_text(encoding="utf-8") if path.exists() else ""
             for path in (system, config / "internal-ca.pem", state / "authority.pem")]
    trusted = bundle(*texts)
    replace(trust / "ca-bundle.pem", trusted.encode(), 0o644)
    replace(trust / "java-trust-store", java_trust_store(trusted), 0o644)


if __name__ == "__main__":
    given = sys.argv[1:] or [str(CONFIG), str(STATE), str(TRUST), str(SYSTEM), GROUP]
    main(*(Path(path) for path in given[:4]), given[4])
