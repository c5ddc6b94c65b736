"""Programs that look for a way out: networks, sockets of the host, other address families."""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from .allow_list import only_listed_hosts
from .row import expect, held, row
from .target import Target

WAYS_OUT = """
import os, socket, struct, sys
tcp, tcp6, udp = map(int, sys.argv[1:4])
addresses = sys.argv[4:]
tries = [(2, 1, ("127.0.0.1", tcp)), (10, 1, ("::1", tcp6)), (2, 2, ("127.0.0.1", udp)),
         (2, 1, ("169.254.169.254", 80)), (10, 1, ("fd00:ec2::254", 80)), (2, 1, ("8.8.8.8", 53)),
         (2, 2, ("8.8.8.8", 53)), (2, 2, ("255.255.255.255", 9)), (2, 2, ("224.0.0.251", 5353)),
         (10, 1, ("2001:4860:4860::8888", 53)), (10, 2, ("ff02::1", 9)), (2, 1, ("172.17.0.1", tcp)),
         (2, 1, ("10.0.2.2", tcp)), (2, 1, ("0.0.0.0", tcp))]
tries += [(2, 1, (address, tcp)) for address in addresses] + [(2, 2, (address, udp)) for address in addresses]
for family, kind, address in tries:
    try:
        with socket.socket(family, kind) as s:
            s.settimeout(1)
            if kind == 2: s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            s.connect(address)
            s.send(b"out")
            if kind == 1: print("reached", address)
    except OSError: pass
icmp = struct.pack("!BBHHH", 8, 0, 0xF7FF, 0, 0)
for kind, protocol in ((3, 1), (2, 1), (3, 255)):
    try:
        with socket.socket(2, kind, protocol) as s:
            for address in ("8.8.8.8", "172.17.0.1", *addresses):
                s.sendto(icmp, (address, 0)); print("sent ICMP")
    except OSError: pass
for family in (2, 10):
    try: socket.socket(family, 3).close(); print("made a raw socket of family", family)
    except OSError: pass
for name in ("example.com", "metadata.google.internal", "pypi.org"):
    try: socket.getaddrinfo(name, 80); print("resolved", name)
    except OSError: pass
print("done")
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Listeners:
    """What the driver listens with, as a model server beside it would."""

    tcp: socket.socket
    tcp6: socket.socket | None
    """None on a machine without IPv6."""
    udp: socket.socket
    path: str
    """Of a Unix socket that everybody may connect to."""
    by_path: socket.socket
    abstract: socket.socket

    def heard(self) -> list[str]:
        """Who called, after all."""
        found: list[str] = []
        for name in ("tcp", "tcp6", "by_path", "abstract"):
            listener: socket.socket | None = getattr(self, name)
            with suppress(BlockingIOError):
                if listener is not None:
                    listener.accept()[0].close()
                    found.append(name)
        with suppress(BlockingIOError):
            found.append(f"udp: {self.udp.recv(99)!r}")
        return found


@contextmanager
def _listeners() -> Generator[Listeners, None, None]:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="palaestra-sockets-"))
        os.chmod(folder, 0o777)
        path = f"{folder}/open.sock"
        by_path, abstract = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
        by_path.bind(path)
        os.chmod(path, 0o777)
        abstract.bind("\0" + path)
        tcp6: socket.socket | None = None
        with suppress(OSError):  # this machine has no IPv6
            tcp6 = stack.enter_context(socket.create_server(("::1", 0), family=socket.AF_INET6))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("0.0.0.0", 0))
        tcp = stack.enter_context(socket.create_server(("0.0.0.0", 0)))
        for listener in filter(None, (by_path, abstract, tcp6, tcp, udp)):
            listener.setblocking(False)
            if listener is not udp:
                listener.listen()
        yield Listeners(tcp=tcp, tcp6=tcp6, udp=udp, path=path, by_path=by_path, abstract=abstract)


def _own_addresses() -> list[str]:
    with suppress(OSError):  # its name may have no address
        return sorted(
            {str(found[4][0]) for found in socket.getaddrinfo(socket.gethostname(), 0, socket.AF_INET)}
        )
    return []


@row(20, "without a network policy nothing leaves: no TCP, UDP, ICMP, DNS, metadata, loopback of the host")
async def ways_out(target: Target) -> str:
    with _listeners() as ours:
        ports = [
            ours.tcp.getsockname()[1],
            ours.tcp6.getsockname()[1] if ours.tcp6 is not None else 9,
            ours.udp.getsockname()[1],
        ]
        result = await target.python(WAYS_OUT, *map(str, ports), *_own_addresses(), timeout_s=50)
        held(result)
        expect(not ours.heard(), f"the driver was reached by {ours.heard()}")
    words = "TCP, UDP, ICMP and DNS to the host, to the net and to metadata services"
    return f"{words}; {await only_listed_hosts(target)}"


SOCKETS = """
import os, socket, sys
path, abstract, data = sys.argv[1], "\\0" + sys.argv[1], sys.argv[2].encode()
def attempt(what, call):
    try: call(); print("reached", what)
    except OSError: pass
known = [path, abstract, "/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock",
         "/run/systemd/private", "/run/dbus/system_bus_socket", "/tmp/.X11-unix/X0", "\\0/tmp/.X11-unix/X0"]
try: lines = [line.split() for line in open("/proc/net/unix")]
except OSError: lines = []
known += [words[7].replace("@", "\\0", 1) for words in lines if len(words) == 8]
for address in known:
    for kind in (1, 2, 5):
        def connect():
            with socket.socket(1, kind) as s: s.settimeout(1); s.connect(address); s.send(data)
        attempt(repr(address), connect)
        def turn():
            with socket.socketpair(1, kind)[0] as s: s.connect(address)
        attempt(f"{address!r} by a pair", turn)
        def send():
            with socket.socketpair(1, kind)[0] as s: s.sendto(data, address)
        if kind == 2: attempt(f"{address!r} by a datagram", send)
families = {"vsock": 40, "netlink": 16, "packet": 17, "alg": 38, "bluetooth": 31, "can": 29, "tipc": 30,
            "xdp": 44, "rds": 21, "qipcrtr": 42, "key": 15, "smc": 43, "ax25": 3, "vmci": 46}
for name, family in families.items():
    for kind in (1, 2, 3, 5): attempt(f"the family {name}", lambda: socket.socket(family, kind).close())
for name in ("vsock", "vhost-net", "vhost-vsock", "kvm", "net/tun", "fuse"):
    attempt(f"/dev/{name}", lambda: open(f"/dev/{name}"))
left, right = socket.socketpair()
left.send(b"pairs still work")
assert right.recv(99) == b"pairs still work"
print("done")
"""


@row(21, "no socket of the host is within reach, and no other family is there")
async def sockets(target: Target) -> str:
    with _listeners() as ours:
        held(await target.python(SOCKETS, ours.path, secrets.token_hex(8), timeout_s=30))
        expect(not ours.heard(), f"the driver was reached by {ours.heard()}")
    return "Unix sockets by path and by name, the engine's, netlink, vsock, packet and eleven more families"
