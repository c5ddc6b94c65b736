"""The answer matches a regular expression."""

import re
import signal
from collections import deque
from dataclasses import dataclass

from ..cpu_limit import cpu_limit
from ..episode import Episode, Workspace
from ..errors import BadTask
from ..outcome import Score
from ..task import Task
from ..worker import WorkerDied, in_worker
from .answer import final_answer, reference_text

MAX_CPU_S = 1.0
"""Processor time of one search: an ordinary one takes a thousandth of it."""
GROUP = "answer"


@dataclass(frozen=True, kw_only=True, slots=True)
class Regex:
    r"""1 when the pattern is found in the last message, else 0.

    With a group called `answer`, what its last match holds must also equal the reference, white space aside.
    The pattern is Python's, flags inline: `(?i)` for any case, `\A...\Z` for all of the text. A text on which
    it does not end in time is no match: write patterns that cannot backtrack for ever.

    >>> Regex(pattern=r"\\boxed\{(?P<answer>[^{}]*)\}")  # what the box holds is the reference
    """

    pattern: str | None = None
    """None: `Task.reference` is the pattern."""
    prefix: str | None = None
    """What stands before the answer; None: the answer is all of the last message."""

    def __post_init__(self) -> None:
        if self.pattern is not None:
            _compiled(self.pattern, "Regex.pattern")

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        """Raises `ValueError` for a reference that is missing or no pattern."""
        pattern = self.pattern
        if pattern is None:
            pattern = reference_text(task)
            _compiled(pattern, f"task {task.id!r}: the reference", BadTask)
        expected = None
        if self.pattern is not None and GROUP in re.compile(pattern).groupindex:
            expected = " ".join(reference_text(task).split())
        answer = final_answer(episode, self.prefix)
        if answer is None:
            return Score(reward=0.0, evidence=f"no {self.prefix!r} in the last message")
        try:
            found = await in_worker(search, pattern, answer)
        except WorkerDied as died:
            if died.exit_code != -signal.SIGPROF:  # from outside: no search ends so
                raise
            return Score(reward=0.0, evidence=f"the pattern does not end on this text in {MAX_CPU_S:g} s")
        if found is None:
            return Score(reward=0.0, evidence=f"no match in {answer[-200:]!r}")
        is_right = expected is None or " ".join(found.split()) == expected
        told = "" if expected is None else f", expected {expected[:200]!r}"
        return Score(reward=float(is_right), evidence=f"matched {found[:200]!r}{told}")


def _compiled(pattern: str, where: str, kind: type[ValueError] = ValueError) -> None:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise kind(f"{where} {pattern!r:.200} is no regular expression: {error}") from error


def search(pattern: str, text: str) -> str | None:
    """What the last match holds, in its group `answer` if there is one; None without one. For a worker."""
    with cpu_limit(MAX_CPU_S):
        group: int | str = GROUP if GROUP in re.compile(pattern).groupindex else 0
        found = next(iter(deque(re.finditer(pattern, text), maxlen=1)), None)
        return None if found is None else found[group] or ""
