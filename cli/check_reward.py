"""The tasks that `palaestra check reward` tries a reward on, with an answer that deserves the maximum."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import tee
from typing import Any, TypeVar

from ..envs import Env, Task, load_env, play
from ..envs.check import Check
from ..envs.datasets import Row, read_rows
from ..envs.datasets.json_kinds import at
from ..envs.datasets.tasks import to_tasks
from ..envs.graders import UnknownReward, load_reward
from ..envs.graders.check_reward import RewardCase, answered, check_reward
from ..trainer.arena import make_tasks
from ..trainer.recipe_file import RecipeError
from .progress import TerminalProgress

GOLD = "gold"
"""The field with a right answer, where nobody names another."""
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """A dataset to try a reward on, and where in its rows things stand."""

    data: str
    prompt: str | None = None
    reference: str | None = None
    gold: str | None = None
    """A field, or a dotted path; None: "gold", or else the reference where that is a text or a number."""

    def cases(self, num_tasks: int) -> list[RewardCase]:
        """Drawn with a fixed seed. Raises `DatasetError`; `RecipeError` where a row has no right answer."""
        rows, again = tee(read_rows(self.data, prompt=self.prompt, reference=self.reference))
        drawn = _drawn(zip(rows, to_tasks(again), strict=True), num_tasks)
        if not drawn:
            raise RecipeError(f"--data {self.data} holds no row; write one JSON object a line")
        return [RewardCase(task=task, gold=answered(task, self._gold(row, task))) for row, task in drawn]

    def _gold(self, row: Row, task: Task) -> str:
        fields = dict(row)
        if self.reference is not None:  # by its name in the file, too
            fields[self.reference] = row.reference_answer
        found = at(fields, self.gold or GOLD)
        if found is None and self.gold is None:
            found = task.reference
        if isinstance(found, bool) or not isinstance(found, str | int | float):
            cure = "name the field of a right answer with --gold, such as reference_answer.answer"
            raise RecipeError(
                f"--data {self.data}, task {task.id!r}: {self.gold or GOLD}: {found!r:.60} is no text; {cure}"
            )
        return str(found)


def _drawn(items: Iterable[T], count: int) -> list[T]:
    """`count` of them, or all; each is as likely as any other."""
    pick, drawn = random.Random(0), list[T]()
    for number, item in enumerate(items):
        if number < count:
            drawn.append(item)
        elif (place := pick.randrange(number + 1)) < count:
            drawn[place] = item
    return drawn


async def find_cases(rows: Rows | None, env: str | None, num_tasks: int) -> list[RewardCase]:
    """From the one place that was named. Raises `RecipeError`."""
    if (rows is None) == (env is None):
        raise RecipeError("a reward is tried on tasks: give --data FILE, or --env NAME")
    if rows is not None:
        return rows.cases(num_tasks)
    found = load_env(env or "")
    tasks = list(make_tasks("--env", found, {}))
    return await play_cases(found, random.Random(0).sample(tasks, min(num_tasks, len(tasks))))


async def try_reward(
    name: str,
    options: Mapping[str, Any],
    cases: Sequence[RewardCase],
    *,
    reward_range: tuple[float, float],
    max_grade_s: float,
    progress: TerminalProgress,
) -> Sequence[Check]:
    """Raises `RecipeError` for a reward that cannot be loaded."""
    try:
        grader = load_reward(name, **options)
    except UnknownReward as error:
        raise RecipeError(str(error)) from error
    progress.phase("answers at most", 9 * len(cases) + 190)
    return await check_reward(
        grader, cases, reward_range=reward_range, max_grade_s=max_grade_s, on_graded=progress.advance
    )


async def play_cases(env: type[Env[Any]], tasks: Sequence[Task]) -> list[RewardCase]:
    """Of an environment: what its oracle does."""
    cases: list[RewardCase] = []
    for task in tasks:
        episode = await play(env(), env.oracle(task), task, seed=0)
        if episode.failure is not None:
            raise RecipeError(f"--env {env.__name__}: its oracle failed, task {task.id!r}: {episode.failure}")
        cases.append(RewardCase(task=task, gold=episode))
    return cases
