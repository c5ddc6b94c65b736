"""The process that removes a driver's containers when the driver is gone, however it went.

    driver ══socket══> reaper ──HTTP──> Docker engine
       end of file: the driver was closed or killed

`reapers.py` starts it by this file's path, with the first container: standard library only, nothing of ours.
On its standard input it hears "+NAME" when a container is asked for, "-NAME" when the engine has answered.
An engine whose asker was killed meanwhile makes the container all the same: those are waited for.
"""

import json
import signal
import socket
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

_PAUSE_S = 0.1
_GIVE_UP_S = 60.0
"""When the engine does not answer; what is left then is swept by the next driver."""
_LATE_FACTOR, _LATE_S = 4.0, 1.5
"""How long a container may be late: so many times the slowest creation seen, and at least so long."""


class _LocalConnection(HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("docker", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Engine:
    """The three calls that a reaper needs."""

    def __init__(self, address: str, owner: str) -> None:
        self._address = urlsplit(address)
        self._owner = owner

    def containers(self) -> dict[str, str]:
        """Names by id of what is left of the owner's."""
        filters = json.dumps({"label": [f"palaestra.owner={self._owner}"]})
        found = self._call("GET", "/containers/json?" + urlencode({"all": "1", "filters": filters}))
        # One that is being removed may have lost its name already.
        return {each["Id"]: "".join(each["Names"] or ()).strip("/") for each in found}

    def remove(self, container: str) -> None:
        """Ask for it; one that is on its way out already is as good."""
        self._call("DELETE", f"/containers/{quote(container)}?force=1&v=1")

    def _call(self, method: str, path: str) -> Any:
        with closing(self._connection()) as connection:
            connection.request(method, path)
            response = connection.getresponse()
            body = response.read()
        if response.status >= 500:
            raise OSError(f"{method} {path}: {response.status} {body[:200]!r}")
        return json.loads(body) if response.status == 200 else None

    def _connection(self) -> HTTPConnection:
        if self._address.scheme.endswith("unix"):
            return _LocalConnection(self._address.netloc + self._address.path, 10)
        return HTTPConnection(self._address.hostname or "localhost", self._address.port or 2375, timeout=10)


class Unfinished:
    """The creations that were under way when the driver went."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._began_s: dict[str, float] = {}
        self._slowest_s = 0.0
        for line in lines:
            name = line[1:].decode().strip()
            if line.startswith(b"+"):
                self._began_s[name] = time.monotonic()
            elif name in self._began_s:
                self._slowest_s = max(self._slowest_s, time.monotonic() - self._began_s.pop(name))
        self._until_s = time.monotonic() + max(_LATE_FACTOR * self._slowest_s, _LATE_S)

    def found(self, names: Iterable[str]) -> None:
        for name in names:
            self._began_s.pop(name, None)

    @property
    def may_come(self) -> bool:
        return bool(self._began_s) and time.monotonic() < self._until_s


def reap(engine: Engine, unfinished: Unfinished) -> None:
    """Remove containers until none is left and none can come."""
    give_up_s = time.monotonic() + _GIVE_UP_S
    with ThreadPoolExecutor(8) as threads:
        while time.monotonic() < give_up_s:
            try:
                left = engine.containers()
                unfinished.found(left.values())
                if not left and not unfinished.may_come:
                    return
                list(threads.map(engine.remove, left))
            except (OSError, HTTPException, ValueError):
                pass  # the engine is down or busy: the next look tells
            time.sleep(_PAUSE_S)


def main(address: str, owner: str) -> None:
    # What ends the driver's terminal, session or service shall not end this first.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    reap(Engine(address, owner), Unfinished(sys.stdin.buffer))


if __name__ == "__main__":
    main(*sys.argv[1:])
