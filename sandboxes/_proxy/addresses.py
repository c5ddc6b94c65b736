"""Which addresses a name may stand for, and the connection to one that was checked."""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from .refused import Refused

Upstream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
"""What `asyncio.open_connection` gives."""
Dial = Callable[[str, int], Awaitable[Upstream]]
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

MAX_ADDRESSES = 8
"""Of one name that are tried."""
CONNECT_S = 5.0
"""For one address, before the next is tried."""
MAX_LOOKUPS = 8
"""Names that are looked up at one time, by all sandboxes together."""

_NOT_PUBLIC = [
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host, for its guests
        "169.254.0.0/16",  # link-local; clouds serve credentials at 169.254.169.254
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
    )
]
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = [
    ipaddress.IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
]
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether an address is one of the internet's: not of this machine, its networks or its cloud.

    An IPv6 address that carries an IPv4 one (mapped, NAT64) is what the carried one is.

    >>> is_public("1.1.1.1"), is_public("169.254.169.254"), is_public("::ffff:10.0.0.1")
    (True, False, False)
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        carried = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else ip.ipv4_mapped
        if carried is None:
            return ip in _PUBLIC_V6 and not any(ip in network for network in _NOT_PUBLIC_V6)
        ip = carried
    return not any(ip in network for network in _NOT_PUBLIC)


async def resolve_by_system(host: str, port: int) -> Sequence[str]:
    """The addresses of a name, best first."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_threads(), _look_up, host, port)


def _look_up(host: str, port: int) -> Sequence[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@cache
def _threads() -> ThreadPoolExecutor:
    """Of their own: slow names must not take the threads that the rest of the driver works with."""
    return ThreadPoolExecutor(MAX_LOOKUPS, thread_name_prefix="palaestra-names")


async def dial_public(
    host: str, port: int, *, resolve: Resolve = resolve_by_system, connect: Dial = asyncio.open_connection
) -> Upstream:
    """Connect to an allowed host. Raises `Refused` when its name stands for an address that is not public.

    The name is looked up once, and the connection goes to the address that was checked. An address in place
    of a name is connected to as it is: the allow-list names it.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        addresses = await resolve(host, port)
    else:
        return await connect(host, port)
    for address in addresses:
        if not is_public(address) or is_own(address):
            raise Refused(
                403,
                f"{host} stands for {address}, which is not a public address; if it is meant, add the "
                "address with its port to SandboxSpec.network, and ask for the address",
            )
    return await _first_that_answers(addresses[:MAX_ADDRESSES], port, connect)


async def _first_that_answers(addresses: Sequence[str], port: int, connect: Dial) -> Upstream:
    error = OSError("the name has no address")
    for address in addresses:
        try:
            async with asyncio.timeout(CONNECT_S):
                return await connect(address, port)
        except OSError as failure:
            error = failure
    raise error


def is_own(address: str) -> bool:
    """Whether this machine itself has the address: the driver's own ports listen there."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))  # a datagram socket's connect only picks the route: nothing is sent
        except OSError:
            return False  # no route to it: the connection will say so
        return ipaddress.ip_address(probe.getsockname()[0]) == ipaddress.ip_address(address)
