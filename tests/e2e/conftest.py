"""One tiny training run, watched on a terminal, for all tests that look at a finished run."""

import fcntl
import os
import pty
import struct
import termios
import threading
from collections.abc import Generator
from contextlib import contextmanager

import pytest
from command import TinyRun, forked, write_recipe


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Read only: a test that changes something copies `cwd` first."""
    cwd = tmp_path_factory.mktemp("tiny")
    recipe = write_recipe(cwd)
    with _terminal() as (name, seen):
        done = forked("train", recipe, "--json", cwd=cwd, env={"TERM": "xterm"}, terminal=name)
    return TinyRun(cwd=cwd, recipe=recipe, done=done, screen=b"".join(seen).decode())


@contextmanager
def _terminal() -> Generator[tuple[str, list[bytes]], None, None]:
    """(the device's name, what was written to it: whole after the block)."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    seen: list[bytes] = []
    reader = threading.Thread(target=_read, args=(master, seen))
    reader.start()
    try:
        yield os.ttyname(slave), seen
    finally:
        os.close(slave)
        reader.join()
        os.close(master)


def _read(master: int, seen: list[bytes]) -> None:
    while True:
        try:
            data = os.read(master, 1 << 16)
        except OSError:  # the last writer has closed it
            return
        seen.append(data)
