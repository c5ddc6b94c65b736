"""ClientHellos as OpenSSL makes them."""

import ssl


def client_hello(server_name: str | None, *, max_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    """The first record of a TLS client."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.maximum_version = max_version
    to_client, from_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, from_client, server_hostname=server_name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return from_client.read()
    raise AssertionError("no handshake ends without a server")


def in_records(hello: bytes, size: int) -> bytes:
    """The same hello in records of at most `size` bytes."""
    message = hello[5:]
    pieces = [message[start : start + size] for start in range(0, len(message), size)]
    return b"".join(hello[:3] + len(piece).to_bytes(2, "big") + piece for piece in pieces)
