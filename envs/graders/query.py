"""SQL of a policy, asked in a sandbox."""

import json
import sqlite3
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ...sandboxes import ExecStatus, Sandbox
from ..threads import in_thread

MAX_ROWS = 100_000
MAX_CHARS = 1 << 24
_FILE = "database.sqlite"
_MAGIC = b"SQLite format 3\0"
_GRACE_S = 5.0
"""What Python may take to start."""
_INSIDE = Path(__file__).with_name("_query.py")
Cell = tuple[str, str]
"""(type, text): ("integer", "5"), ("real", "0.5"), ("text", "five"), ("blob", "05ff"), ("null", "")."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """What a query gave."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


class QueryError(Exception):
    """The query gave no table; the text says why, as SQLite does: "no such column: nme"."""


async def put(box: Sandbox, database: str) -> None:
    """Copy a database into a sandbox."""
    await box.write(_FILE, await in_thread(lambda: contents(database)))


async def ask(
    box: Sandbox, query: str, *, timeout_s: float, max_rows: int = MAX_ROWS, max_chars: int = MAX_CHARS
) -> Table:
    """The answer of the database that `put` brought, which no query can change. Raises `QueryError`."""
    order = {
        "file": _FILE,
        "query": query,
        "max_rows": max_rows,
        "max_chars": max_chars,
        "max_s": timeout_s,
    }
    result = await box.run(
        ["python3", "-s", "-E", "-c", _INSIDE.read_text()],
        stdin=json.dumps(order).encode(),
        timeout_s=timeout_s + _GRACE_S,
        output_limit=8 * max_chars + (1 << 16),
    )
    if result.status is not ExecStatus.OK:
        last_line = result.stderr.strip().rpartition(b"\n")[2].decode(errors="replace")
        raise QueryError(f"the query ended its process: {result.status.value} {last_line:.200}".strip())
    return _read(result.stdout)


def _read(data: bytes) -> Table:
    """The process's answer, which is as little trusted as the query."""
    try:
        said = json.loads(data)
        if "error" in said:
            raise QueryError(str(said["error"])[:1000])
        columns = tuple(map(str, said["columns"]))
        rows = tuple(tuple(_cell(kind, text) for kind, text in row) for row in said["rows"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise QueryError(f"the query's process gave no table: {data!r:.200}") from error
    return Table(columns=columns, rows=rows)


def _cell(kind: str, text: str) -> Cell:
    number = {"integer": int, "real": float}.get(kind)
    return kind, str(text) if number is None else str(number(text))


def contents(database: str) -> bytes:
    """The bytes of a SQLite file; a path that ends in ".sql" is a script that makes one.

    Raises `ValueError` for a path without a database.
    """
    path = Path(database)
    try:
        data = _built(path, path.stat().st_mtime_ns) if path.suffix == ".sql" else path.read_bytes()
    except (OSError, sqlite3.Error) as error:
        raise ValueError(
            f"database {database!r} cannot be read: {error}; give the path of a SQLite file"
        ) from error
    if not data.startswith(_MAGIC):
        raise ValueError(f"database {database!r} is no SQLite file: it begins with {data[:16]!r}")
    return data


def schema(database: str) -> str:
    """The CREATE statements of a database, as its author wrote them."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.deserialize(contents(database))
        found = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid")
        return "\n".join(f"{statement};" for (statement,) in found)
    except sqlite3.Error as error:
        raise ValueError(f"database {database!r} is no SQLite file: {error}") from error
    finally:
        connection.close()


@lru_cache(maxsize=16)
def _built(path: Path, changed_ns: int) -> bytes:
    connection = sqlite3.connect(":memory:")
    try:
        connection.executescript(path.read_text(encoding="utf-8"))
        return connection.serialize()
    finally:
        connection.close()
