"""Questions about financial reports: the text is shown, its table and a calculator are tools."""

from pathlib import Path

from ..budget import Budget
from ..env import Observation
from ..errors import ToolError
from ..graders import AnyGrader, FinQA
from ..message import Message, SystemMessage, UserMessage
from ..policy import Policy
from ..scripted import ScriptedPolicy, call_tool
from ..task import Task, TaskSet
from ..tools import tool
from ._calculator import WithCalculator
from ._finqa_rows import FinQARow, Report, TableRows
from ._rows import DEMO, read_rows

INSTRUCTIONS = (
    "Answer the question about the report. Read its table and calculate with the tools. "
    "End with one line, a number or yes or no: Answer: 10.9%"
)


class FinancialReports(WithCalculator):
    """Look it up, work it out, then say "Answer: 10.9%"."""

    grader: AnyGrader | None = FinQA()
    budget = Budget(max_turns=16)

    def __init__(self) -> None:
        self._table: TableRows = ()

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """Show the text and the question; the table stays with the tools."""
        self._table = task.metadata["table"]
        return await super().reset(task, seed=seed)

    @tool
    async def table(self) -> str:
        """Show the report's table, the cells of a line between |."""
        return "\n".join(" | ".join(row) for row in self._table)

    @tool
    async def cell(self, row: str, column: str) -> str:
        """Look up one cell of the table.

        Args:
            row: the row's first cell
            column: the column's name
        """
        (head, *body) = self._table
        found = _named(row, [line[0] for line in body], "row")
        return body[found][_named(column, list(head), "column")]

    @classmethod
    def tasks(
        cls, *, path: str | Path | None = None, size: int | None = None, instructions: str = INSTRUCTIONS
    ) -> TaskSet:
        """The questions of a file of FinQA or ConvFinQA; None: eight of our own.

        >>> FinancialReports.tasks(size=1)[0].reference
        '0.25'
        """
        opening: tuple[Message, ...] = (SystemMessage(instructions),) if instructions else ()
        rows = read_rows(path if path is not None else DEMO / "finqa.jsonl", FinQARow, size=size)
        return TaskSet(_task(row.root.report(), opening) for row in rows)

    @classmethod
    def oracle(cls, task: Task) -> Policy:
        """Reads the table, takes the steps of the program where there is one, and says the answer."""
        steps = [call_tool("calculator", expression=step) for step in task.private["steps"]]
        return ScriptedPolicy([call_tool("table"), *steps, f"Answer: {task.reference}"])


def _task(report: Report, opening: tuple[Message, ...]) -> Task:
    return Task(
        id=report.id,
        messages=(*opening, UserMessage(f"{report.text}\n\n{report.question}")),
        reference=report.answer,
        private={"steps": report.steps},
        metadata={"table": report.table},
    )


def _named(name: str, names: list[str], what: str) -> int:
    """The place of a name. What the policy may mend is said as `ToolError`."""
    folded = [" ".join(known.casefold().split()) for known in names]
    wanted = " ".join(name.casefold().split())
    if wanted not in folded:
        raise ToolError(f"there is no {what} {name!r}; the {what}s are: {'; '.join(names)}")
    return folded.index(wanted)
