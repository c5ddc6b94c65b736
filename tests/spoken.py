"""What a policy said, as a grader meets it."""

from collections.abc import Mapping
from typing import Any

from support import run_async

from palaestra.envs import (
    AssistantMessage,
    Episode,
    Message,
    Outcome,
    Score,
    Scored,
    StopReason,
    Task,
    UserMessage,
)
from palaestra.envs.graders import Grader, grade_episode


def episode(*said: str) -> Episode:
    messages: list[Message] = [UserMessage("question"), *map(AssistantMessage, said)]
    return Episode(task_id="t", seed=0, messages=tuple(messages), num_opening=1, stop=StopReason.DONE)


def outcome(grader: Grader, reference: Any, said: str, private: Mapping[str, Any] | None = None) -> Outcome:
    task = Task(id="t", reference=reference, private=private or {})
    return run_async(grade_episode(grader, task, episode(said), reward_range=(0.0, 1.0)))


def score(grader: Grader, reference: Any, said: str, private: Mapping[str, Any] | None = None) -> Scored:
    found = outcome(grader, reference, said, private)
    assert isinstance(found, Scored), found
    return found


async def graded(grader: Grader, task: Task, said: str) -> Score:
    return await grader.grade(task, episode(said), None)
