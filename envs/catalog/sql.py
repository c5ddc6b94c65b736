"""Questions to databases: the policy tries queries with a tool, and answers with the one that it trusts."""

from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, Field, model_validator

from ...sandboxes import SandboxSpec
from ..budget import Budget
from ..env import Observation
from ..errors import ToolError
from ..graders import AnyGrader, SqlResult
from ..graders.query import QueryError, Table, ask, put, schema
from ..message import Message, SystemMessage, UserMessage
from ..policy import Policy
from ..sandboxed import SandboxToolEnv
from ..scripted import ScriptedPolicy, call_tool
from ..task import Task, TaskSet
from ..tools import tool
from ._rows import DEMO, read_rows

INSTRUCTIONS = (
    "Write one SQLite query that answers the question. Try queries with the tool. "
    "End with the query alone, in a block:\n```sql\nSELECT 1\n```"
)
SHOWN_ROWS = 20
"""The tool shows no more: a query is to be tried, not to be read out."""


class Question(BaseModel):
    """A row: {"db", "question", "gold"}, or as Spider or InterCode name these."""

    db: str = Field(pattern=r"^[\w.-]+$")
    question: str
    gold: str
    id: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, row: Any) -> Any:
        match row:
            case {"db_id": db, "question": question, "query": gold} | {
                "db": db,
                "query": question,
                "gold": gold,
            }:
                return {"db": db, "question": question, "gold": gold, "id": row.get("id")}
            case _:
                return row


class DatabaseQuestions(SandboxToolEnv[Task]):
    """Execution match: the rows of the last query count, not its text."""

    grader: AnyGrader | None = SqlResult()
    budget = Budget(max_turns=8)
    sandbox: ClassVar[SandboxSpec] = SandboxSpec(memory_mb=256, pids=16, disk_mb=128)
    max_workspace_bytes: ClassVar[int] = 0

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """Show the tables and the question; the database goes into the sandbox."""
        await put(await self.box(), task.private["database"])
        return await super().reset(task, seed=seed)

    @tool
    async def query(self, sql: str) -> str:
        """Run a SELECT and show its first rows.

        Args:
            sql: one statement of SQLite
        """
        try:
            found = await ask(await self.box(), sql, timeout_s=5.0, max_rows=1000, max_chars=1 << 18)
        except QueryError as error:
            raise ToolError(str(error)) from error
        return shown(found)

    @classmethod
    def tasks(
        cls,
        *,
        path: str | Path | None = None,
        databases: str | Path | None = None,
        size: int | None = None,
        instructions: str = INSTRUCTIONS,
    ) -> TaskSet:
        """The questions of a file in Spider's form; None: ten of our own.

        `databases`: the folder of NAME.sqlite or NAME/NAME.sqlite; None: `database` beside the file.

        >>> DatabaseQuestions.tasks(size=1)[0].reference
        'SELECT count(*) FROM wrestler'
        """
        source = Path(path) if path is not None else DEMO / "sql.jsonl"
        folder = Path(databases) if databases is not None else source.parent / ("database" if path else "")
        rows = read_rows(source, Question, size=size)
        files = {name: _file(folder, name) for name in {row.db for row in rows}}
        schemas = {name: schema(str(file)) for name, file in files.items()}
        opening: tuple[Message, ...] = (SystemMessage(instructions),) if instructions else ()
        return TaskSet(
            Task(
                id=row.id or f"{source.stem}-{number}",
                messages=(*opening, UserMessage(f"{schemas[row.db]}\n\n{row.question}")),
                reference=row.gold,
                private={"database": str(files[row.db].absolute())},
            )
            for number, row in enumerate(rows)
        )

    @classmethod
    def oracle(cls, task: Task) -> Policy:
        """Runs the reference, then says it."""
        return ScriptedPolicy([call_tool("query", sql=task.reference), f"```sql\n{task.reference}\n```"])


def shown(table: Table) -> str:
    """A table as text: a line of names, then lines of cells; NULL is NULL."""
    rows = [["NULL" if kind == "null" else text for kind, text in row] for row in table.rows[:SHOWN_ROWS]]
    lines = [" | ".join(row) for row in [list(table.columns), *rows]]
    more = len(table.rows) - len(rows)
    return "\n".join([*lines, f"[{more} more rows]"] if more else [*lines, f"[{len(rows)} rows]"])


def _file(folder: Path, name: str) -> Path:
    tried = [folder / f"{name}.sqlite", folder / name / f"{name}.sqlite", folder / f"{name}.sql"]
    found = next((path for path in tried if path.is_file()), None)
    if found is None:
        looked = ", ".join(map(str, tried))
        raise ValueError(f"there is no database {name!r} ({looked}); name its folder with `databases`")
    return found
