"""One tiny training run, watched on a terminal, for all tests that look at a finished run."""

import fcntl
import os
import pty
import struct
import termios
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from command import Done, forked, write_recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyRun:
    """What `palaestra train tiny.yaml --json` left, in a folder where it is runs/tiny."""

    cwd: Path
    recipe: Path
    done: Done
    screen: str
    """Every byte that the terminal got."""

    @property
    def folder(self) -> Path:
        return self.cwd / "runs" / "tiny"


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
