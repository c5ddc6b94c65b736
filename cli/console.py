"""Where text for people goes."""

from rich.console import Console

WIDE = 160
"""Columns where nobody has a terminal: a log need not be wrapped."""


def open_console(*, stderr: bool = False) -> Console:
    """Standard output, or standard error where a command prints JSON."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=WIDE)


def printable(text: str) -> str:
    """Text of a model or a tool, which might speak to the terminal: control characters are shown as code.

    >>> printable("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode()
        for each in text
    )
