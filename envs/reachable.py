"""Whether anybody can be at a URL, asked without asking anything of them."""

import socket
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from .threads import in_thread

CONNECT_S = 5.0


async def refusal(url: str) -> str | None:
    """Why nobody is there: the connection is refused, or the host has no address. None: somebody may be.

    >>> await refusal("http://127.0.0.1:9/grade")
    '127.0.0.1:9 refuses the connection'

    What takes longer, or goes through a proxy, is left to the first request. Raises `ValueError` for a port
    that is none.
    """
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    if host is None or (parts.scheme in getproxies() and not proxy_bypass(host)):
        return None
    try:
        (await in_thread(lambda: socket.create_connection((host, port), CONNECT_S))).close()
    except ConnectionRefusedError:
        return f"{host}:{port} refuses the connection"
    except socket.gaierror as error:
        return None if error.errno == socket.EAI_AGAIN else f"{host} has no address: {error.strerror}"
    except OSError:  # weather
        return None
    return None
