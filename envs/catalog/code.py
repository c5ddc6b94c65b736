"""Programs by request, in the manner of MBPP: hidden tests judge them, and there are several tries."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, Field, ValidationError

from ..budget import Budget
from ..env import Env, Observation, Step
from ..errors import Tampered
from ..graders import AnyGrader, UnitTests
from ..graders.asserts import parse_asserts
from ..graders.unit_tests import last_block
from ..message import AssistantMessage, Message, SystemMessage, UserMessage
from ..policy import Policy
from ..scripted import ScriptedPolicy
from ..task import Task, TaskSet
from ._code_requests import requests

INSTRUCTIONS = (
    "Write a Python program that does what is asked for. Answer with the program in one fenced block."
)
TESTS = UnitTests(timeout_s=5.0)


class Row(BaseModel):
    """A line of the user's file, as in MBPP or its sanitized form."""

    task_id: int | str
    text: str = Field(validation_alias=AliasChoices("text", "prompt"), min_length=1)
    test_list: list[str] = Field(min_length=1)
    code: str = ""
    """A right program, for the oracle and for demonstrations."""
    test_setup_code: str = ""
    test_imports: list[str] = []


class Code(Env[Task]):
    """The policy answers with a program; the tests say what it did wrong, but not what would be right.

    An episode ends with the first program that passes, or the last of `tries`. Its last program counts, and
    is judged again by the grader, in sandboxes of its own.
    """

    grader: AnyGrader | None = TESTS
    budget = Budget(max_turns=8)

    def __init__(self, *, tries: int = 3) -> None:
        if tries < 1:
            raise ValueError(f"tries={tries}: a policy needs at least one")
        self._tries_left = tries

    @classmethod
    def tasks(
        cls, *, path: str | None = None, size: int = 200, seed: int = 0, instructions: str = INSTRUCTIONS
    ) -> TaskSet:
        """The tasks of a JSONL file in the form of MBPP; without one, `size` requests made up on the spot.

        `instructions=""` leaves the system message out.

        >>> Code.tasks(size=1)[0].messages[-1].content
        'Write a function solve(numbers) that takes the odd numbers of a list, doubles them and returns ...'
        """
        rows = _rows(Path(path)) if path is not None else map(Row.model_validate, requests(size, seed))
        opening: tuple[Message, ...] = (SystemMessage(instructions),) if instructions else ()
        return TaskSet(_task(row, opening) for row in rows)

    @classmethod
    def oracle(cls, task: Task) -> Policy:
        """Says the row's own program."""
        solution: str = task.private["solution"]
        if not solution:
            raise ValueError(f"task {task.id!r} has no program of its own: give its row a field `code`")
        return ScriptedPolicy([f"```python\n{solution}\n```"])

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """Show the request."""
        self._task = task
        return Observation(messages=task.messages)

    async def step(self, action: AssistantMessage) -> Step:
        """Run the tests and say how the program did. The last try is left to the grader."""
        self._tries_left -= 1
        if self._tries_left == 0:
            return Step(Observation(), 0.0, True, False, {})
        try:
            results = await TESTS.run(self._task, last_block(action.content).encode(errors="replace"))
        except Tampered:  # the grader finds it too, and gives the floor
            return Step(Observation(), 0.0, True, False, {})
        failures = [result.told for result in results if not result.passed]
        if not failures:
            return Step(Observation(), 0.0, True, False, {})
        said = f"{len(results) - len(failures)} of {len(results)} tests passed. Failed:"
        return Step(Observation(messages=(UserMessage("\n".join([said, *failures])),)), 0.0, False, False, {})


def _task(row: Row, opening: tuple[Message, ...]) -> Task:
    """Raises `ValueError` for tests that cannot be kept from the program."""
    first = parse_asserts(row.test_list)[0]
    return Task(
        id=str(row.task_id),
        messages=(*opening, UserMessage(f"{row.text.strip()}\nIt is called as in {first.call:.300}")),
        reference=row.test_list,
        private={"setup": "\n".join([*row.test_imports, row.test_setup_code]), "solution": row.code},
    )


def _rows(path: Path) -> Iterator[Row]:
    """Raises `ValueError` with file and line."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = Row.model_validate_json(line)
                parse_asserts(row.test_list)
            except ValidationError as error:
                raise ValueError(f"{path}, line {number}: {_first(error)}") from error
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: test_list: {error}") from error
            yield row


def _first(error: ValidationError) -> str:
    found: Any = error.errors()[0]
    field = ".".join(map(str, found["loc"]))
    return f"{field or 'the line'}: {found['msg']}; write rows as in MBPP: task_id, text, test_list and code"
