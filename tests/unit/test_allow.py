"""The allow-list of the network policy, and which addresses a name may stand for."""

import socket
import subprocess
import sys
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import run_async

from palaestra.sandboxes._proxy.addresses import Upstream, dial_public, is_public
from palaestra.sandboxes._proxy.refused import Refused
from palaestra.sandboxes.allow import Allow, canonical_host


@pytest.mark.parametrize(
    ("entry", "host", "port"),
    [
        ("pypi.org", "pypi.org", 80),
        ("pypi.org", "PyPI.ORG.", 443),
        ("PyPI.org.", "pypi.org", 443),
        ("pypi.org:8080", "pypi.org", 8080),
        ("*.example.org", "a.example.org", 443),
        ("*.example.org", "a.b.example.org", 80),
        ("*.example.org:8443", "a.example.org", 8443),
        ("bücher.example", "xn--bcher-kva.example", 443),
        ("xn--bcher-kva.example", "BÜCHER.example", 443),
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("1.1.1.1", "1.1.1.1", 443),
        ("[::1]:80", "0:0:0:0:0:0:0:1", 80),
        ("[2606:4700::1111]", "2606:4700::1111", 443),
        ("mirror:8080", "mirror", 8080),
        ("_service.example.org", "_service.example.org", 443),
    ],
)
def test_an_entry_permits_what_it_names_in_every_spelling(entry: str, host: str, port: int) -> None:
    assert Allow.parse([entry]).permits(host, port)


@pytest.mark.parametrize(
    ("entry", "host", "port"),
    [
        ("pypi.org", "pypi.org", 8080),
        ("pypi.org:8080", "pypi.org", 443),
        ("pypi.org", "a.pypi.org", 443),
        ("pypi.org", "notpypi.org", 443),
        ("*.example.org", "example.org", 443),
        ("*.example.org", "badexample.org", 443),
        ("*.example.org", "example.org.evil.net", 443),
        ("*.example.org", "..example.org", 443),
        ("127.0.0.1:8080", "127.0.0.1", 80),
        ("127.0.0.1:8080", "127.1", 8080),
        ("127.0.0.1:8080", "2130706433", 8080),
        ("127.0.0.1:8080", "0x7f.0.0.1", 8080),
        ("127.0.0.1:8080", "127.0.0.1.", 8080),
        ("127.0.0.1:8080", "::ffff:127.0.0.1", 8080),
        ("127.0.0.1:8080", "localhost", 8080),
        ("pypi.org", "", 443),
        ("pypi.org", "pypi.org\0.evil.net", 443),
    ],
)
def test_an_entry_permits_nothing_else(entry: str, host: str, port: int) -> None:
    assert not Allow.parse([entry]).permits(host, port)


def test_an_empty_list_permits_nothing() -> None:
    assert not Allow.parse([]).permits("pypi.org", 443)


@pytest.mark.parametrize(
    ("entry", "cure"),
    [
        ("https://pypi.org", "without scheme or path"),
        ("pypi.org/simple", "without scheme or path"),
        ("*", 'network="open" allows every host'),
        ("*.*.org", "Write 'example.org'"),
        ("a.*.org", "Write 'example.org'"),
        ("", "Write 'example.org'"),
        ("pypi.org:", "Write 'example.org'"),
        ("pypi.org:0", "1 to 65535"),
        ("pypi.org:65536", "1 to 65535"),
        ("pypi.org:https", "Write 'example.org'"),
        ("pypi.org:٤٤٣", "Write 'example.org'"),
        ("a b.org", "Write 'example.org'"),
        ("a..org", "Write 'example.org'"),
        ("-a.org", "Write 'example.org'"),
        ("a" * 64 + ".org", "Write 'example.org'"),
        ("127.1:80", "Write 'example.org'"),
        ("1.2.3.0x4", "Write 'example.org'"),
        ("::1", "Write 'example.org'"),
        ("[fe80::1%eth0]:80", "Write 'example.org'"),
        ("*.10.0.0.1:80", "no names lie below an address"),
        ("127.0.0.1", "'127.0.0.1:80'"),
        ("[::1]", "'[::1]:80'"),
        ("169.254.169.254", "'169.254.169.254:80'"),
    ],
)
def test_a_bad_entry_is_named_with_its_cure(entry: str, cure: str) -> None:
    with pytest.raises(ValueError) as error:
        Allow.parse(["good.example", entry])
    assert f"SandboxSpec.network has {entry!r:.100}" in str(error.value)
    assert cure in str(error.value)


@given(st.text(), st.integers())
def test_permits_answers_whatever_it_is_asked(host: str, port: int) -> None:
    assert not Allow.parse(["*.example.org", "127.0.0.1:8080"]).permits(host, port)


@given(st.from_regex(r"[a-zA-Z0-9._:%x-]{1,40}", fullmatch=True))
def test_a_canonical_host_is_its_own_canonical_form(host: str) -> None:
    try:
        name = canonical_host(host)
    except ValueError:
        return
    assert canonical_host(name) == name


@given(st.from_regex(r"[0-9a-fxA-FX.]{1,20}", fullmatch=True))
def test_what_a_resolver_reads_as_an_address_is_one_or_no_host(host: str) -> None:
    try:
        read = socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return
    with suppress(ValueError):
        assert canonical_host(host) == read


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
        *(
            "169.254.169.254",
            "100.100.100.200",
            "192.0.0.192",
            "168.63.129.16",
            "224.0.0.1",
            "255.255.255.255",
        ),
        *("::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1", "100::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1"),
        *(
            "64:ff9b::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1.1.1.1",
            "2002:7f00:1::",
            "2001:0:7f00:1::",
        ),
    ],
)
def test_addresses_of_this_machine_its_networks_and_its_cloud_are_not(address: str) -> None:
    assert not is_public(address)


class Net:
    """A resolver that gives one answer after the other, and connections that only say where they went."""

    def __init__(self, *answers: list[str], dead: tuple[str, ...] = ()) -> None:
        self.answers = list(answers)
        self.dead = dead
        self.connected: list[tuple[str, int]] = []

    async def resolve(self, host: str, port: int) -> list[str]:
        return self.answers.pop(0)

    async def connect(self, host: str, port: int) -> Upstream:
        self.connected.append((host, port))
        if host in self.dead:
            raise ConnectionRefusedError(111, "Connection refused")
        raise Arrived

    def dial(self, host: str) -> None:
        run_async(dial_public(host, 443, resolve=self.resolve, connect=self.connect))


class Arrived(Exception):
    """In place of a connection."""


def test_a_name_is_looked_up_once_and_the_checked_address_is_what_is_connected_to() -> None:
    net = Net(["1.1.1.1"], ["127.0.0.1"])
    with pytest.raises(Arrived):
        net.dial("rebinds.example")
    assert net.connected == [("1.1.1.1", 443)]
    with pytest.raises(Refused, match=r"127\.0\.0\.1.*not a public address.*SandboxSpec\.network"):
        net.dial("rebinds.example")
    assert net.connected == [("1.1.1.1", 443)]


@pytest.mark.parametrize("address", ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1%1", "127.0.0.1"])
def test_a_name_with_one_address_inside_is_not_connected_to_at_all(address: str) -> None:
    net = Net(["1.1.1.1", address])
    with pytest.raises(Refused):
        net.dial("metadata.example")
    assert net.connected == []


def test_the_next_address_is_tried_when_one_refuses() -> None:
    net = Net(["2606:4700::1111", "1.1.1.1"], dead=("2606:4700::1111",))
    with pytest.raises(Arrived):
        net.dial("pypi.org")
    assert net.connected == [("2606:4700::1111", 443), ("1.1.1.1", 443)]


def test_an_address_that_the_list_names_is_connected_to_without_a_look_up() -> None:
    net = Net()
    with pytest.raises(Arrived):
        net.dial("127.0.0.1")
    assert net.connected == [("127.0.0.1", 443)]


def test_the_system_resolver_is_checked_too() -> None:
    with pytest.raises(Refused, match="localhost stands for"):
        run_async(dial_public("localhost", 80, connect=Net().connect))


OWN_PUBLIC_ADDRESS = """
import asyncio, fcntl, socket, struct
from palaestra.sandboxes._proxy.addresses import dial_public
from palaestra.sandboxes._proxy.refused import Refused
from palaestra.sandboxes.allow import Allow
from palaestra.sandboxes.proxy import serve

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
    for name, address in ((b"lo", "127.0.0.1"), (b"lo:1", "9.9.9.9")):
        sockaddr = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))
        fcntl.ioctl(control, 0x8916, struct.pack("16s16s", name, sockaddr))  # SIOCSIFADDR
    fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", b"lo", 1))  # SIOCSIFFLAGS: up

async def resolve(host, port):
    return ["9.9.9.9"]

class Reply:
    def write(self, data): pass
    def close(self): pass
    async def drain(self): pass

async def ask_for_the_address(policy):
    client = asyncio.StreamReader()
    client.feed_data(b"GET http://9.9.9.9:8000/ HTTP/1.1\\r\\nHost: 9.9.9.9:8000\\r\\n\\r\\n")
    client.feed_eof()
    await serve(policy, client, Reply(), on_refusal=told)

def told(refusal):
    if refusal.status == 403:  # a server that hangs up at once is no matter here
        print(refusal.reason)

async def main():
    async with await asyncio.start_server(lambda reader, writer: writer.close(), "9.9.9.9", 8000) as server:
        reader, writer = await asyncio.open_connection("9.9.9.9", 8000)
        writer.close()
        try:
            await dial_public("wildcard.example", 8000, resolve=resolve)
        except Refused as refused:
            print(refused)
        await ask_for_the_address(Allow.everything())
        await ask_for_the_address(Allow.parse(["9.9.9.9:8000"]))

asyncio.run(main())
"""


def test_a_public_address_of_this_machine_is_refused_for_the_drivers_own_ports_are_there() -> None:
    command = [
        "unshare",
        "--user",
        "--map-root-user",
        "--net",
        sys.executable,
        "-P",
        "-c",
        OWN_PUBLIC_ADDRESS,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if done.returncode != 0 and done.stderr.startswith("unshare:"):
        pytest.skip(f"needs a network of its own: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    by_name, by_address = done.stdout.splitlines()
    assert by_name.startswith("wildcard.example stands for 9.9.9.9, which is not")
    assert by_address.startswith("9.9.9.9:8000 is this machine's own")
