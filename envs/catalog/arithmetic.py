"""Questions with a short answer by any reasoning-gym generator that allows it, with a Python tool."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

from ...sandboxes import ExecStatus, SandboxSpec
from ..budget import Budget
from ..episode import Episode, Workspace
from ..graders import AnyGrader, Exact, Numeric, as_number
from ..message import Message, SystemMessage, UserMessage
from ..outcome import Score
from ..policy import Policy
from ..sandboxed import SandboxToolEnv
from ..scripted import ScriptedPolicy, call_tool
from ..task import Task, TaskSet
from ..tools import tool

INSTRUCTIONS = "You may run Python code with the tool. End with one line: Answer: <answer>"
PREFIX = "Answer:"


@dataclass(frozen=True, slots=True)
class ShortAnswer:
    """As numbers where the reference is one, as text elsewhere."""

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        grader = (
            Numeric(prefix=PREFIX) if as_number(str(task.reference)) is not None else Exact(prefix=PREFIX)
        )
        return await grader.grade(task, episode, workspace)


class Arithmetic(SandboxToolEnv[Task]):
    """Work it out with Python, then say "Answer: 42"."""

    grader: AnyGrader | None = ShortAnswer()
    budget = Budget(max_turns=4)
    sandbox: ClassVar[SandboxSpec] = SandboxSpec(memory_mb=128, pids=16, disk_mb=16)
    max_workspace_bytes: ClassVar[int] = 0

    @tool
    async def python(self, code: str) -> str:
        """Run Python code in a fresh process. Print what you want to see.

        Args:
            code: a whole program
        """
        result = await self.run(["python3", "-c", code], timeout_s=5.0, output_limit=4096)
        text = (result.stdout + _last_line(result.stderr)).decode(errors="replace").strip()
        if result.status not in (ExecStatus.OK, ExecStatus.NONZERO):
            return f"{text}\n[{result.status.value}]".strip()
        return text or "[nothing was printed]"

    @classmethod
    def tasks(
        cls,
        *,
        generator: str = "chain_sum",
        config: Mapping[str, Any] | None = None,
        size: int = 500,
        seed: int = 0,
        instructions: str = INSTRUCTIONS,
    ) -> TaskSet:
        """`size` questions of a reasoning-gym generator; `instructions=""` leaves the system message out.

        >>> Arithmetic.tasks(config={"max_terms": 2, "max_digits": 1}, size=1)[0].messages[-1].content
        'State the final answer to the following arithmetic problem: 0 - 4 ='
        """
        opening: tuple[Message, ...] = (SystemMessage(instructions),) if instructions else ()
        return TaskSet(
            Task(
                id=f"{generator}-{seed}-{number}",
                messages=(*opening, UserMessage(question)),
                reference=answer,
                private={"expression": expression},
            )
            for number, (question, answer, expression) in enumerate(_questions(generator, config, size, seed))
        )

    @classmethod
    def oracle(cls, task: Task) -> Policy:
        """Runs the question's expression, then says the reference."""
        code = f"print({task.private['expression']})"
        return ScriptedPolicy([call_tool("python", code=code), f"{PREFIX} {task.reference}"])


def _questions(
    generator: str, config: Mapping[str, Any] | None, size: int, seed: int
) -> Iterator[tuple[str, str, str]]:
    """(question, answer, the answer as a Python expression)."""
    reasoning_gym: Any = import_module("reasoning_gym")  # takes a second, and comes with the extra `catalog`
    try:
        data = reasoning_gym.create_dataset(generator, size=size, seed=seed, **(config or {}))
    except (ValueError, TypeError, AssertionError) as error:
        raise ValueError(
            f"generator={generator!r}, config={config!r}: {error}; give a generator of reasoning-gym and its "
            "own settings"
        ) from error
    # Some of its own scorers run `eval` on the answer, which here is the policy's text.
    base: Any = reasoning_gym.dataset.ProceduralDataset
    has_own_scorer = data.score_answer.__func__ is not base.score_answer
    for entry in data:
        answer = str(entry["answer"])
        if has_own_scorer and as_number(answer) is None:
            raise ValueError(
                f"generator={generator!r} accepts other answers than {answer!r} and brings a scorer for "
                "them, which is not run on untrusted text; choose a generator with one short answer"
            )
        yield entry["question"], answer, str(entry["metadata"].get("expression", repr(answer)))


def _last_line(stderr: bytes) -> bytes:
    """The line that says what went wrong; the traceback above it would fill a small context."""
    return stderr.strip().rpartition(b"\n")[2]
