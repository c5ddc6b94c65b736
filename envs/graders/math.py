"""Mathematical equality, by math-verify."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ..episode import Episode, Workspace
from ..outcome import Score
from ..task import Task
from ..worker import in_worker
from .answer import final_answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Math:
    """1 when the last message's answer equals the reference mathematically: \\boxed{1/2} for 0.5.

    Runs in a worker process: math-verify stops itself by a signal, which only a main thread can take.
    """

    prefix: str | None = None
    """What stands before the answer; None: math-verify searches the last message."""

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        """Raises `TimeoutError` when the comparison takes math-verify over 5 s."""
        answer = final_answer(episode, self.prefix) or ""
        is_equal, why = await in_worker(compare, str(task.reference), answer)
        return Score(reward=float(is_equal), evidence=why)


def compare(reference: str, answer: str) -> tuple[bool, str]:
    """(equal, why) in this process, which must be its main thread. Raises for a reference that is no math."""
    library: Any = import_module("math_verify")  # half a second, with the extra `catalog`
    timeout: Any = import_module("math_verify.errors").TimeoutException
    try:
        # Without the dollar signs it finds no LaTeX in a bare reference such as \frac{1}{2}.
        gold = library.parse(reference) or library.parse(f"${reference}$")
        if not gold:
            raise ValueError(f"math-verify cannot read the reference {reference!r}")
        try:
            found = library.parse(answer, raise_on_error=True)
            is_equal = bool(library.verify(gold, found, raise_on_error=True))
        except Exception as error:  # every kind: what breaks the parser is the policy's own text, and wrong
            return False, f"{answer[-100:]!r} cannot be compared: {type(error).__name__}"
    except timeout as error:  # not an Exception: it would end the process
        raise TimeoutError(f"math-verify took over 5 s on {answer[-100:]!r}") from error
    return is_equal, f"answer {found[:1]!r:.100}, expected {gold[:1]!r:.100}"
