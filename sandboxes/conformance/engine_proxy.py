"""Stands between the Docker SDK and its engine, and has it fail: answers errors, falls silent, hangs up."""

import os
import socket
import tempfile
import threading
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from .._docker.reapers import stop_reaper

_BODY = b'{"message": "write /var/lib/docker: no space left on device"}'
_ERROR = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(_BODY), _BODY)
)


class EngineProxy:
    """A Unix socket that passes everything on, but for what a fault takes."""

    def __init__(self, path: str, engine: str) -> None:
        self._engine = engine
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(64)
        self._open: set[socket.socket] = set()
        self._losing: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.failing: tuple[bytes, ...] = ()
        """Requests (the starts of their paths' ends, such as b"/start") that get error 500."""
        self.silent: tuple[bytes, ...] = ()
        """Requests that are held back and get no answer."""
        self.lossy: tuple[bytes, ...] = ()
        """Requests that are obeyed, and whose answer is lost with the connection."""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed: nobody calls any more
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), closing(client), closing(socket.socket(socket.AF_UNIX)) as engine:
            engine.connect(self._engine)
            with self._lock:
                self._open |= {client, engine}
            threading.Thread(target=self._pass_back, args=(engine, client), daemon=True).start()
            while data := client.recv(1 << 16):
                if _asks_for(data, self.silent):
                    continue
                if _asks_for(data, self.failing):
                    client.sendall(_ERROR)
                    break
                if _asks_for(data, self.lossy):
                    with self._lock:
                        self._losing.add(client)
                engine.sendall(data)
            _hang_up(engine)

    def _pass_back(self, engine: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):  # the other direction has ended both
            while (data := engine.recv(1 << 16)) and client not in self._losing:
                client.sendall(data)
            _hang_up(client)

    def hang_up(self) -> None:
        """Every connection breaks, as when the engine is restarted."""
        with self._lock:
            for end in self._open:
                _hang_up(end)
            self._open.clear()

    def close(self) -> None:
        _hang_up(self._listener)
        self._listener.close()
        self.hang_up()


def _asks_for(data: bytes, ends: tuple[bytes, ...]) -> bool:
    """Whether a request begins here whose path ends so."""
    if not data.startswith((b"POST ", b"GET ", b"DELETE ")):
        return False
    path = data.split(b" ", 2)[1].partition(b"?")[0]
    return any(path.endswith(end) for end in ends)


def _hang_up(end: socket.socket) -> None:
    with suppress(OSError):  # it has ended already
        end.shutdown(socket.SHUT_RDWR)


@contextmanager
def engine_proxy() -> Generator[EngineProxy, None, None]:
    """Inside, the SDK of this process finds its engine behind a proxy."""
    before = os.environ.get("DOCKER_HOST")
    with tempfile.TemporaryDirectory(prefix="palaestra-engine-") as folder:
        path = str(Path(folder, "engine.sock"))
        proxy = EngineProxy(path, (before or "unix:///var/run/docker.sock").removeprefix("unix://"))
        os.environ["DOCKER_HOST"] = f"unix://{path}"
        try:
            yield proxy
        finally:
            # While there is somebody at this address to hear it.
            stop_reaper(f"unix://{path}")
            if before is None:
                del os.environ["DOCKER_HOST"]
            else:
                os.environ["DOCKER_HOST"] = before
            proxy.close()
