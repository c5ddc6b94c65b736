"""`check_env` passes what is right and names what is wrong."""

import asyncio
import itertools
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from plain_envs import PlainStep
from support import run_async

from palaestra.envs import (
    AssistantMessage,
    Env,
    Episode,
    Observation,
    Policy,
    ScriptedPolicy,
    Step,
    Task,
    TaskSet,
    ToolEnv,
    UserMessage,
    call_tool,
    tool,
)
from palaestra.envs.catalog.frozen_lake import FrozenLake
from palaestra.envs.check import CheckReport, check_env
from palaestra.envs.graders import AnyGrader, Exact, grader

TASKS = TaskSet(
    Task(
        id=word,
        messages=(UserMessage("Say the word."),),
        reference=word,
        private={"hint": f"a hint on {word}, long enough"},
    )
    for word in ("fig", "pear", "plum")
)


class Words(ToolEnv[Task]):
    grader: AnyGrader | None = Exact()

    @tool
    async def echo(self, text: str) -> str:
        return text

    @classmethod
    def tasks(cls) -> TaskSet:
        return TASKS

    @classmethod
    def oracle(cls, task: Task) -> Policy:
        return ScriptedPolicy([call_tool("echo", text=str(task.reference)), str(task.reference)])


def failing(env: type[Env[Any]], **options: Any) -> dict[str, str]:
    report = run_async(check_env(env, **options))
    return {check.name: check.detail for check in report.checks if not check.passed}


@pytest.mark.parametrize("env", [Words, FrozenLake])
def test_a_good_environment_passes_every_check(env: type[Env[Any]]) -> None:
    report = run_async(check_env(env))
    assert report.passed and isinstance(report, CheckReport), report
    assert [check.name for check in report.checks] == [
        "oracle",
        "floor",
        "reset",
        "grading",
        "isolation",
        "teardown",
        "privacy",
        "files",
        "time",
    ]


def test_an_environment_without_an_oracle_is_told_to_define_one() -> None:
    class Silent(Words):
        @classmethod
        def oracle(cls, task: Task) -> Policy:
            return Env[Task].oracle(task)

    assert "define the classmethod `oracle`" in failing(Silent)["oracle"]


def test_an_oracle_that_is_wrong_is_named_with_its_task() -> None:
    class Wrong(Words):
        @classmethod
        def oracle(cls, task: Task) -> Policy:
            return ScriptedPolicy(["nonsense"])

    assert "expected reward 1, got Scored(reward=0.0" in failing(Wrong)["oracle"]


def test_doing_nothing_must_not_pay() -> None:
    @grader
    def generous(task: Task, episode: Episode) -> float:
        return 1.0

    class Generous(Words):
        grader = generous

    assert list(failing(Generous)) == ["floor"]


def test_randomness_without_the_seed_is_found() -> None:
    count = itertools.count()

    class Moody(Words):
        async def reset(self, task: Task, *, seed: int) -> Observation:
            first = await super().reset(task, seed=seed)
            return Observation(messages=(*first.messages, UserMessage(f"{next(count)}")), tools=first.tools)

    assert list(failing(Moody)) == ["reset", "isolation"]


def test_a_grader_that_changes_its_mind_is_found() -> None:
    flips = itertools.cycle([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.5])

    @grader
    def moody(task: Task, episode: Episode) -> float:
        return next(flips)

    class Moody(Words):
        grader = moody

    assert "was graded" in failing(Moody)["grading"]


def test_state_shared_between_episodes_is_found() -> None:
    class Shared(Words):
        current: ClassVar[str] = ""

        async def reset(self, task: Task, *, seed: int) -> Observation:
            type(self).current = task.id
            return await super().reset(task, seed=seed)

        @tool
        async def echo(self, text: str) -> str:
            return type(self).current

    assert list(failing(Shared)) == ["isolation"]


def test_of_many_tasks_ten_are_repeated() -> None:
    """The others: an episode of the oracle, one of nothing, and two with planted secrets."""
    resets = Counter[str]()

    class Many(Words):
        @classmethod
        def tasks(cls) -> TaskSet:
            return TaskSet(replace(TASKS[0], id=f"{number}") for number in range(20))

        async def reset(self, task: Task, *, seed: int) -> Observation:
            resets[task.id] += 1
            return await super().reset(task, seed=seed)

    assert not failing(Many, num_tasks=20)
    assert min(resets.values()) == 4 and Counter(resets.values())[4] >= 9 and Counter(resets.values())[9] >= 9


def leak_a_task() -> None:
    kept.append(asyncio.create_task(asyncio.Event().wait()))


def leak_a_file() -> None:
    kept.append(Path("/dev/null").open())  # noqa: SIM115  # the leak


def leak_a_thread() -> None:
    done = threading.Event()
    threading.Thread(target=done.wait, daemon=True, name="leaked").start()
    kept.append(done)


kept: list[Any] = []


@pytest.mark.parametrize(
    ("leak", "said"),
    [(leak_a_task, "3 asyncio task(s)"), (leak_a_file, "3 open file(s)"), (leak_a_thread, "3 thread(s)")],
)
def test_what_an_episode_leaves_behind_is_found(leak: Callable[[], None], said: str) -> None:
    class Leaky(Words):
        async def reset(self, task: Task, *, seed: int) -> Observation:
            leak()
            return await super().reset(task, seed=seed)

    try:
        assert said in failing(Leaky, num_tasks=1)["teardown"]
    finally:
        for item in kept:
            if isinstance(item, threading.Event):
                item.set()
            elif not isinstance(item, asyncio.Task):
                item.close()
        kept.clear()


class Telling(Words):
    """Shows the reference when a call is wrong."""

    async def step(self, action: AssistantMessage) -> Step:
        step = await super().step(action)
        if any(getattr(message, "is_error", False) for message in step.observation.messages):
            hint = Observation(messages=(UserMessage(f"it is {self.word}"),))
            return step._replace(observation=hint)
        return step

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self.word = task.reference
        return await super().reset(task, seed=seed)


class Hinting(Words):
    """Shows a value of `private` from the start."""

    async def reset(self, task: Task, *, seed: int) -> Observation:
        first = await super().reset(task, seed=seed)
        told = (*first.messages, UserMessage(task.private["hint"]))
        return Observation(messages=told, tools=first.tools)


@pytest.mark.parametrize("env", [Telling, Hinting])
def test_a_secret_that_reaches_the_model_is_found(env: type[Env[Any]]) -> None:
    assert "stands in a message of the user" in failing(env)["privacy"]


def test_a_secret_in_an_example_of_the_opening_is_found() -> None:
    class Shows(Words):
        async def reset(self, task: Task, *, seed: int) -> Observation:
            shown = AssistantMessage(str(task.reference))
            return Observation(messages=(*task.messages, shown, UserMessage("and?")))

    assert "stands in a message of the assistant" in failing(Shows)["privacy"]


class Overpaid(Words):
    grader: AnyGrader | None = grader(lambda task, episode: 5.0)


class OddFacts(Words):
    def facts(self) -> Any:
        return {"size": 3}


@pytest.mark.parametrize(
    ("env", "said"), [(Overpaid, "outside the env's reward_range (0.0, 1.0)"), (OddFacts, "facts returned 3")]
)
def test_what_a_run_would_not_take_is_found(env: type[Env[Any]], said: str) -> None:
    assert said in failing(env)["oracle"]


def test_an_environment_that_exits_gives_a_report_all_the_same() -> None:
    class Leaves(Words):
        async def reset(self, task: Task, *, seed: int) -> Observation:
            sys.exit(0)

    assert "CodeExited: sys.exit(0) was called" in failing(Leaves)["reset"]


def test_slow_episodes_are_found() -> None:
    class Slow(Words):
        async def reset(self, task: Task, *, seed: int) -> Observation:
            await asyncio.sleep(0.15)
            return await super().reset(task, seed=seed)

    assert "over 0.1" in failing(Slow, num_tasks=1, max_episode_s=0.1)["time"]


def test_an_environment_that_breaks_gives_a_report_all_the_same() -> None:
    class Broken(Words):
        async def reset(self, task: Task, *, seed: int) -> Observation:
            raise RuntimeError("broken")

    found = failing(Broken)
    assert "RuntimeError" in found["oracle"] and found["reset"] == "RuntimeError: broken"


def test_an_environment_that_hangs_ends_the_check_not_the_checker() -> None:
    class Hanging(Words):
        async def step(self, action: AssistantMessage) -> Step:
            await asyncio.Event().wait()
            raise AssertionError

    found = failing(Hanging, num_tasks=1, max_episode_s=0.01)
    assert found["oracle"] == "not done in 0.05 s; does something hang?"


def test_a_plain_environment_is_checked_in_its_worker() -> None:
    # Whatever is said earns 1: only doing nothing is paid too well.
    assert list(failing(PlainStep)) == ["floor"]


def test_no_tasks_is_an_error_not_a_pass() -> None:
    with pytest.raises(ValueError, match="gave no task to check"):
        run_async(check_env(FrozenLake, task_options={"size": 4, "num_maps": 0}))
