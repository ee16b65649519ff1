# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets that the proxy adds, with real squid: they arrive at the one host, and nothing brings them anywhere else.

The servers write down every request as it came. `two` has brokered secrets for seen.test and second.test; `one` may reach
seen.test too, inspected, and has none.
"""
from __future__ import annotations

import base64
import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.cordon.agent_host.plugins.module_utils import _brokered, _egress, _egress_proxy

from .network import AGENT, ORDINARY, OTHER_AGENT, Network, agent, named, without_rules
from .proxy_host import FILES, NAMES, USER, WORLD, ProxyHost

PORT, OTHER_PORT = 9443, 9444
KEY, TOKEN = "sk-canary-0123456789", "ghp-canary-token"
ODD = "canary-\\q\"u%o%%te's $x #y ${process_name} $\\{service_name} \\"
BEARER = f"Bearer {KEY}"
BASIC = "Basic " + base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode()
CANARIES = [KEY, "canary-", TOKEN, BASIC.split()[1]]
HERE = Path(__file__).parent


def brokered(name: str, host: str, header: str = "Authorization", **more: Any) -> dict[str, Any]:
    broker = {"host": host, "port": PORT, "header": header, "prefix": "", "user": None, **more}
    return {"name": name, "tools": [], "broker": broker}


def entry(name: str, port: int = PORT, inspect: bool = True) -> dict[str, Any]:
    return {**named(name, port), "inspect": inspect}


TWO = {
    **agent("two", OTHER_AGENT, entry("seen.test"), entry("twin.test"), entry("second.test"), entry("seen.test", OTHER_PORT),
            entry("allowed.test", inspect=False)),
    "secrets": [brokered("openai_key", "seen.test", prefix="Bearer "), brokered("odd", "seen.test", "X-Api-Key"),
                brokered("push_token", "second.test", user="x-access-token"), {"name": "plain", "tools": [], "broker": None}],
}  # fmt: skip
ONE = {**agent("one", AGENT, entry("seen.test"), entry("twin.test")), "secrets": []}
VALUES = {"two": {"openai_key": KEY, "odd": ODD, "push_token": TOKEN}}


class BrokerHost(ProxyHost):
    """The proxy with secrets, and what arrived in the world."""

    def prepare(self) -> None:
        """Servers for the requests, and a repository; then the secrets where systemd would put them."""
        self.arrivals, self.wanted = self.root / "arrivals.jsonl", self.root / "wanted"
        (self.root / "broker_programs.py").write_text((HERE / "broker_programs.py").read_text())
        repositories = self.root / "repositories"
        shutil.rmtree(repositories, ignore_errors=True)
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(repositories / "work.git")], check=True)
        self.wanted.write_text(BASIC)
        for port in (PORT, OTHER_PORT):
            places = map(str, (self.arrivals, repositories, self.wanted))
            self.program("serve", str(self.root / "world"), WORLD, str(port), *places)
        self.program("upstream", "10.20.0.2", "3181", str(self.arrivals), f"{WORLD}:{PORT}")

    def program(self, *arguments: str) -> None:
        command = self._command(self.network.world, "root", sys.executable, str(self.root / "broker_programs.py"), *arguments)
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.children.append(child)
        assert child.stdout and child.stdout.readline().strip() == "ready"

    def secrets(self, *agents: dict[str, Any]) -> None:
        """Root's to write, the proxy's to read; as /run/credentials is."""
        path = Path(self.places.brokered)
        path.unlink(missing_ok=True)
        path.write_text(_brokered.render(_brokered.declared(agents), VALUES))
        os.chown(path, pwd.getpwnam(USER).pw_uid, 0)
        path.chmod(0o400)

    def open_ports(self) -> None:
        """What the resolver does when it answers the proxy."""
        for port in (PORT, OTHER_PORT):
            element = f"{{ {WORLD} . tcp . {port} timeout 1h }}"
            self.network.nft("add", "element", "inet", "cordon", "named4__proxy", element)

    def arrived(self) -> list[dict[str, Any]]:
        """What arrived since the last call."""
        if not self.arrivals.exists():
            return []
        found = [json.loads(line) for line in self.arrivals.read_text().splitlines()]
        self.arrivals.unlink()
        return found

    def environment(self, name: str) -> dict[str, str]:
        """What the agent's unit sets."""
        address = self.listener(name).split(":")[0]
        known = {"one": ONE, "two": TWO}[name]
        return {key: value.replace(_egress.CA_BUNDLE, str(self.config / "ca-bundle.pem"))
                for key, value in _egress.proxy_environment(known, address).items()}

    def curl(self, *arguments: str, name: str = "two") -> subprocess.CompletedProcess[str]:
        """As the agent."""
        user = {"one": AGENT, "two": OTHER_AGENT}[name]
        return self.run_as(user, "curl", "-sS", "-m", "10", *arguments, environment=self.environment(name))


@pytest.fixture(scope="module")
def host(network: Network) -> Iterator[BrokerHost]:
    """The proxy of two agents."""
    if not shutil.which("squid"):
        pytest.fail("squid is missing: apt-get install squid-openssl (tests/setup/debian-packages.txt)")
    network.forget()
    built = BrokerHost(network)
    try:
        built.build()
        built.prepare()
        built.install(ONE, TWO)
        built.open_ports()
        built.secrets(ONE, TWO)
        built.start()
        yield built
    finally:
        print((built.run / "messages").read_text()[-3000:], (built.run / "proxy.log").read_text()[-3000:])
        built.close()
        network.forget()


@pytest.fixture(autouse=True)
def nothing_yet(host: BrokerHost) -> None:
    """Each test sees its own requests."""
    host.arrived()


def fields(arrival: dict[str, Any], name: str = "Authorization") -> list[str]:
    return [value for key, value in arrival["headers"] if key.lower() == name.lower()]


def test_a_request_to_the_host_carries_the_secrets(host):
    done = host.curl(f"https://seen.test:{PORT}/v1/models?x=1")
    assert done.returncode == 0, done.stderr
    (arrival,) = host.arrived()
    assert (arrival["sni"], arrival["path"]) == ("seen.test", "/v1/models?x=1")
    assert (fields(arrival), fields(arrival, "X-Api-Key")) == ([BEARER], [ODD])
    assert [event["secrets"] for event in host.log() if event["path"] == "/v1/models"] == [["odd", "openai_key"]]


def test_so_does_each_request_of_a_connection(host):
    url = f"https://seen.test:{PORT}/"
    host.curl(f"{url}a", f"{url}b", "-d", "x", f"{url}c")
    assert [fields(arrival) for arrival in host.arrived()] == [[BEARER]] * 3


OWN = [
    ["-H", "Authorization: Bearer mine"],
    ["-H", "authorization: mine", "-H", "AUTHORIZATION: mine too", "-H", "x-api-key: mine"],
    ["-u", "me:mine"],
    ["-H", "Connection: Authorization, X-Api-Key", "-H", "Authorization: mine"],
    ["-H", "Authorization: mine", "-H", "X-Api-Key: mine", "-d", "body", "-H", "Expect: 100-continue"],
]


@pytest.mark.parametrize("arguments", OWN, ids=[" ".join(words) for words in OWN])
def test_what_the_agent_sends_there_itself_is_replaced(host, arguments):
    assert host.curl(*arguments, f"https://twin.test:{PORT}/").returncode == 0
    (elsewhere,) = host.arrived()
    assert fields(elsewhere), "elsewhere its own goes through"
    assert host.curl(*arguments, f"https://seen.test:{PORT}/").returncode == 0
    (arrival,) = host.arrived()
    assert (fields(arrival), fields(arrival, "X-Api-Key")) == ([BEARER], [ODD])


ELSEWHERE = [
    ("two", f"https://twin.test:{PORT}/", "another inspected host, on a certificate that has both names"),
    ("two", f"https://seen.test:{OTHER_PORT}/", "the same host on another port"),
    ("two", f"https://allowed.test:{PORT}/", "a host that is passed on unread"),
    ("one", f"https://seen.test:{PORT}/", "another agent, the same host"),
]


@pytest.mark.parametrize(("name", "url", "_what"), ELSEWHERE, ids=[line[2] for line in ELSEWHERE])
def test_nothing_else_carries_them(host, name, url, _what):
    trust = ["--cacert", str(host.config / "internal-ca.pem")] if "allowed" in url else []
    done = host.curl(*trust, url, name=name)
    assert done.returncode == 0, done.stderr
    (arrival,) = host.arrived()
    assert not clear(json.dumps(arrival))
    assert not host.log()[-1]["secrets"]


def clear(text: str) -> list[str]:
    """The canaries that a text has."""
    return [canary for canary in CANARIES if canary in text]


def test_who_follows_a_redirect_to_another_host_takes_nothing_along(host):
    target = f"https://twin.test:{PORT}/landed"
    done = host.curl("-L", "--location-trusted", "-H", "Authorization: mine", f"https://seen.test:{PORT}/redirect?to={target}")
    assert done.returncode == 0, done.stderr
    first, second = host.arrived()
    assert (fields(first), fields(second)) == ([BEARER], ["mine"])
    assert not clear(json.dumps(second))


CROSSED = [
    ["-H", f"Host: seen.test:{PORT}", f"https://twin.test:{PORT}/"],
    ["-H", f"Host: twin.test:{PORT}", f"https://seen.test:{PORT}/"],
    ["--request-target", f"https://seen.test:{PORT}/", f"https://twin.test:{PORT}/"],
    ["-H", "Host: seen.test", f"https://twin.test:{PORT}/"],
]


@pytest.mark.parametrize("arguments", CROSSED, ids=[" ".join(words) for words in CROSSED])
def test_a_request_that_names_one_host_in_a_connection_to_another_goes_nowhere(host, arguments):
    done = host.curl("-o", "/dev/null", "-w", "%{http_code}", *arguments)
    assert done.stdout == "403"
    assert host.arrived() == []


@pytest.mark.parametrize("target", [f"http://seen.test:{PORT}/", "http://seen.test/", f"http://twin.test:{PORT}/"])
def test_a_request_for_the_same_host_in_the_clear_does_not_leave_in_the_clear(host, target):
    """The server speaks TLS only, so what it has written down came by it."""
    done = host.curl("-o", "/dev/null", "-w", "%{http_code}", "--request-target", target, f"https://seen.test:{PORT}/")
    assert (done.stdout, [arrival["sni"] for arrival in host.arrived()]) in [("200", ["seen.test"]), ("403", [])]


def test_no_server_is_asked_to_say_it_back(host):
    done = host.curl("-X", "TRACE", "-o", "/dev/null", "-w", "%{http_code}", f"https://seen.test:{PORT}/")
    assert done.stdout == "403"
    assert host.arrived() == []


def git(host: BrokerHost, where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**host.environment("two"), "GIT_TERMINAL_PROMPT": "0", "HOME": str(where), "GIT_AUTHOR_NAME": "a",
                   "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    return host.run_as(OTHER_AGENT, "git", "-C", str(where), *arguments, environment=environment)


def test_git_pushes_and_fetches_without_ever_having_the_token(host, tmp_path_factory):
    url = f"https://second.test:{PORT}/git/work.git"
    ca = str(host.config / "internal-ca.pem")
    # The server wants the token: without the proxy's, an ordinary user is refused.
    straight = ["git", "-c", f"http.sslCAInfo={ca}", "-c", f"http.curloptResolve=second.test:{PORT}:{WORLD}", "ls-remote", url]
    refused = host.run_as(ORDINARY, *straight, environment={"GIT_TERMINAL_PROMPT": "0"})
    assert "could not read Username" in refused.stderr
    host.arrived()

    where = Path(host.root) / "clone"
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir(mode=0o700)
    shutil.chown(where, OTHER_AGENT)
    # Over a megabyte: git then sends its pack in chunks, after a first request that only asks whether it may.
    for words in (["init", "-q", "-b", "main"], ["config", "http.postBuffer", "65536"]):
        assert git(host, where, *words).returncode == 0
    (where / "data").write_bytes(os.urandom(3 << 20))
    (where / "data").chmod(0o644)
    for words in (["add", "data"], ["commit", "-qm", "x"], ["push", "-q", url, "main"]):
        done = git(host, where, *words)
        assert done.returncode == 0, done.stderr
    head = git(host, where, "rev-parse", "HEAD").stdout.strip()
    assert head in git(host, where, "ls-remote", url).stdout
    arrivals = host.arrived()
    assert arrivals and all(fields(arrival) == [BASIC] for arrival in arrivals)
    assert any(["Transfer-Encoding", "chunked"] in arrival["headers"] for arrival in arrivals)
    for found in (path for path in where.rglob("*") if path.is_file()):
        assert not any(canary.encode() in found.read_bytes() for canary in CANARIES), found


def test_the_agent_finds_no_value(host):
    """Where it may look: its environment, its requests' answers, the proxy's files and process."""
    look = ("env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'; "
            f"cat {host.places.brokered} {host.config}/* {host.run}/* {host.state}/* 2>/dev/null; "
            f"for pid in {' '.join(map(str, host.family()))}; do cat /proc/$pid/mem /proc/$pid/environ; done 2>&1; "
            f"curl -sS -v -H 'Authorization: mine' https://seen.test:{PORT}/ https://seen.test:{PORT}/%zz 2>&1")
    found = host.run_as(OTHER_AGENT, "sh", "-c", f"( {look} ) | tr -cd '[:print:]\\n'", environment=host.environment("two"))
    assert "Permission denied" in found.stdout and "mine" in found.stdout
    assert not clear(found.stdout + found.stderr)
    assert host.arrived(), "the requests were made"
    assert "canary" in Path(host.places.brokered).read_text(), "root would have found them"


def test_no_log_no_configuration_and_no_page_of_the_proxy_has_a_value(host):
    host.curl(f"https://seen.test:{PORT}/"), host.curl("-H", "Content-Length: x", f"https://seen.test:{PORT}/")
    host.reload()
    state = f"{_egress.PROXY_LISTENS_TO}:{_egress.PROXY_PORT}"
    pages = [f"http://{state}/squid-internal-mgr/{page}" for page in ("config", "menu", "objects", "active_requests")]
    # The packet filter lets only root in; what the pages show must not depend on that.
    assert "connect to server" in host.run_as(ORDINARY, "curl", "-sS", *pages).stderr
    with without_rules(host.network, "output", "goto others"):
        told = host.run_as(ORDINARY, "curl", "-sS", "-v", *pages)
    mgr = host.run_as("root", "curl", "-sS", "-v", *pages)
    for answer in (told, mgr):
        assert "HTTP/1.1" in answer.stderr + answer.stdout
    assert not clear(told.stdout + told.stderr + mgr.stdout + mgr.stderr)
    for path in host.root.rglob("*"):
        if path.is_file() and path.name not in ("brokered", "arrivals.jsonl", "wanted"):
            assert not clear(path.read_text(errors="replace")), path
    lines = subprocess.run(["ps", "-eo", "args"], check=True, capture_output=True, text=True).stdout
    assert not clear(lines)


def test_a_fault_in_the_secrets_is_told_without_them(host):
    path = Path(host.places.brokered)
    good = path.read_text()
    code = (f"import sys; sys.path.insert(0, {str(FILES)!r}); import proxy_reload as p; "
            f"p.WANTED = {str(host.config / 'squid.conf')!r}; p.check()")
    try:
        broken = ("acl broker.0.host", "acl broker.0.hast"), ("request_header_add", "request_header_odd"), (f'{KEY}"', KEY)
        for old, new in broken:
            bad = good.replace(old, new)
            assert bad != good
            path.write_text(bad)
            done = subprocess.run(["/usr/bin/python3", "-B", "-c", code], capture_output=True, text=True, check=False)
            assert done.returncode and "squid refuses" in done.stderr and host.places.brokered in done.stderr, done
            assert not clear(done.stdout + done.stderr)
    finally:
        path.write_text(good)


@pytest.mark.parametrize("character", ["a", "%", '"', "\\", "$", "{"])
def test_squid_reads_the_longest_value_that_is_accepted(tmp_path, character):
    """One that it did not read would keep the proxy of all agents from its next start."""
    for secret in (*_brokered.declared([TWO]), _brokered.declared([TWO])[0]._replace(prefix='%"' * 400, header="X" * 64)):
        lengths = [n for n in range(5000) if not _brokered.mistakes([secret], {"two": {secret.name: character * n}})]
        (tmp_path / "brokered").write_text(_brokered.render([secret], {"two": {secret.name: character * max(lengths)}}))
        (tmp_path / "squid.conf").write_text(f"http_port 127.0.0.1:3999\ninclude {tmp_path}/brokered\n")
        parse = ["squid", "-k", "parse", "-f", tmp_path / "squid.conf"]
        done = subprocess.run(parse, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{max(lengths)}: {[line[:80] for line in done.stderr.splitlines() if 'FATAL' in line]}"


def test_an_agent_that_is_gone_leads_its_secret_to_nobody(host):
    """The secrets of a moment ago with the configuration of now: a run of the role that broke off."""
    moved = {**agent("one", AGENT, entry("seen.test"), entry("second.test")), "secrets": TWO["secrets"][3:]}
    try:
        text = host.text(moved) + f"include {host.places.brokered}\n"
        (host.config / "squid.conf").write_text(text)
        host.reload()
        assert host.curl(f"https://seen.test:{PORT}/", f"https://second.test:{PORT}/", name="one").returncode == 0
        assert [fields(arrival) for arrival in host.arrived()] == [[], []]
    finally:
        (host.config / "squid.conf").write_text(host.text(ONE, TWO))
        host.reload()


def test_a_companys_proxy_is_told_no_secret(host):
    """squid asks it for the way with the headers of the request that needs the way."""
    host.stop()
    try:
        upstream = {"address": "10.20.0.2", "port": 3181}
        host.install(ONE, TWO, upstream=upstream)
        host.start()
        for _again in range(3):
            assert host.curl(f"https://seen.test:{PORT}/").returncode == 0
        arrivals = host.arrived()
        # squid also tries now and then whether somebody listens there, and says nothing.
        asked = [arrival["upstream"] for arrival in arrivals if arrival.get("upstream")]
        assert asked and all(line.startswith(f"CONNECT seen.test:{PORT} ") for line in asked)
        assert not clear(json.dumps(asked))
        assert [fields(arrival) for arrival in arrivals if "headers" in arrival] == [[BEARER]] * 3
    finally:
        host.stop()
        host.install(ONE, TWO)
        host.open_ports()
        host.start()


def test_the_names_of_the_world_are_those_of_the_tests() -> None:
    assert {"seen.test", "twin.test", "second.test", "allowed.test"} <= set(NAMES)
    assert _egress_proxy.config([ONE, TWO]).count("\ninclude ") == 1
    assert "\ninclude " not in _egress_proxy.config([ONE])
