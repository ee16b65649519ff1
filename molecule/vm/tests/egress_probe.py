# Copyright: the cordon.agent_host authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs in the guest, as an agent and as an ordinary user: try each way out, and say what came of it.

attempt([[how, argument, ...], ...]) prints one JSON list, [outcome, seconds] for each; rounds() does so repeatedly.
An outcome is a word, what the other side said, or the name of an error. The tests judge. Standard library only, one file.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import socket
import ssl
import struct
import subprocess
import time
import urllib.error
import urllib.request

PATIENCE = 4.0  # seconds: longer than anything that is refused may take
TYPES = {"A": 1, "NULL": 10, "MX": 15, "TXT": 16, "AAAA": 28, "SVCB": 64, "HTTPS": 65}
CODES = {0: "NOERROR", 2: "SERVFAIL", 3: "NXDOMAIN", 5: "REFUSED"}


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def opened(address, port):
    """A connection by the spelling as it stands: the C library reads decimal, octal and mapped addresses."""
    place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(*place[:2])
    sock.settimeout(PATIENCE)
    sock.connect(place[4])
    return sock


def tcp(address, port):
    """Connect, say something, and tell the first line of the answer."""
    with opened(address, port) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return sock.recv(200).decode("latin-1").splitlines()[0]


def by_name(name, port):
    """Resolve as every program does, connect, and tell what the server says first."""
    with socket.create_connection((name, port), PATIENCE) as sock:
        return sock.recv(200).decode("latin-1").strip()


def udp_by_name(name, port):
    place = socket.getaddrinfo(name, port, type=socket.SOCK_DGRAM)[0]
    return udp(place[4][0], port)


def connect(address, port):
    """Connect only: for servers that speak when spoken to."""
    with opened(address, port):
        return "connected"


def udp(address, port):
    with socket.socket(family(address), socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.sendto(b"data out", (address, port))
        return sock.recv(200).decode()


def multicast(address, port, interface):
    """Send on the link; who listens there is not known."""
    v6 = family(address) == socket.AF_INET6
    with socket.socket(family(address), socket.SOCK_DGRAM) as sock:
        sock.sendto(b"data out", (address, port, 0, socket.if_nametoindex(interface)) if v6 else (address, port))
    return "sent"


def ping(address):
    """Through a ping socket; like ping(8) it asks for errors, IP_RECVERR and IPV6_RECVERR."""
    v6 = family(address) == socket.AF_INET6
    with socket.socket(family(address), socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP) as sock:
        sock.setsockopt(*((socket.IPPROTO_IPV6, 25) if v6 else (socket.IPPROTO_IP, 11)), 1)
        sock.settimeout(PATIENCE)
        sock.sendto(struct.pack("!BBHHH", 128 if v6 else 8, 0, 0, 0, 1) + b"data out", (address, 0))
        return "answered" if sock.recv(200) else ""


def protocol(address, number, kind):
    """A packet of another transport than TCP and UDP. kind: raw, or the kernel's own dgram or stream."""
    with socket.socket(family(address), {"raw": socket.SOCK_RAW, "dgram": socket.SOCK_DGRAM}[kind], number) as sock:
        sock.sendto(b"data out", (address, 0 if kind == "raw" else 443))
    return "sent"


def packet(interface):
    """A frame past all that looks at IP."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"data out", (interface, 0x0800, 0, 0, b"\xff" * 6))
    return "sent"


# --- DNS ----------------------------------------------------------------------------------------------


def dns(server, name, kind, transport):
    """A question in our own words: "NOERROR 1 203.0.113.10", the code, the number of records, the addresses."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    query = struct.pack("!HHHHHH", 4711, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", TYPES[kind], 1)
    with socket.socket(family(server), socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE)
        if transport == "udp":
            sock.sendto(query, (server, 53))
            return said(sock.recv(4096))
        sock.connect((server, 53))
        sock.sendall(struct.pack("!H", len(query)) + query)
        return said(sock.recv(4098)[2:])


def said(reply):
    flags, _questions, answers = struct.unpack_from("!HHH", reply, 2)
    place = name_end(reply, 12) + 4
    found = []
    for _answer in range(answers):
        place = name_end(reply, place)
        kind, _class, _ttl, length = struct.unpack_from("!HHIH", reply, place)
        data = reply[place + 10:place + 10 + length]
        place += 10 + length
        found += [socket.inet_ntoa(data)] if kind == TYPES["A"] else []
    return " ".join([CODES.get(flags & 15, str(flags & 15)), str(answers), *found])


def name_end(reply, place):
    while reply[place]:
        if reply[place] & 0xC0:
            return place + 2
        place += 1 + reply[place]
    return place + 1


def dns_again(server, name, times):
    """Every address that a name had when asked so often, with pauses."""
    found = set()
    for _time in range(times):
        found |= set(dns(server, name, "A", "udp").split(" ")[2:])
        time.sleep(0.3)
    return " ".join(sorted(found))


# --- TLS and the proxy --------------------------------------------------------------------------------


def spoken(sock, sni, host, path, method="GET"):
    """TLS on a connection that stands, whoever's certificate, and the first line and body of the answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(sock, server_hostname=sni) as secure:
        secure.sendall(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while data := secure.recv(4096):
            answer += data
    return answer.decode("latin-1").split("\r\n", 1)[0]


def tls(address, port, sni, host, path="/"):
    return spoken(opened(address, port), sni, host, path)


def proxied(proxy, port, target, sni, host, path="/"):
    """CONNECT, and TLS inside; "CONNECT 403" where the proxy says no."""
    sock = opened(proxy, port)
    sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    answer = sock.recv(4096).decode("latin-1")
    status = answer.split(" ")[1]
    return spoken(sock, sni, host, path) if status == "200" else f"CONNECT {status}"


def plain_in_tunnel(proxy, port, target):
    """CONNECT, and inside it something that is no TLS."""
    with opened(proxy, port) as sock:
        sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        sock.recv(4096)
        sock.sendall(b"SSH-2.0-data\r\n")
        return sock.recv(200).decode("latin-1") or "closed"


def asked(proxy, port, line):
    """Any request line to a proxy, and the status of its answer."""
    with opened(proxy, port) as sock:
        sock.sendall(f"{line} HTTP/1.1\r\nHost: outside.example.net\r\nContent-Length: 0\r\n\r\n".encode())
        return "HTTP " + sock.recv(4096).decode("latin-1").split(" ")[1]


def fetch(url, method="GET", environment=None):
    """As usual programs do: the proxy and the authorities come from the environment, and the certificate is checked."""
    before = dict(os.environ)
    os.environ.update(environment or {})
    try:
        request = urllib.request.Request(url, method=method, data=b"data" if method == "POST" else None)
        with urllib.request.urlopen(request, timeout=15) as answer:
            return f"{answer.status} {answer.read().decode()}"
    except urllib.error.HTTPError as error:
        return f"{error.code}"
    except urllib.error.URLError as error:
        if isinstance(error.reason, OSError) and error.reason.errno:
            raise error.reason from error
        return f"{error.reason}"
    finally:
        os.environ.clear()
        os.environ.update(before)


# --- Others that would act for us ---------------------------------------------------------------------


def unix(path):
    """Connect to a daemon's socket and hear what it says; D-Bus wants a first word."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(path)
        sock.sendall(b"\0AUTH EXTERNAL\r\n")
        return sock.recv(200).decode("latin-1").split()[0]


def log(text):
    """As logger(1) and syslog(3) do."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect("/dev/log")
        sock.send(f"<13>exfiltration: {text}".encode())
    return "sent"


def run(*argv):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
    return f"exit {done.returncode} {(done.stdout or done.stderr).strip()[-300:]}"


def end(pid):
    """Whether a signal would be delivered (kill(2), signal 0)."""
    os.kill(pid, signal.SIG_DFL)
    return "may be ended"


def flush_rules():
    """Ask nf_tables to delete every table, as `nft flush ruleset` does, without nft (linux/netfilter/nfnetlink.h)."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as sock:
        sock.settimeout(PATIENCE)
        request, ack = 1, 4
        parts = [(16, 10, request), (10 << 8 | 2, 0, request | ack), (17, 10, request)]  # begin, NFT_MSG_DELTABLE, end
        sock.send(b"".join(struct.pack("=IHHIIBBH", 20, kind, flags, number, 0, 0, 0, socket.htons(resource))
                           for number, (kind, resource, flags) in enumerate(parts)))  # fmt: skip
        (code,) = struct.unpack_from("=i", sock.recv(4096), 16)
    return errno.errorcode[-code] if code else "flushed"


def become(user):
    """setuid(2) to somebody whom no rule matches."""
    if ctypes.CDLL(None, use_errno=True).setuid(user):
        raise OSError(ctypes.get_errno(), "setuid")
    return "became"


def hold(name, address, port, marker):
    """A connection by name that stands while what opened it is taken away: until a new one is refused, and once more."""
    old = socket.create_connection((name, port), PATIENCE)
    stream = old.makefile("rwb")
    stream.readline()
    for number in range(120):
        stream.write(f"{marker} {number}\n".encode())
        stream.flush()
        if not stream.readline():
            return "the old connection ended"
        try:
            opened(address, port).close()
        except ConnectionRefusedError:
            stream.write(b"once more\n")
            stream.flush()
            return stream.readline().decode().strip()
        time.sleep(0.5)
    return "no new connection was refused"


HOWS = (tcp, by_name, udp_by_name, connect, udp, multicast, ping, protocol, packet, dns, dns_again, tls, proxied,
        plain_in_tunnel, asked, fetch, unix, log, run, end, flush_rules, become, hold)  # fmt: skip


def attempt(wanted):
    """Print what became of each, and after how many seconds."""
    print(json.dumps(outcomes(wanted)), flush=True)


def rounds(wanted, seconds):
    """The same again and again, one line of JSON for each round."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        attempt(wanted)
        time.sleep(1)


def outcomes(wanted):
    named = {how.__name__: how for how in HOWS}
    results = []
    for how, *arguments in wanted:
        start = time.monotonic()
        try:
            outcome = named[how](*arguments)
        except TimeoutError:
            outcome = "ETIMEDOUT"
        except ssl.SSLError as error:
            outcome = f"TLS {error.reason}"
        except OSError as error:
            outcome = errno.errorcode.get(error.errno, repr(error)) if error.errno and error.errno > 0 else repr(error)
        except subprocess.TimeoutExpired:
            outcome = "ETIMEDOUT"
        results.append([outcome, time.monotonic() - start])
    return results
