"""Which hosts a sandbox may reach: the allow-list of `SandboxSpec.network`."""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ._proxy.addresses import is_public

HTTP_PORT, HTTPS_PORT = 80, 443

_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_ENDPOINT = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^:\[\]]+))(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """A host and a port, as `CONNECT`, `Host` and the allow-list write them.

    >>> Endpoint.parse("Bücher.Example.", default_port=80)
    Endpoint(host='xn--bcher-kva.example', port=80)
    """

    host: str
    """In the form of `canonical_host`; in an `Allow`, "*." in front stands for every name below it."""
    port: int

    @classmethod
    def parse(cls, text: str, *, default_port: int | None = None) -> "Endpoint":
        """Raises `ValueError` for anything but "host:port" or "[IPv6]:port"; a default replaces the port."""
        found = _ENDPOINT.fullmatch(text)
        port = default_port if found is None or found["port"] is None else int(found["port"])
        if found is None or port is None:
            raise ValueError(f"{text!r:.100} is not of the form host:port")
        if not 0 < port < 1 << 16:
            raise ValueError(f"{text!r:.100} names a port that is not in 1 to 65535")
        return cls(host=canonical_host(found["v6"] or found["host"]), port=port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Allow:
    """An allow-list. A name without a port means 80 and 443; "*." means names below, not the name itself.

    >>> policy = Allow.parse(["pypi.org", "*.example.org:8443", "127.0.0.1:8080"])
    >>> policy.permits("PyPI.org.", 443), policy.permits("a.example.org", 8443), policy.permits("pypi.org", 1)
    (True, True, False)
    """

    endpoints: frozenset[Endpoint]
    """One for each host and port."""
    is_open: bool = False
    """Every host, by every port; of addresses, the public ones."""

    @classmethod
    def everything(cls) -> "Allow":
        """What `network="open"` means: every host whose addresses are public."""
        return cls(endpoints=frozenset(), is_open=True)

    @classmethod
    def parse(cls, entries: Iterable[str]) -> "Allow":
        """Raises `ValueError`, naming the entry and the cure."""
        return cls(endpoints=frozenset(endpoint for entry in entries for endpoint in _parse_entry(entry)))

    def permits(self, host: str, port: int) -> bool:
        try:
            name = canonical_host(host)
        except ValueError:
            return False
        if self.is_open:
            return is_public(name) if is_address(name) else True
        patterns = [name]
        if not is_address(name):
            labels = name.split(".")
            patterns += ["*." + ".".join(labels[start:]) for start in range(1, len(labels))]
        return any(Endpoint(host=pattern, port=port) in self.endpoints for pattern in patterns)


def _parse_entry(entry: str) -> set[Endpoint]:
    """One endpoint, or two for an entry without a port."""
    name = entry.removeprefix("*.")
    try:
        endpoints = {Endpoint.parse(name, default_port=port) for port in (HTTP_PORT, HTTPS_PORT)}
    except ValueError as error:
        raise ValueError(
            f"SandboxSpec.network has {entry!r:.100}: {error}. Write 'example.org', 'example.org:8080', "
            "'*.example.org' or '127.0.0.1:8080', without scheme or path; network=\"open\" allows every host"
        ) from None
    host = next(iter(endpoints)).host
    if not is_address(host):
        return endpoints if name == entry else {replace(at, host=f"*.{host}") for at in endpoints}
    if name != entry:
        raise ValueError(f"SandboxSpec.network has {entry!r:.100}: no names lie below an address")
    if len(endpoints) > 1 and not is_public(host):
        raise ValueError(
            f"SandboxSpec.network has {entry!r:.100}, which is not a public address; if it is meant, "
            f"name its port: '{Endpoint(host=host, port=HTTP_PORT)}'"
        )
    return endpoints


def canonical_host(host: str) -> str:
    """The one spelling of a host. Raises `ValueError` for what is neither a name nor an address.

    Other spellings of an address (127.1, 0x7f.0.0.1, 2130706433), which resolvers would take, are neither.

    >>> canonical_host("EXAMPLE.org."), canonical_host("2606:4700:0::1111")
    ('example.org', '2606:4700::1111')
    """
    if ":" in host:
        if "%" in host:
            raise ValueError(f"{host!r:.100} has a zone, which means something on one machine only")
        return str(ipaddress.IPv6Address(host))
    if is_address(host):
        return host
    name = host if host.isascii() else host.encode("idna").decode("ascii")
    name = name.removesuffix(".").lower()
    if len(name) > 253 or not _NAME.fullmatch(name) or _NUMBER.fullmatch(name.rpartition(".")[2]):
        raise ValueError(f"{host!r:.100} is neither a host name nor an address")
    return name


def is_address(host: str) -> bool:
    """Whether a host is an address itself.

    >>> is_address("127.0.0.1"), is_address("::1"), is_address("example.org")
    (True, True, False)
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
