"""Files of the `data` commands: read with a bar, written whole or not at all."""

import gzip
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import IO, cast

import typer

from ..envs.datasets.record import Record, Source
from .console import open_console
from .progress import TerminalProgress

STRIDE = 256
"""Records from one look at the position to the next."""


@contextmanager
def watched(source: Source, what: str) -> Generator[Iterator[Record]]:
    """The records of a dataset, with a bar on standard error while they are read."""
    with TerminalProgress(open_console(stderr=True)) as progress:
        yield _advancing(source, what, progress)


def _advancing(source: Source, what: str, progress: TerminalProgress) -> Iterator[Record]:
    before = None
    for number, record in enumerate(source):
        if number % STRIDE == 0:
            if before is None:
                progress.phase(what, source.size or 0)
                before = 0
            at = source.position()
            progress.advance(at - before)
            before = at
        yield record


def new_file(path: Path) -> Path:
    """`path`, if a file can stand there. To be replaced by one is no device's, pipe's or folder's fate."""
    if path.is_file() or not path.exists():
        return path
    kind = "a folder" if path.is_dir() else "no regular file"
    raise typer.BadParameter(f"{str(path)!r} is {kind}, and would be replaced; name a file")


def require_two(out: Path, other: Path, option: str) -> None:
    """Raises `BadParameter` where OUT and the file of an option are one."""
    if out.resolve() == other.resolve():
        raise typer.BadParameter(f"{option} {str(other)!r} is OUT too; name another file")


@contextmanager
def written(path: Path, source: str) -> Generator[IO[bytes]]:
    """A file that is there when all of it is written, and not before, whoever else writes one there."""
    if new_file(path).resolve() == Path(source).resolve():
        raise typer.BadParameter(f"{path} is what is read; write to another file")
    part = path.with_name(f"{path.name[:40]}.{token_hex(4)}.part")
    try:
        with part.open("xb") as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile(path.stem, "wb", fileobj=raw) as packed:
                    yield cast(IO[bytes], packed)
            else:
                yield raw
        os.replace(part, path)
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error}") from error
    finally:
        part.unlink(missing_ok=True)
