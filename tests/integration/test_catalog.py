"""The built-in environments, their oracles, and the examples, in the real sandbox."""

from typing import Any

import pytest
from support import run_async

from palaestra.envs import (
    Budget,
    Env,
    Episode,
    Outcome,
    Policy,
    Scored,
    ScriptedPolicy,
    StopReason,
    Task,
    ToolMessage,
    call_tool,
    play,
)
from palaestra.envs.catalog._lake_maps import shortest_way
from palaestra.envs.catalog.arithmetic import Arithmetic
from palaestra.envs.catalog.frozen_lake import FrozenLake
from palaestra.envs.graders import grade_episode
from palaestra.envs.message import SystemMessage, UserMessage


def played(env: Env[Any], policy: Policy, task: Task) -> tuple[Episode, Outcome]:
    async def main() -> tuple[Episode, Outcome]:
        episode = await play(env, policy, task, seed=0)
        return episode, await grade_episode(env.grader, task, episode)

    return run_async(main())


def reward(env: Env[Any], policy: Policy, task: Task) -> float:
    _, outcome = played(env, policy, task)
    assert isinstance(outcome, Scored), outcome
    return outcome.reward


@pytest.fixture
def question() -> Task:
    pytest.importorskip("reasoning_gym", reason="needs the extra `catalog`")
    return Arithmetic.tasks(size=1)[0]


@pytest.mark.parametrize("generator", ["chain_sum", "basic_arithmetic", "gsm_symbolic", "base_conversion"])
def test_the_arithmetic_oracle_is_right_about_every_kind_of_question(generator: str) -> None:
    pytest.importorskip("reasoning_gym", reason="needs the extra `catalog`")
    for task in Arithmetic.tasks(generator=generator, size=5, seed=3):
        episode, outcome = played(Arithmetic(), Arithmetic.oracle(task), task)
        assert isinstance(outcome, Scored) and outcome.reward == 1.0, outcome
        assert dict(episode.env_info)["sandbox"] and episode.num_turns == 2
        assert reward(Arithmetic(), ScriptedPolicy([]), task) == 0.0


def test_arithmetic_tasks_follow_their_options() -> None:
    pytest.importorskip("reasoning_gym", reason="needs the extra `catalog`")
    options: dict[str, Any] = {"generator": "chain_sum", "config": {"max_terms": 2}, "size": 4}
    tasks = Arithmetic.tasks(**options, seed=1, instructions="")
    assert tasks[0] == Arithmetic.tasks(**options, seed=1, instructions="")[0]
    assert tasks[0].prompt_text != Arithmetic.tasks(**options, seed=2, instructions="")[0].prompt_text
    assert [type(message) for message in tasks[0].messages] == [UserMessage]
    assert isinstance(Arithmetic.tasks(**options)[0].messages[0], SystemMessage)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"generator": "no_such"}, "generator='no_such'"),
        ({"config": {"min_terms": 0}}, "min_terms must be positive"),
        ({"config": {"no_such": 1}}, "no_such"),
        ({"generator": "countdown"}, "not run on untrusted text"),
    ],
)
def test_arithmetic_refuses_what_it_cannot_ask_or_judge(options: dict[str, Any], said: str) -> None:
    pytest.importorskip("reasoning_gym", reason="needs the extra `catalog`")
    with pytest.raises(ValueError, match=said):
        Arithmetic.tasks(**options, size=2)


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        ("print(6 * 7)", "42"),
        ("1 + 1", "[nothing was printed]"),
        ("print(1); 1 / 0", "1\nZeroDivisionError: division by zero"),
        ("print(", "SyntaxError"),
        ("import os; os.kill(os.getpid(), 9)", "[killed]"),
        ("print('\0')", "NUL"),
        ("x = [0] * 10**9", ""),
    ],
)
def test_whatever_the_code_does_is_an_observation(question: Task, code: str, seen: str) -> None:
    episode, outcome = played(Arithmetic(), ScriptedPolicy([call_tool("python", code=code), "?"]), question)
    answer = episode.messages[-2]
    assert isinstance(answer, ToolMessage) and seen in answer.content and answer.content
    assert isinstance(outcome, Scored)


def test_the_reference_is_not_in_the_sandbox(question: Task) -> None:
    spy = "import os; print(os.environ, os.listdir('.'), open('/proc/self/cmdline').read())"
    episode, _ = played(Arithmetic(), ScriptedPolicy([call_tool("python", code=spy)]), question)
    assert question.reference not in episode.messages[-2].content.replace(spy, "")


@pytest.mark.parametrize(
    "options", [{}, {"size": 4, "num_maps": 5}, {"size": 8, "num_maps": 5, "frozen": 0.7, "seed": 2}]
)
def test_the_frozen_lake_oracle_reaches_every_goal(options: dict[str, Any]) -> None:
    for task in FrozenLake.tasks(**options):
        assert reward(FrozenLake(), FrozenLake.oracle(task), task) == 1.0
        assert reward(FrozenLake(), ScriptedPolicy([]), task) == 0.0


def test_frozen_lake_in_words() -> None:
    (task,) = FrozenLake.tasks(instructions="")
    episode, outcome = played(FrozenLake(), ScriptedPolicy(["I go right.", "left or right?", "down"]), task)
    assert [message.content for message in episode.messages] == [
        "SFFF\nFHFH\nFFFH\nHFFG\nat 0 0",
        "I go right.",
        "at 0 1",
        "left or right?",
        "that names 2 moves; answer with one word: left, down, right or up",
        "down",
        "at 1 1",
    ]
    assert episode.stop is StopReason.DONE and isinstance(outcome, Scored) and outcome.reward == 0.0


def test_frozen_lake_shows_the_map_again_where_it_is_asked_to() -> None:
    (task,) = FrozenLake.tasks()
    episode, _ = played(FrozenLake(repeat_map=True), FrozenLake.oracle(task), task)
    shown = [message.content for message in episode.messages if isinstance(message, UserMessage)]
    assert {text.rpartition("\nat ")[0] for text in shown} == {"SFFF\nFHFH\nFFFH\nHFFG"}
    assert [text[-3:] for text in shown] == ["0 0", "1 0", "2 0", "2 1", "3 1", "3 2", "3 3"]


def test_walking_in_circles_is_cut() -> None:
    (task,) = FrozenLake.tasks(max_steps=3)
    episode, _ = played(FrozenLake(), ScriptedPolicy(["left"] * 9), task)
    assert episode.stop is StopReason.TRUNCATED and episode.num_turns == 3


def test_slippery_ice_follows_the_seed() -> None:
    (task,) = FrozenLake.tasks(is_slippery=True)

    def walk(seed: int) -> Episode:
        policy = ScriptedPolicy(["right", "down"] * 50)
        return run_async(play(FrozenLake(), policy, task, seed=seed, budget=Budget(max_turns=100)))

    assert walk(1).messages == walk(1).messages
    assert len({walk(seed).messages for seed in range(10)}) > 1


def test_maps_are_distinct_prompts_so_that_a_split_can_tell_them_apart() -> None:
    tasks = FrozenLake.tasks(size=3, num_maps=30)
    assert len({task.prompt_text for task in tasks}) == 30
    train, held_out = tasks.split(3)
    assert not {task.prompt_text for task in train} & {task.prompt_text for task in held_out}
    with pytest.raises(ValueError, match=r"num_maps=200: found only \d+ different 3x3 maps"):
        FrozenLake.tasks(size=3, num_maps=200)
    with pytest.raises(ValueError, match="num_maps=2 needs a size"):
        FrozenLake.tasks(num_maps=2)


def test_a_shortest_way_goes_around_holes() -> None:
    assert shortest_way(["SHG", "FFF"], (0, 0)) == ["down", "right", "right", "up"]
    assert shortest_way(["SHG", "FHF"], (0, 0)) == []
