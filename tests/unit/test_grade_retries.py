"""Grades that are tried again: only where another try may go better."""

from pathlib import Path

import pytest
from graded_rooms import fates, graded

from palaestra.agents.grading.inline import Inline
from palaestra.agents.grading.job import GradeLimits
from palaestra.agents.ledger import Ledger
from palaestra.envs import Episode, Task, Ungraded
from palaestra.envs.graders import Grader, JsonSchema, Numeric, Rubric, grader


@grader
async def breaks(task: Task, episode: Episode) -> float:
    raise ConnectionError("the judge is away")


class Refused(Exception):
    """As of a key that nobody takes."""

    is_retryable = False


@grader
def is_refused(task: Task, episode: Episode) -> float:
    raise Refused("no such key")


@pytest.mark.parametrize(
    ("part", "tries"),
    [
        (breaks, 3),
        (is_refused, 1),
        (Numeric(), 1),
        (JsonSchema(), 1),
        (Rubric(a=(1.0, breaks)), 3),
        (Rubric(a=(1.0, is_refused)), 1),
        (Rubric(a=(1.0, Rubric(b=(1.0, Numeric())))), 1),
    ],
)
def test_only_what_another_try_may_mend_is_tried_again_in_a_rubric_too(
    tmp_path: Path, part: Grader, tries: int
) -> None:
    """The task's reference is neither a number nor a schema."""
    limits = GradeLimits(retry_s=0.0, poll_s=0.01, max_attempts=3)
    outcome = graded(Inline(part), tmp_path, limits)
    assert isinstance(outcome, Ungraded) and outcome.reason.startswith("crash: ")
    with Ledger(tmp_path) as ledger:
        assert fates(ledger) == {"broken": tries}
