"""Where text for people goes, and JSON for machines."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager

import typer
from rich.console import Console

from ..trainer.reporting.metrics import strict_json

WIDE = 160
"""Columns where nobody has a terminal: a log need not be wrapped."""


def open_console(*, stderr: bool = False) -> Console:
    """Standard output, or standard error where a command prints JSON."""
    console = _Console(stderr=stderr)
    return console if console.is_terminal else _Console(stderr=stderr, width=WIDE)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Whoever read has left, as in `palaestra train ... | head`. The work is not for them alone: it goes
        on, and so does the text, to standard error; where nobody is there either, to nobody."""
        if self.stderr:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        else:
            os.dup2(2, 1)
            typer.echo("palaestra: nobody reads standard output any more; the rest comes here", err=True)


@contextmanager
def only_json(as_json: bool) -> Generator[None, None, None]:
    """Inside, what anybody prints goes to standard error: standard output is for `print_json` afterwards.

    Environments print, and so do the processes that they start.
    """
    if not as_json or sys.stdout is None:  # it was closed before we started
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def print_json(value: object) -> None:
    """One line of strict JSON."""
    typer.echo(strict_json(value))


def printable(text: str) -> str:
    """Text of a model or a tool, which might speak to the terminal: control characters are shown as code.

    >>> printable("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode()
        for each in text
    )
