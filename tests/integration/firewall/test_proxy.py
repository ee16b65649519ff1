# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The egress proxy with real squid behind the real table: what gets through, what does not, what is said and what is logged.

Each way out is open to an ordinary user, who is not sent through the proxy; see peers S-28, S-29 and S-31.
"""
from __future__ import annotations

import concurrent.futures
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
from cordon_monitoring import config
from cordon_monitoring.critical_api import failure
from cordon_monitoring.pipeline import Pipeline
from cordon_monitoring.proxy_line import proxy_event

from ansible_collections.cordon.agent_host.plugins.module_utils import _egress, _egress_proxy

from .network import AGENT, ORDINARY, OTHER_AGENT, Network, agent, named
from .proxy_host import INSIDE, NAMES, PORT, WORLD, ProxyHost, say


def granted(name: str, inspect: bool = False, port: int = PORT, networks: tuple[str, ...] = ()) -> dict:
    return {**named(name, port), "inspect": inspect, "networks": list(networks)}


ONE = agent("one", AGENT, *(granted(name) for name in ("allowed.test", "second.test", "metadata.test", "gone.test",
                                                       "closed.test", "*.wild.test", "loop.test", "private.test")))
INSPECTED = [granted(name, inspect=True) for name in ("seen.test", "twin.test", "untrusted.test", "gone.test")]
TWO = agent("two", OTHER_AGENT, granted("second.test"), *INSPECTED, granted("closed.test", inspect=True, port=9),
            granted("private.test", networks=("10.20.0.0/24",)), granted("*.inside.test", networks=(f"{INSIDE}/32",)),
            granted("b.inside.test"))


@pytest.fixture(scope="module")
def host(network: Network) -> Iterator[ProxyHost]:
    """The proxy of two agents."""
    if not shutil.which("squid"):
        pytest.fail("squid is missing: apt-get install squid-openssl (tests/setup/debian-packages.txt)")
    network.forget()
    built = ProxyHost(network)
    try:
        built.build()
        built.install(ONE, TWO)
        built.start()
        yield built
    finally:
        # Shown where a test has failed.
        print((built.run / "messages").read_text()[-3000:], (built.run / "proxy.log").read_text()[-3000:])
        built.close()
        network.forget()


@pytest.fixture
def fresh(host: ProxyHost) -> Iterator[ProxyHost]:
    """The proxy, for a test that changes it: as it was afterwards."""
    yield host
    host.stop()
    host.install(ONE, TWO)
    host.start()


def through(host: ProxyHost, name: str = "one", connect: str = f"allowed.test:{PORT}", **more) -> dict:
    sni = more.pop("sni", connect.rpartition(":")[0])
    return {"via": host.listener(name), "connect": connect, "sni": sni, "hosts": [connect.rpartition(":")[0]], **more}


def tried(host: ProxyHost, user: str, attempt: dict) -> tuple[dict, list[dict]]:
    """What became of one attempt, and what was logged of it."""
    before = host.lines()
    return host.tries(user, attempt)[0], host.log(before)


def shown(events: list[dict]) -> list[tuple]:
    return [(event["outcome"], event["reason"], event["host"], event["sni"]) for event in events]


# --- what gets through --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["allowed.test", "a.wild.test"])
def test_an_allowed_name_is_passed_on_unread(host, name):
    ca = str(host.config / "internal-ca.pem")
    found, logged = tried(host, AGENT, through(host, connect=f"{name}:{PORT}", ca=ca, alpn=["h2", "http/1.1"]))

    # The server's own certificate, and its choice of protocol: nobody stands between.
    assert (found["tls"], found["issuer"], found["alpn"]) == ("TLSv1.3", "Company", "h2")
    assert found["answers"] == [f"200 {name}"]
    assert shown(logged) == [("opened", None, name, name), ("closed", None, name, name)]
    closed = logged[1]
    assert (closed["agent"], closed["port"], closed["method"], closed["path"]) == ("one", PORT, "CONNECT", None)
    assert closed["bytes_sent"] > 300 and closed["bytes_received"] > 500 and not closed["inspected"]


def test_case_and_a_dot_at_the_end_do_not_count(host):
    found, _logged = tried(host, AGENT, through(host, connect=f"ALLOWED.test.:{PORT}", sni="Allowed.TEST"))
    assert found["answers"]


def test_a_websocket_goes_both_ways(host):
    code = (f"import sys; sys.path.insert(0, {str(host.root)!r}); import proxy_programs as p\n"
            f"s, _ = p.opened({{'via': {host.listener('one')!r}, 'connect': 'allowed.test:{PORT}'}})\n"
            "t = p.secured(s, {'sni': 'allowed.test'})\n"
            "t.sendall(b'GET / HTTP/1.1\\r\\nHost: allowed.test\\r\\nUpgrade: websocket\\r\\n\\r\\n')\n"
            "p._until(t, b'\\r\\n\\r\\n'); t.sendall(b'hello'); print(t.recv(100).decode())\n")
    assert host.run_as(AGENT, "/usr/bin/python3", "-B", "-c", code).stdout.strip() == "echo hello"


def test_a_big_upload_and_a_hundred_tunnels_at_once(host):
    done = curl(host, f"https://allowed.test:{PORT}/up", "--data-binary", "@/usr/bin/python3")
    assert f'"got": {os.path.getsize("/usr/bin/python3")}' in done.stdout

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda _number: host.tries(AGENT, *[through(host)] * 5), range(4))
        assert all(one["answers"] == ["200 allowed.test"] for result in results for one in result)
    held = [host.hold(AGENT, "one", "allowed.test") for _number in range(20)]
    assert [say(one) for one in held] == ["200 allowed.test"] * 20
    for one in held:
        one.kill()
        one.wait()
    time.sleep(0.5)  # their lines are no other test's


# --- what does not ------------------------------------------------------------------------------------

# One address in the spellings that programs read as it, and what else a cloud answers on.
METADATA = ("169.254.169.254", "2852039166", "0xa9fea9fe", "0xa9.0xfe.0xa9.0xfe", "0251.0376.0251.0376", "169.16689662",
            "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::1]", "[fd00:ec2::254]",
            "[fe80::a9fe:a9fe]", "100.100.100.200")
REFUSED = [
    # the CONNECT line, the SNI, the reason that is logged
    (f"denied.test:{PORT}", "denied.test", "name"),
    (f"wild.test:{PORT}", "wild.test", "name"),
    (f"xallowed.test:{PORT}", "xallowed.test", "name"),
    (f"allowed.test.denied.test:{PORT}", "allowed.test", "name"),
    (f"{WORLD}:{PORT}", "allowed.test", "name"),
    *((f"{spelling}:80", "allowed.test", "metadata") for spelling in METADATA),
    (f"metadata.google.internal:{PORT}", "metadata.google.internal", "metadata"),
    ("allowed.test:22", "allowed.test", "port"),
    (f"metadata.test:{PORT}", "metadata.test", "metadata"),
    (f"gone.test:{PORT}", "gone.test", "unresolved"),
    (f"loop.test:{PORT}", "loop.test", "unresolved"),
    (f"seen.test:{PORT}", "seen.test", "name"),
]


@pytest.mark.parametrize(("connect", "sni", "reason"), REFUSED, ids=[line[0] for line in REFUSED])
def test_what_is_not_granted_gets_a_plain_403_and_is_logged(host, connect, sni, reason):
    found, logged = tried(host, AGENT, through(host, connect=connect, sni=sni))
    assert (found["connect"], found["tls"]) == ("403", None)
    assert [(event["outcome"], event["reason"], event["agent"]) for event in logged] == [("refused", reason, "one")]


def test_a_refused_name_is_never_asked_of_the_dns(host):
    """Else the labels of a name would carry data out (NVIDIA/OpenShell #1169)."""
    host.questions()
    host.tries(AGENT, through(host, connect=f"secret-data.denied.test:{PORT}"), through(host, connect=f"new.wild.test:{PORT}"))
    assert set(host.questions()) == {"new.wild.test"}


def test_an_address_is_never_asked_of_the_dns(host):
    host.questions()
    host.tries(AGENT, *(through(host, connect=f"{spelling}:80") for spelling in (*METADATA, WORLD)))
    assert host.questions() == []


# Agent, name, whether it is led inside: the resolver answers the proxy with what either agent's entries grant.
LED = [("two", "private.test", True), ("one", "private.test", False), ("two", "a.inside.test", True),
       ("two", "b.inside.test", False), ("two", "second.test", True), ("one", "second.test", True)]


@pytest.mark.parametrize(("name", "host_name", "led"), LED)
def test_what_one_agents_entry_grants_leads_no_other_agent_there(host, name, host_name, led):
    found, logged = tried(host, {"one": AGENT, "two": OTHER_AGENT}[name], through(host, name, f"{host_name}:{PORT}"))
    if led:
        assert found["answers"] == [f"200 {host_name}"]
    else:
        assert found["connect"] == "403"
        assert shown(logged) == [("refused", "unresolved", host_name, None)]


TLS_REFUSED = [
    ("allowed.test", None),            # no SNI: nobody could say where it goes
    ("allowed.test", "denied.test"),   # fronting
    ("allowed.test", "second.test"),   # fronting between two names that are both allowed
    ("a.wild.test", "b.wild.test"),    # the same below one wildcard
]


@pytest.mark.parametrize(("connect", "sni"), TLS_REFUSED)
def test_a_handshake_for_another_host_is_cut(host, connect, sni):
    direct = host.tries(ORDINARY, {"to": f"{WORLD}:{PORT}", "sni": sni, "hosts": ["x"]}, side=host.network.host)[0]
    assert direct["answers"], "the world must answer an ordinary user"
    found, logged = tried(host, AGENT, through(host, connect=f"{connect}:{PORT}", sni=sni))

    assert found["connect"] == "200" and found["tls"] in ("SSLZeroReturnError", "UNEXPECTED_EOF_WHILE_READING",
                                                          "ConnectionResetError", "TLS/SSL connection has been closed (EOF)")
    assert not found["answers"]
    assert shown(logged) == [("refused", "sni", connect, sni)]


def test_plain_http_is_refused(host):
    done = host.run_as(AGENT, "curl", "-sS", "-x", f"http://{host.listener('one')}", "http://allowed.test/data")
    assert "Only CONNECT is served here" in done.stdout
    before = host.lines()
    host.run_as(AGENT, "curl", "-sS", "-x", f"http://{host.listener('one')}", "http://allowed.test/data?secret=1")
    (event,) = host.log(before)
    assert (event["outcome"], event["reason"], event["method"], event["path"]) == ("refused", "method", "GET", "/data")


def test_a_header_without_end_and_one_that_is_no_request(host):
    huge, odd = f"CONNECT allowed.test:{PORT} HTTP/1.1\r\nX: {'a' * 70000}\r\n\r\n", 'PO"ST / HTTP/1.1\r\nHost: x\r\n\r\n'
    before = host.lines()
    found = host.tries(AGENT, through(host, raw=huge), through(host, raw=odd))
    assert [one["connect"] for one in found] == ["431", "400"]
    assert [(event["outcome"], event["reason"]) for event in host.log(before)] == [("refused", "too large"),
                                                                                  ("refused", "unreadable")]


def test_the_listener_of_another_agent_is_out_of_reach(host):
    assert host.tries(ORDINARY, through(host, "two", f"second.test:{PORT}"))[0]["connect"] == "200"
    (found,) = host.tries(AGENT, through(host, "two", f"second.test:{PORT}"))
    assert found["connect"] == "ConnectionRefusedError"


def test_the_inner_listener_is_out_of_reach(host):
    inner = f"{_egress.address('one')}:{_egress_proxy.TLS_PORT}"
    state = f"{_egress.PROXY_LISTENS_TO}:{_egress.PROXY_PORT}"
    for where in (inner, state):
        assert host.tries(ORDINARY, {**through(host), "via": where})[0]["connect"] in ("200", "403")
        assert host.tries(AGENT, {**through(host), "via": where})[0]["connect"] == "ConnectionRefusedError"


def test_around_the_proxy_there_is_no_way(host):
    """NO_PROXY, or a program that reads no variable."""
    straight = {"to": f"{WORLD}:{PORT}", "sni": "allowed.test", "hosts": ["allowed.test"]}
    assert host.tries(ORDINARY, straight)[0]["answers"] == ["200 allowed.test"]
    assert host.tries(AGENT, straight)[0]["connect"] == "ConnectionRefusedError"


def test_one_who_only_holds_a_connection_keeps_nobody_waiting(host):
    address, port = host.listener("one").split(":")
    code = (f"import socket, time\nfor _ in range(50):\n s = socket.create_connection(('{address}', {port}))\n"
            " s.send(b'CONNECT all'); globals().setdefault('kept', []).append(s)\nprint('held', flush=True)\ntime.sleep(20)")
    slow = subprocess.Popen(host._command(host.network.host, AGENT, "/usr/bin/python3", "-c", code), stdout=subprocess.PIPE)
    assert slow.stdout.readline().strip() == b"held"
    started = time.monotonic()
    assert host.tries(AGENT, through(host))[0]["answers"] == ["200 allowed.test"]
    assert time.monotonic() - started < 3
    slow.kill()
    slow.wait()


# --- what the usual programs print --------------------------------------------------------------------


def curl(host: ProxyHost, *arguments: str, name: str = "one", user: str = AGENT) -> subprocess.CompletedProcess[str]:
    environment = {"https_proxy": f"http://{host.listener(name)}", "CURL_CA_BUNDLE": str(host.config / "ca-bundle.pem")}
    return host.run_as(user, "curl", "-sS", "-m", "10", "--http1.1", *arguments, environment=environment)


def test_what_a_person_reads_when_a_name_is_refused(host):
    proxy = f"http://{host.listener('one')}"
    url = f"https://denied.test:{PORT}/"
    assert "CONNECT tunnel failed, response 403" in curl(host, url).stderr
    environment = {"https_proxy": proxy, "GIT_TERMINAL_PROMPT": "0"}
    assert "CONNECT tunnel failed, response 403" in host.run_as(AGENT, "git", "ls-remote", url, environment=environment).stderr
    code = f"import urllib.request as u; u.urlopen({url!r})"
    python = host.run_as(AGENT, "/usr/bin/python3", "-c", code, environment=environment)
    assert "Tunnel connection failed: 403 Forbidden" in python.stderr


# --- inspected hosts ----------------------------------------------------------------------------------


def test_an_inspected_request_is_logged_with_method_path_and_status(host):
    before = host.lines()
    done = curl(host, f"https://seen.test:{PORT}/503/a%20b?key=secret", "-d", "x", name="two", user=OTHER_AGENT)
    assert '"sni": "seen.test"' in done.stdout, done.stderr
    events = host.log(before)
    assert shown(events) == [("opened", None, "seen.test", "seen.test"), ("answered", None, "seen.test", "seen.test")]
    request = events[1]
    assert (request["method"], request["path"], request["status"], request["inspected"]) == ("POST", "/503/a%20b", 503, True)
    assert "key=" not in (host.run / "proxy.log").read_text()


def test_inside_an_inspected_connection_every_request_is_for_its_host(host):
    """The server has both names on its certificate and would answer for either."""
    attempt = {**through(host, "two", f"seen.test:{PORT}"), "hosts": [f"seen.test:{PORT}", f"twin.test:{PORT}"]}
    found, logged = tried(host, OTHER_AGENT, attempt)
    assert found["answers"] == ["200 seen.test", "403"]
    told = [(event["outcome"], event["reason"]) for event in logged]
    assert told == [("opened", None), ("answered", None), ("refused", "host")]


def test_an_inspected_host_that_nobody_signed_for_is_not_vouched_for(host):
    done = curl(host, f"https://untrusted.test:{PORT}/", name="two", user=OTHER_AGENT)
    assert '"sni"' not in done.stdout
    assert host.log()[-1]["outcome"] == "failed"


# --- critical APIs ------------------------------------------------------------------------------------

FAILING = [
    # Where the calls go, and what the alert says of them.
    (f"https://seen.test:{PORT}/503/x", "it answered 503 (3)"),
    ("https://closed.test:9/", "the proxy could not reach it: ERR_CONNECT_FAIL"),
    (f"https://untrusted.test:{PORT}/", "the proxy could not reach it: ERR_SECURE_CONNECT_FAIL"),
    (f"https://gone.test:{PORT}/", "the proxy could not reach it: its name has no address that the agent may be led to (3)"),
]


@pytest.mark.parametrize(("url", "words"), FAILING, ids=[line[0] for line in FAILING])
def test_a_critical_api_that_fails_raises_one_alert(host, url, words):
    name = url.split("/")[2].partition(":")[0]
    raised: list[dict] = []
    pipeline = Pipeline(config.Settings("web1", None, None, 900, True, []), raised.append)
    agents = config.Agents({}, frozenset({"two"}), critical={"two": [name]})

    def call(*urls: str) -> list[str]:
        before, told = host.lines(), len(raised)
        for one in urls:
            curl(host, one, name="two", user=OTHER_AGENT)
        time.sleep(0.3)
        for number, line in enumerate((host.run / "proxy.log").read_text().splitlines()[before:], before):
            pipeline.take_proxy(line, f"1:{number}", agents, time.monotonic())
        return [alert["alert"] for alert in raised[told:]]

    assert call(*[f"https://seen.test:{PORT}/fine"] * 4) == []
    assert call(url, url) == []
    assert call(url, url) == ["api-failing"]
    assert raised[0]["summary"].startswith(f"two: 3 calls of {name} failed within 5 minutes: {words}")


def test_an_agent_that_trusts_no_proxy_raises_no_alert(host):
    """A handshake that the agent itself breaks off is not the API's fault."""
    before = host.lines()
    found = host.tries(OTHER_AGENT, through(host, "two", f"seen.test:{PORT}", ca="/etc/ssl/certs/ca-certificates.crt"))
    assert found[0]["tls"] == "CERTIFICATE_VERIFY_FAILED"
    lines = (host.run / "proxy.log").read_text().splitlines()[before:]
    events = [proxy_event(line, "1:1", "web1", {}) for line in lines]
    assert events and [failure(event) for event in events] == [None] * len(events)


def test_the_authority_signs_for_inspected_names_only(host):
    text = subprocess.run(["openssl", "x509", "-in", host.places.certificate, "-noout", "-text"],
                          check=True, capture_output=True, text=True).stdout
    assert [name for name in NAMES if f"DNS:{name}" in text] == ["seen.test", "twin.test", "untrusted.test"]
    assert os.stat(host.places.key).st_mode & 0o777 == 0o640 and os.stat(host.places.key).st_uid == 0
    assert host.run_as(AGENT, "cat", host.places.key).returncode == 1


# node's own fetch takes a proxy from the environment from version 24 on; this makes the tunnel by hand, for its trust.
NODE = """
const socket = require('net').connect(PROXYPORT, 'PROXYHOST', () => {
  socket.write('CONNECT seen.test:PORT HTTP/1.1\\r\\n\\r\\n');
  socket.once('data', () => {
    const tls = require('tls').connect({socket, servername: 'seen.test'},
                                       () => tls.write('GET / HTTP/1.1\\r\\nHost: seen.test:PORT\\r\\n\\r\\n'));
    tls.on('data', data => { console.log('' + data); if (('' + data).includes('sni')) process.exit(); });
  });
});
"""
CLIENTS = {
    "curl": ["curl", "-sS", "URL"],
    "python": ["/usr/bin/python3", "-c", "import urllib.request as u; print(u.urlopen('URL').read().decode())"],
    "git": ["git", "ls-remote", "URL"],
    "node": ["node", "-e", NODE],
}


@pytest.mark.parametrize("program", sorted(CLIENTS))
def test_usual_programs_trust_an_inspected_host(host, program):
    """By the environment that the agent's unit gives them."""
    if not shutil.which(CLIENTS[program][0], path="/usr/bin:/bin"):
        pytest.skip(f"{program} is no package of the tests; where it is installed, it is tried")
    address, port = host.listener("two").split(":")
    environment = {key: value.replace(_egress.CA_BUNDLE, str(host.config / "ca-bundle.pem"))
                   for key, value in _egress.proxy_environment(TWO, address).items()}
    words = CLIENTS[program]
    for what, value in (("URL", f"https://seen.test:{PORT}/"), ("PROXYHOST", address), ("PROXYPORT", port), ("PORT", str(PORT))):
        words = [word.replace(what, value) for word in words]
    done = host.run_as(OTHER_AGENT, *words, environment=environment)
    if program == "git":  # which finds no repository there, but gets an answer
        assert (done.returncode, done.stderr) == (0, "")
        environment.pop("GIT_SSL_CAINFO")
        assert "certificate" in host.run_as(OTHER_AGENT, *words, environment=environment).stderr
    else:
        assert '"sni": "seen.test"' in done.stdout, done.stderr


# --- changes ------------------------------------------------------------------------------------------


def test_a_wider_allowlist_cuts_no_tunnel(fresh):
    held = fresh.hold(AGENT, "one", "allowed.test")
    assert say(held) == "200 allowed.test"
    wider = agent("one", AGENT, *ONE["egress"], granted("denied.test"))
    fresh.install(wider, TWO)
    fresh.reload()
    assert fresh.tries(AGENT, through(fresh, connect=f"denied.test:{PORT}"))[0]["answers"] == ["200 denied.test"]
    assert say(held) == "200 allowed.test"


ENDED = ("closed", "ConnectionResetError", "BrokenPipeError", "SSLEOFError", "SSLZeroReturnError")


def test_a_narrower_allowlist_ends_its_tunnels_and_no_other_agents(fresh):
    held, others = fresh.hold(AGENT, "one", "allowed.test"), fresh.hold(OTHER_AGENT, "two", "second.test")
    assert (say(held), say(others)) == ("200 allowed.test", "200 second.test")
    before = fresh.family()
    assert fresh.outgoing(WORLD) == 2
    fresh.install(agent("one", AGENT, granted("second.test")), TWO)
    fresh.reload()
    assert say(held) in ENDED
    assert fresh.outgoing(WORLD) == 1, "the way on to the server has ended too"
    assert fresh.tries(AGENT, through(fresh))[0]["connect"] == "403"
    assert say(others) == "200 second.test"
    assert fresh.squid.poll() is None and fresh.family() == before, "the unit stays active, and squid's process too"


def test_an_agent_that_is_gone_leaves_no_tunnel(fresh):
    held, others = fresh.hold(AGENT, "one", "allowed.test"), fresh.hold(OTHER_AGENT, "two", "second.test")
    fresh.install(TWO)
    fresh.reload()
    assert say(held) in ENDED and say(others) == "200 second.test"


def test_a_network_that_is_taken_away_ends_what_stands_in_it(fresh):
    held = fresh.hold(OTHER_AGENT, "two", "private.test")
    assert say(held) == "200 private.test"
    rest = [entry for entry in TWO["egress"] if entry["name"] != "private.test"]
    fresh.install(agent("one", AGENT, granted("private.test", networks=("10.20.0.0/24",))),
                  agent("two", OTHER_AGENT, *rest, granted("private.test")))
    fresh.reload()
    assert say(held) in ENDED
    assert fresh.tries(OTHER_AGENT, through(fresh, "two", f"private.test:{PORT}"))[0]["connect"] == "403"
    assert fresh.tries(AGENT, through(fresh, connect=f"private.test:{PORT}"))[0]["answers"] == ["200 private.test"]


def test_a_kernel_that_ends_no_connection_ends_all_tunnels(fresh):
    """CONFIG_INET_DIAG_DESTROY is a choice; ss passes over what it cannot end in silence."""
    held, others = fresh.hold(AGENT, "one", "allowed.test"), fresh.hold(OTHER_AGENT, "two", "second.test")
    fresh.install(agent("one", AGENT, granted("second.test")), TWO)
    fresh.reload("ask = p.sockets; p.sockets = lambda *words: ask(*[word for word in words if word != '--kill']); ")
    assert say(held) in ENDED and say(others) in ENDED
    assert fresh.tries(AGENT, through(fresh, connect=f"second.test:{PORT}"))[0]["answers"] == ["200 second.test"]


def test_a_host_that_is_inspected_from_now_on_ends_its_tunnels(fresh):
    held, others = fresh.hold(OTHER_AGENT, "two", "second.test"), fresh.hold(AGENT, "one", "allowed.test")
    assert say(held) == "200 second.test"
    fresh.install(ONE, agent("two", OTHER_AGENT, granted("second.test", inspect=True)))
    fresh.reload()
    assert say(held) in ENDED and say(others) == "200 allowed.test"
    assert '"sni": "second.test"' in curl(fresh, f"https://second.test:{PORT}/", name="two", user=OTHER_AGENT).stdout
    assert fresh.log()[-1]["inspected"]


def test_while_the_proxy_is_dead_agents_are_refused_at_once(fresh):
    for pid in fresh.family():
        os.kill(pid, signal.SIGKILL)
    fresh.squid.wait(10)
    fresh.squid = None
    started = time.monotonic()
    for _tries in range(50):
        found = fresh.tries(AGENT, through(fresh))[0]["connect"]
        if found == "ConnectionRefusedError":
            break
    assert found == "ConnectionRefusedError" and time.monotonic() - started < 10


# --- a company's own proxy ----------------------------------------------------------------------------

COMPANY = """\
http_port 10.20.0.2:3180
pid_filename none
cache_log /dev/null
access_log stdio:{run}/company.log
hosts_file {run}/hosts
cache deny all
pinger_enable off
netdb_filename none
shutdown_lifetime 0 seconds
http_access allow CONNECT
http_access deny all
"""


def test_through_the_companys_proxy_and_never_around_it(fresh):
    fresh.stop()
    fresh.run.joinpath("hosts").write_text("".join(f"{WORLD} {name}\n" for name in NAMES))
    (fresh.root / "company.conf").write_text(COMPANY.format(run=fresh.run))
    company = subprocess.Popen(fresh._command(fresh.network.world, "proxy", "/usr/sbin/squid", "-N", "-f",
                                              str(fresh.root / "company.conf")), stderr=subprocess.DEVNULL)
    try:
        upstream = {"address": "10.20.0.2", "port": 3180}
        fresh.install(ONE, TWO, upstream=upstream)
        fresh.start()
        time.sleep(1)
        assert fresh.tries(AGENT, through(fresh))[0]["answers"] == ["200 allowed.test"]
        assert fresh.tries(AGENT, through(fresh, sni="second.test"))[0]["answers"] == []
        assert fresh.tries(AGENT, through(fresh, connect=f"denied.test:{PORT}"))[0]["connect"] == "403"
        assert '"sni": "seen.test"' in curl(fresh, f"https://seen.test:{PORT}/", name="two", user=OTHER_AGENT).stdout
        assert f"CONNECT allowed.test:{PORT}" in (fresh.run / "company.log").read_text()
        assert "denied.test" not in (fresh.run / "company.log").read_text()
    finally:
        company.kill()
        company.wait()
    assert fresh.tries(AGENT, through(fresh))[0]["answers"] == []


def test_memory(host):
    """No claim but a bound: the two processes of squid and its helpers, proportional set size."""
    pids = [host.parent()]
    for pid in pids:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            pids += [int(word) for word in file.read().split()]
    sizes = []
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            sizes += [int(line.split()[1]) for line in file if line.startswith("Pss:")]
    print(sizes, 'kB')
    assert sum(sizes) < 120_000, sizes
