"""What the tests of the retail environment share: episodes of it, and ways to look at its tasks."""

from collections.abc import Callable, Sequence
from typing import Any

from support import run_async

from palaestra.envs import Episode, Outcome, Policy, Scored, ScriptedPolicy, Task, TaskSet, call_tool, play
from palaestra.envs.catalog.retail import Retail
from palaestra.envs.graders import grade_episode


def played(policy: Policy, task: Task, user: Policy | None = None) -> tuple[Episode, Outcome]:
    async def main() -> tuple[Episode, Outcome]:
        env = Retail(user=user)
        episode = await play(env, policy, task, seed=0)
        return episode, await grade_episode(env.grader, task, episode, reward_range=env.reward_range)

    return run_async(main())


def reward(policy: Policy, task: Task) -> float:
    _, outcome = played(policy, task)
    assert isinstance(outcome, Scored), outcome
    return outcome.reward


def first(tasks: TaskSet, is_it: Callable[[Task], object]) -> Task:
    return next(task for task in tasks if is_it(task))


def writes(task: Task) -> bool:
    return bool(task.reference["actions"])


def without(calls: Sequence[Any], number: int, told: Sequence[str]) -> Policy:
    kept = [call for place, call in enumerate(calls) if place != number]
    lines = [call_tool(call["name"], **call["kwargs"]) for call in kept]
    return ScriptedPolicy([*lines, ". ".join(told)])
