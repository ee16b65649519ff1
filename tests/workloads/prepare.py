# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the workloads need on the guest, made on the controller: packages, keys, certificates, one script per agent.

Usage: prepare.py DIRECTORY. Makes, and keeps what is there already:
  packages/    a Python index (simple/, files/) and an npm registry (npm/), as static files
  tls/         a certificate authority, and the certificate of the forge
  vars.json    variables of the playbook: the values of the agents' secrets
  guest.tar    all that goes to the guest: these, the servers, and for each agent its program and its steps (steps.py)
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import secrets
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import steps

from testbed import tls

FORGE, PACKAGES = "203.0.113.10", "203.0.113.11"
NPM = {
    "greet": ({"dependencies": {"words": "^1.0.0"}}, "module.exports = (name) => require('words').hello + ', ' + name;\n"),
    "words": ({}, "exports.hello = 'hello';\n"),
}


def main(directory: Path) -> None:
    """Make everything; a second run fetches nothing."""
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / "packages").is_dir():
        work = Path(tempfile.mkdtemp(dir=directory))
        _python_index(work)
        _npm_registry(work / "npm")
        work.chmod(0o755)
        work.rename(directory / "packages")
    tls.make(directory / "tls", [FORGE, PACKAGES])
    if not (directory / "vars.json").exists():
        _write(directory / "vars.json", json.dumps(_variables(), indent=2))
    variables = json.loads((directory / "vars.json").read_text("utf-8"))
    settings = {name: value for name, value in variables.items() if name.startswith("workloads_")}
    with tarfile.open(directory / "guest.tar", "w") as archive:
        for path in (directory / "packages", *(directory / "tls").glob("*.crt"), directory / "tls" / "server.key",
                     HERE / "forge.py", HERE / "run.py", HERE / "servers.sh"):
            archive.add(path, path.name)
        _add(archive, "settings", "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items()))
        for name, work in steps.scripts().items():
            _add(archive, f"agents/{name}/work.sh", work)
            _add(archive, f"agents/{name}/run", "#!/bin/sh\nexec sleep infinity\n")


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(text.encode()), 0o755
    archive.addfile(member, io.BytesIO(text.encode()))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _python_index(packages: Path) -> None:
    """A simple index (PEP 503) of wheels, and of idna's source with its tests."""
    files = packages / "files"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps", "-d", str(files)]
    subprocess.run([*pip, "-r", str(HERE / "requirements.txt")], check=True)
    subprocess.run([*pip, "--no-binary", "idna", "idna==3.7"], check=True)
    for path in files.iterdir():
        name = path.name.split("-")[0].lower().replace("_", "-")
        page = packages / "simple" / name / "index.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        with page.open("a", encoding="utf-8") as stream:
            stream.write(f'<a href="/files/{path.name}">{path.name}</a>\n')


def _npm_registry(registry: Path) -> None:
    """A registry of two packages, one of which needs the other."""
    (registry / "files").mkdir(parents=True)
    for name, (more, code) in NPM.items():
        package = {"name": name, "version": "1.0.0", "main": "index.js", **more}
        data = _tarball({"package/package.json": json.dumps(package), "package/index.js": code})
        (registry / "files" / f"{name}-1.0.0.tgz").write_bytes(data)
        digest = base64.b64encode(hashlib.sha512(data).digest()).decode()
        place = {"tarball": f"https://{PACKAGES}/npm/files/{name}-1.0.0.tgz", "integrity": f"sha512-{digest}"}
        document = {"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": {**package, "dist": place}}}
        _write(registry / name, json.dumps(document))


def _tarball(members: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in members.items():
            _add(archive, name, text)
    return buffer.getvalue()


def _variables() -> dict[str, object]:
    private, public = _ssh_key()
    signing = _gpg_key()
    token, password = secrets.token_hex(16), secrets.token_hex(16)
    return {
        "monitoring_webhook_url": "none", "monitoring_heartbeat_url": "none",
        "workloads_deploy_key": public, "workloads_token": token, "workloads_password": password,
        "vault_secrets": {
            "coder": {"deploy_key": private, "forge_token": f"https://coder:{token}@{FORGE}\n", "signing_key": signing},
            "builder": {"deploy_key": private, "code_signing_key": _openssl_key()},
            "analyst": {"database_password": f"203.0.113.20:5432:sales:analyst:{password}\n"},
            "data_engineer": {"api_token": f"Authorization: Bearer {token}\n"},
            "release": {"signing_key": signing, "upload_token": f"Authorization: Bearer {token}\n"},
            "operator": {"api_token": f"Authorization: Bearer {token}\n"},
        },
    }


def _ssh_key() -> tuple[str, str]:
    with tempfile.TemporaryDirectory() as place:
        key = Path(place) / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "workloads", "-f", str(key)], check=True)
        return key.read_text("utf-8"), key.with_suffix(".pub").read_text("utf-8").strip()


def _openssl_key() -> str:
    made = subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519"], check=True, capture_output=True, text=True)
    return made.stdout


def _gpg_key() -> str:
    home = Path(tempfile.mkdtemp())
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", "", "--pinentry-mode", "loopback"]
    try:
        subprocess.run([*gpg, "--quick-generate-key", "Coder <coder@example.net>", "ed25519", "sign", "1y"], check=True)
        made = subprocess.run([*gpg, "--armor", "--export-secret-keys"], check=True, capture_output=True, text=True)
        return made.stdout
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)
        shutil.rmtree(home)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
