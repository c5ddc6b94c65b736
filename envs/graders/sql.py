"""SQL by its result: the policy's query and the reference must give the same rows."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from ...sandboxes import SandboxSpec, open_sandbox
from ..episode import Episode, Workspace
from ..outcome import Score
from ..task import Task
from .answer import final_answer, reference_text
from .query import Cell, QueryError, Table, ask, put
from .unit_tests import last_block

_WORDS = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/|(?P<word>[()]|\w+)""", re.DOTALL
)
_NUMBERS = ("integer", "real")
_REL_TOL = 1e-9
"""Sums and averages depend on the order in which a plan meets the rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SqlResult:
    """1 when the query gives the rows of the reference query on the database of `Task.private["database"]`.

    >>> task = Task(id="n", reference="SELECT count(*) FROM singer", private={"database": "a.sqlite"})
    >>> score = await SqlResult().grade(task, episode, None)  # it said: SELECT count(name) FROM singer
    >>> score.reward
    1.0

    The last fenced block of the last message is the query, or all of it. Rows may come in any order, unless
    the reference query itself has an ORDER BY; then ties count in the order in which the database gave them.
    Columns have their place and no name; 1 equals 1.0, text is no number, NULL equals NULL.

    Each query has a sandbox and a copy of the database of its own: neither the reference nor its rows are
    where the policy's query runs, which can write nothing and ends at `timeout_s`. A query that fails is
    wrong; a reference that fails has no grade.
    """

    timeout_s: float = 10.0
    """Of one query."""
    sandbox: SandboxSpec = field(default_factory=SandboxSpec)

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        """Raises `ValueError` for a task whose database or reference cannot be used."""
        reference = reference_text(task)
        database = str(task.private.get("database", ""))
        try:
            expected = await self._table(database, reference)
        except QueryError as error:
            raise ValueError(
                f"task {task.id!r}: the reference {reference!r:.300} gave no rows: {error}"
            ) from error
        query = last_block(final_answer(episode, None) or "").strip()
        if not query:
            return Score(reward=0.0, components={"runs": 0.0}, evidence="no query in the last message")
        try:
            found = await self._table(database, query)
        except QueryError as error:
            return Score(reward=0.0, components={"runs": 0.0}, evidence=f"{query!r:.200}: {error}")
        difference = compare(expected, found, in_order=is_ordered(reference))
        return Score(
            reward=float(not difference),
            components={"runs": 1.0},
            evidence=difference or f"the same {len(found.rows)} rows",
        )

    async def _table(self, database: str, query: str) -> Table:
        async with open_sandbox(self.sandbox) as box:
            await put(box, database)
            return await ask(box, query, timeout_s=self.timeout_s)


def is_ordered(query: str) -> bool:
    """Whether a query says in which order its rows come: by an ORDER BY that stands in no brackets.

    >>> is_ordered("SELECT name FROM singer ORDER BY age"), is_ordered("SELECT * FROM (SELECT 1 ORDER BY 1)")
    (True, False)
    """
    depth, before = 0, ""
    for found in _WORDS.finditer(query):
        word = (found["word"] or "").casefold()
        depth += (word == "(") - (word == ")")
        if depth == 0 and (before, word) == ("order", "by"):
            return True
        before = word or before
    return False


def compare(expected: Table, found: Table, *, in_order: bool) -> str:
    """How `found` differs; "" when it does not."""
    sizes = [(len(table.rows), len(table.columns)) for table in (expected, found)]
    if sizes[0] != sizes[1]:
        return "expected {} rows of {}, got {} rows of {}".format(*sizes[0], *sizes[1])
    wanted, given = (
        table.rows if in_order else sorted(table.rows, key=_place) for table in (expected, found)
    )
    for number, (one, other) in enumerate(zip(wanted, given, strict=True)):
        if not all(map(_is_equal, one, other)):
            order = "" if in_order else " (sorted)"
            return f"row {number}{order}: expected {_told(one)}, got {_told(other)}"
    return ""


def _is_equal(one: Cell, other: Cell) -> bool:
    if one[0] in _NUMBERS and other[0] in _NUMBERS:
        whole = one[0] == other[0] == "integer"
        return one == other if whole else math.isclose(float(one[1]), float(other[1]), rel_tol=_REL_TOL)
    return one == other


def _place(row: Sequence[Cell]) -> list[tuple[str, float, str]]:
    """Equal rows next to each other, whichever way their numbers are written."""
    return [
        ("number", float(f"{float(text):.7g}"), "") if kind in _NUMBERS else (kind, 0.0, text)
        for kind, text in row
    ]


def _told(row: Sequence[Cell]) -> str:
    return str(tuple(text if kind != "null" else None for kind, text in row))[:200]
