"""Grade-school word problems in GSM8K's form: in one answer, or over several turns with a calculator."""

import re
from pathlib import Path

from pydantic import BaseModel

from ..budget import Budget
from ..env import Env
from ..graders import AnyGrader, Gsm8k
from ..message import Message, SystemMessage, UserMessage
from ..policy import Policy
from ..scripted import ScriptedPolicy, call_tool
from ..task import Task, TaskSet
from ._calculator import WithCalculator
from ._rows import DEMO, read_rows

INSTRUCTIONS = "Think step by step. End with the answer, a number, on a line of its own: #### 72"
CALCULATOR_INSTRUCTIONS = (
    "Use the calculator for each step. End with the answer, a number, on a line of its own: #### 72"
)
_ANNOTATION = re.compile(r"<<([^=<>]+)=[^<>]*>>")


class Problem(BaseModel):
    """A row of the data set."""

    question: str
    answer: str
    """Worked out, with annotations such as <<48/2=24>>, and "#### 72" at the end."""
    id: str | None = None


class WordProblems(Env[Task]):
    """Answer at once: one turn."""

    grader: AnyGrader | None = Gsm8k()
    budget = Budget(max_turns=1)

    @classmethod
    def tasks(
        cls, *, path: str | Path | None = None, size: int | None = None, instructions: str = INSTRUCTIONS
    ) -> TaskSet:
        """The problems of a file in GSM8K's form (`question`, `answer`); None: twelve of our own.

        >>> WordProblems.tasks(size=1)[0].reference
        '18'
        """
        return _tasks(path, size, instructions)

    @classmethod
    def oracle(cls, task: Task) -> Policy:
        """Says the worked solution."""
        return ScriptedPolicy([_ANNOTATION.sub("", task.private["solution"])])


class WordProblemsWithCalculator(WithCalculator):
    """Work it out call by call, then say "#### 72"."""

    grader: AnyGrader | None = Gsm8k()
    budget = Budget(max_turns=16)

    @classmethod
    def tasks(
        cls,
        *,
        path: str | Path | None = None,
        size: int | None = None,
        instructions: str = CALCULATOR_INSTRUCTIONS,
    ) -> TaskSet:
        """As of `WordProblems`, with other instructions."""
        return _tasks(path, size, instructions)

    @classmethod
    def oracle(cls, task: Task) -> Policy:
        """Calculates each annotation of the solution, then says the answer."""
        steps = _ANNOTATION.findall(task.private["solution"])
        return ScriptedPolicy(
            [*(call_tool("calculator", expression=step) for step in steps), f"#### {task.reference}"]
        )


def _tasks(path: str | Path | None, size: int | None, instructions: str) -> TaskSet:
    opening: tuple[Message, ...] = (SystemMessage(instructions),) if instructions else ()
    source = Path(path) if path is not None else DEMO / "gsm8k.jsonl"
    return TaskSet(
        Task(
            id=row.id or f"{source.stem}-{number}",
            messages=(*opening, UserMessage(row.question)),
            reference=row.answer.rpartition("####")[2].strip(),
            private={"solution": row.answer},
        )
        for number, row in enumerate(read_rows(source, Problem, size=size))
    )
