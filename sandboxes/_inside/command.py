"""In a new child: become the program."""

from __future__ import annotations

import os
import signal
import sys
from functools import lru_cache
from typing import NamedTuple, NoReturn

from .program import Program, parse

_READ_AT_START = ("PYTHON", "PATH", "LANG", "LC_", "LD_", "TZ", "MALLOC_", "GLIBC_")
"""Variables that an interpreter or its libraries look at once: a fork of ours would not see them."""


class Command(NamedTuple):
    """What to run."""

    argv: tuple[str, ...]
    env: dict[str, str]
    """Added to what every program gets."""
    directory: str
    """To run it in; relative to the workspace."""


def become(command: Command) -> Program:
    """The program, if the very interpreter that runs this can become it by a fork; otherwise, exec."""
    if command.directory != ".":
        _enter(command.directory)
    if command.env:  # an update with nothing costs a fork 38 pages
        os.environ.update(command.env)
    if command.argv[0] in python_names() and not any(map(_is_read_at_start, command.env)):
        program = parse(command.argv)
        if program is not None:
            return program
    _execute(command.argv)


def _enter(directory: str) -> None:
    try:
        os.chdir(directory)
    except OSError as error:
        os.write(2, f"sandbox: cwd {directory}: {error.strerror}\n".encode(errors="backslashreplace"))
        os._exit(126)


def _is_read_at_start(name: str) -> bool:
    return name.startswith(_READ_AT_START)


@lru_cache(None)
def python_names() -> frozenset[str]:
    """The commands that mean this interpreter. Asked first in a root that no program can change."""
    path = os.path.realpath(sys.executable)
    names = {sys.executable, path}
    for name in (f"python{sys.version_info[0]}.{sys.version_info[1]}", "python3", "python"):
        for directory in os.get_exec_path():
            found = os.path.join(directory, name)
            if os.path.exists(found):
                names |= {name, found} if os.path.realpath(found) == path else set()
                break
    return frozenset(names)


def _execute(argv: tuple[str, ...]) -> NoReturn:
    """exec, with a shell's exit codes for a program that cannot be started."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        os.write(2, f"sandbox: {argv[0]}: {error.strerror}\n".encode(errors="backslashreplace"))
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)
