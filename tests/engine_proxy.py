"""A Docker engine with faults: a Unix socket in front of the real one, which spoils chosen answers."""

import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path

ENGINE = "/var/run/docker.sock"
REFUSAL = b'{"message": "a fault on purpose"}'
ANSWER_500 = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(REFUSAL), REFUSAL)
)


class Fault(Enum):
    """What becomes of a request; the engine gets it in any case, unless it says otherwise."""

    FAILED = "the engine obeys, and the answer is 500"
    DROPPED = "the engine obeys, and the connection ends without an answer"
    UNHEARD = "500, and the engine never hears of it"


Choose = Callable[[str], Fault | None]
"""Called with a request's first line, such as "POST /v1.41/containers/create HTTP/1.1"; may block."""


@contextmanager
def spoiled_engine(path: Path, choose: Choose) -> Generator[str, None, None]:
    """The DOCKER_HOST of an engine of which `choose` spoils what it likes."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(64)
        thread = threading.Thread(target=_serve, args=(server, choose))
        thread.start()
        try:
            yield f"unix://{path}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve(server: socket.socket, choose: Choose) -> None:
    with suppress(OSError):  # it was shut down
        while True:
            client, _ = server.accept()
            engine = socket.socket(socket.AF_UNIX)
            engine.connect(ENGINE)
            link = _Link(client, engine, choose)
            threading.Thread(target=link.up, daemon=True).start()
            threading.Thread(target=link.down, daemon=True).start()


class _Link:
    """One connection. A request begins a chunk: clients send the next one after the answer."""

    def __init__(self, client: socket.socket, engine: socket.socket, choose: Choose) -> None:
        self._client, self._engine, self._choose = client, engine, choose
        self._fault: Fault | None = None
        self._answered = threading.Event()
        self._answered.set()

    def up(self) -> None:
        with suppress(OSError):
            while data := self._client.recv(1 << 16):
                first, _, rest = data.partition(b"\r\n")
                if rest and first.endswith(b" HTTP/1.1"):
                    self._answered.clear()
                    self._fault = self._choose(first.decode())
                if self._fault is Fault.UNHEARD:
                    self._spoil()
                    return
                self._engine.sendall(data)
            # A client that was killed has asked all the same.
            self._answered.wait(10)
            self._engine.shutdown(socket.SHUT_WR)

    def down(self) -> None:
        with suppress(OSError):
            while data := self._engine.recv(1 << 16):
                self._answered.set()
                if self._fault is not None:
                    self._spoil()
                    return
                self._client.sendall(data)
        self._end()

    def _spoil(self) -> None:
        if self._fault is not Fault.DROPPED:
            self._client.sendall(ANSWER_500)
        self._end()

    def _end(self) -> None:
        for end in (self._client, self._engine):
            with suppress(OSError):  # the other side was faster
                end.shutdown(socket.SHUT_RDWR)
            end.close()
