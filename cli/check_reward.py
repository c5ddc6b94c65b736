"""The tasks that `palaestra check reward` tries a reward on, with an answer that deserves the maximum."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ..envs import Env, Task, UserMessage, load_env, play
from ..envs.check import Check
from ..envs.graders import UnknownReward, load_reward
from ..envs.graders.check_reward import RewardCase, answered, check_reward
from ..trainer.arena import make_tasks
from ..trainer.recipe_file import RecipeError
from .progress import TerminalProgress

_PROMPTS = ("question", "prompt", "text")
_REFERENCES = ("reference_answer", "reference", "answer", "test_list")


class _Row(BaseModel):
    model_config = ConfigDict(extra="allow")

    id: str | int | None = None
    task_id: str | int | None = None
    messages: list[dict[str, Any]] | None = None

    def task(self, number: int) -> Task:
        extra: Mapping[str, Any] = self.model_extra or {}
        prompt = next((extra[name] for name in _PROMPTS if isinstance(extra.get(name), str)), None)
        if self.messages:
            prompt = "\n".join(str(message.get("content", "")) for message in self.messages)
        reference = next((extra[name] for name in _REFERENCES if extra.get(name) is not None), None)
        if prompt is None or reference is None:
            raise ValueError(
                f"a row needs messages or one of {', '.join(_PROMPTS)}, and one of {', '.join(_REFERENCES)}"
            )
        name = next((str(each) for each in (self.id, self.task_id) if each is not None), f"row-{number}")
        return Task(id=name, messages=(UserMessage(prompt),), reference=reference, metadata=extra)

    def gold(self, field: str | None, task: Task) -> str:
        """The field that was named, or "gold", or the reference where it is text."""
        found = (self.model_extra or {}).get(field or "gold")
        if isinstance(found, str):
            return found
        if field is None and isinstance(task.reference, str | int | float):
            return str(task.reference)
        raise ValueError(f"no text in {field or 'gold'!r}; name the field of a right answer with --gold")


def read_cases(path: Path, gold: str | None, num_tasks: int) -> list[RewardCase]:
    """Of a JSONL file, drawn with a fixed seed. Raises `RecipeError` with the line."""
    cases: list[RewardCase] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"--data {path}: {error}") from error
    chosen = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not chosen:
        raise RecipeError(f"--data {path} holds no row; write one JSON object a line")
    for number, line in random.Random(0).sample(chosen, min(num_tasks, len(chosen))):
        try:
            row = _Row.model_validate(json.loads(line))
            task = row.task(number)
            cases.append(RewardCase(task=task, gold=answered(task, row.gold(gold, task))))
        except (ValidationError, ValueError) as error:
            raise RecipeError(f"--data {path}, line {number}: {error}") from error
    return cases


async def find_cases(
    data: Path | None, env: str | None, gold: str | None, num_tasks: int
) -> list[RewardCase]:
    """From the one place that was named. Raises `RecipeError`."""
    if (data is None) == (env is None):
        raise RecipeError("a reward is tried on tasks: give --data FILE, or --env NAME")
    if data is not None:
        return read_cases(data, gold, num_tasks)
    found = load_env(env or "")
    tasks = list(make_tasks("--env", found, {}))
    return await play_cases(found, random.Random(0).sample(tasks, min(num_tasks, len(tasks))))


async def try_reward(
    name: str,
    cases: Sequence[RewardCase],
    reward_range: tuple[float, float],
    max_grade_s: float,
    progress: TerminalProgress,
) -> Sequence[Check]:
    """Raises `RecipeError` for a reward that cannot be loaded."""
    try:
        grader = load_reward(name)
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
