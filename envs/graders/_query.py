"""What runs inside the sandbox when somebody's SQL is asked: one SELECT on a database that cannot change.

    stdin: {"file", "query", "max_rows", "max_chars", "max_s"}  ──>  stdout: {"columns", "rows"} or {"error"}

The sandbox is the wall. Behind it SQLite is asked to refuse what is no question (writing, ATTACH, PRAGMA,
extensions, transactions), so that the policy reads a reason, and to stop by the clock. Standard library of
Python 3.8 only, as any image may have it.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from typing import Any

ALLOWED = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE)
REFUSED = ("load_extension", "readfile", "writefile", "edit", "fts3_tokenizer")
"""Functions that reach out of the database, where SQLite was built with them."""
LOOKS = ("table_info", "table_xinfo", "table_list", "index_list", "index_info", "foreign_key_list")
"""Pragmas that only describe: `PRAGMA table_info(singer)`."""


class Stop(Exception):
    """The query is over a limit; the text says which."""


def authorize(
    action: int, first: str | None, second: str | None, database: str | None, by: str | None
) -> int:
    is_call = action == sqlite3.SQLITE_FUNCTION and second not in REFUSED
    is_look = action == sqlite3.SQLITE_PRAGMA and first in LOOKS
    return sqlite3.SQLITE_OK if action in ALLOWED or is_call or is_look else sqlite3.SQLITE_DENY


def decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def ask(order: dict[str, Any]) -> dict[str, Any]:
    """{"columns", "rows"}: each cell is a pair of type and text."""
    connection = sqlite3.connect("file:" + order["file"] + "?mode=ro&immutable=1", uri=True)
    connection.text_factory = decoded
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.set_authorizer(authorize)
    until = time.monotonic() + order["max_s"]
    connection.set_progress_handler(lambda: int(time.monotonic() > until), 10000)
    rows: list[Any] = []
    room = order["max_chars"]
    try:
        cursor = connection.execute(order["query"])
        if cursor.description is None:
            raise Stop("it is no SELECT")
        for row in cursor:
            if len(rows) == order["max_rows"]:
                raise Stop("it gives over {} rows".format(order["max_rows"]))
            cells = [cell(value) for value in row]
            room -= sum(len(text) + 10 for _, text in cells)
            if room < 0:
                raise Stop("it gives over {} characters".format(order["max_chars"]))
            rows.append(cells)
    except sqlite3.OperationalError:
        if time.monotonic() > until:
            raise Stop("it takes over {:g} s".format(order["max_s"])) from None
        raise
    finally:
        connection.close()
    return {"columns": [column[0] for column in cursor.description], "rows": rows}


def cell(value: Any) -> tuple[str, str]:
    if isinstance(value, bytes):
        return "blob", value.hex()
    if isinstance(value, float):
        return "real", repr(value)
    if isinstance(value, int):
        return "integer", str(value)
    return ("null", "") if value is None else ("text", value)


def main() -> None:
    order = json.loads(sys.stdin.buffer.read())
    try:
        answer = ask(order)
    except Stop as stop:
        answer = {"error": str(stop)}
    # Two statements at once are a Warning to Python 3.8, a NUL is a ValueError.
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError, MemoryError) as error:
        answer = {"error": str(error) or type(error).__name__}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
