"""Mathematical equality, by math-verify."""

import re
import signal
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ..cpu_limit import cpu_limit
from ..episode import Episode, Workspace
from ..errors import BadTask
from ..outcome import Score
from ..task import Task
from ..worker import WorkerDied, in_worker
from .answer import final_answer, reference_text

MAX_CPU_S = 2.0
"""Processor time of one comparison: about fifty times what an ordinary one takes."""
_NO_LIMIT_S = 86400
"""For math-verify's own clock, which counts what other processes take, and does not stop native code."""
_MARKED = re.compile(r"\$|\\\(|\\\[|\\f?boxed|\*\*")
"""What tells mathematics from the words around it; the power of Python is no LaTeX."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Math:
    """1 when the last message's answer equals the reference mathematically: \\boxed{1/2} for 0.5.

    What math-verify cannot read or finish in the policy's answer is wrong: 0, with the reason as evidence.
    """

    prefix: str | None = None
    """What stands before the answer; None: math-verify searches the last message."""

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        """Raises `ValueError` for a reference that is missing or that math-verify cannot read."""
        reference = reference_text(task)
        check_readable(task.id, reference)
        is_equal, why = await is_same(reference, final_answer(episode, self.prefix) or "")
        return Score(reward=float(is_equal), evidence=why)


def check_readable(task_id: str, reference: str) -> None:
    """Raise `ValueError` for a missing number, of which math-verify would read n * a * n."""
    if reference.strip().casefold() == "nan":
        raise BadTask(f"task {task_id!r}: the reference {reference!r} is no number and no formula")


async def is_same(reference: str, answer: str) -> tuple[bool, str]:
    """(equal, why), whatever the answer is. Raises `ValueError` for a reference that is no math."""
    try:
        return await in_worker(compare, reference, answer)
    except WorkerDied as died:
        if died.exit_code == -signal.SIGKILL:  # from outside: nothing here ends in it
            raise
        await _check_reference(reference)
        return False, f"{answer[-100:]!r} cannot be compared in {MAX_CPU_S:g} s: {died}"


async def _check_reference(reference: str) -> None:
    """Raise when not the answer but the reference is what ends the process."""
    try:
        await in_worker(compare, reference, "0")
    except WorkerDied as died:
        if died.exit_code == -signal.SIGKILL:
            raise
        raise BadTask(f"math-verify cannot read the reference {reference!r:.200}: {died}") from died


def compare(reference: str, answer: str) -> tuple[bool, str]:
    """(equal, why). Ends the process after `MAX_CPU_S`; raises for a reference that is no math.

    For a worker process, in its main thread: math-verify takes signals.
    """
    library: Any = import_module("math_verify")  # half a second, with the extra `catalog`
    with cpu_limit(MAX_CPU_S):
        return _compare(library, reference, answer)


def _compare(library: Any, reference: str, answer: str) -> tuple[bool, str]:
    # A bare reference is a formula: unmarked, 2\sqrt{2} and 2x would be read as prose with a 2 in it.
    marked = reference if _MARKED.search(reference) else f"${reference}$"
    gold = library.parse(marked, parsing_timeout=_NO_LIMIT_S) or library.parse(
        reference, parsing_timeout=_NO_LIMIT_S
    )
    if not gold:
        raise BadTask(f"math-verify cannot read the reference {reference!r:.200}")
    try:
        found = library.parse(answer, parsing_timeout=_NO_LIMIT_S, raise_on_error=True)
        is_equal = bool(library.verify(gold, found, timeout_seconds=_NO_LIMIT_S, raise_on_error=True))
        return is_equal, f"answer {found[:1]!r:.100}, expected {reference!r:.100}"
    except Exception as error:  # every kind: what breaks the parser is the policy's own text, and wrong
        return False, f"{answer[-100:]!r} cannot be compared: {type(error).__name__}"
