"""Both ways to Gymnasium."""

import asyncio
import subprocess
import sys
from typing import Any

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env
from support import run_async

import palaestra.envs
from palaestra.envs import GymnasiumEnv, ScriptedPolicy, StopReason, Task, UserMessage, play
from palaestra.envs.errors import CodeExited
from palaestra.envs.gym import register_all


@pytest.fixture
def lake() -> Any:
    env = gymnasium.make("palaestra/frozen-lake-v0", size=4, num_maps=5)
    yield env
    env.close()


def test_gymnasium_alone_finds_an_environment_by_its_module() -> None:
    code = "import gymnasium; gymnasium.make('palaestra.envs:palaestra/frozen-lake-v0').close()"
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=60)


def test_every_installed_environment_is_registered_by_the_import() -> None:
    assert {f"palaestra/{name}-v0" for name in palaestra.envs.env_names()} <= set(gymnasium.registry)
    register_all()  # a second time changes nothing and warns of nothing


def test_an_environment_of_ours_passes_gymnasiums_own_check(lake: Any) -> None:
    check_env(lake.unwrapped)


def test_the_seed_decides_the_task_and_the_options_can_name_it(lake: Any) -> None:
    assert lake.reset(seed=1) == lake.reset(seed=1)
    assert len({lake.reset(seed=seed)[1]["task_id"] for seed in range(20)}) > 1
    text, info = lake.reset(seed=1, options={"task_id": "4x4-0-3"})
    assert info["task_id"] == "4x4-0-3" and text.endswith("at 0 0")


def test_a_step_answers_in_text_and_pays_at_the_goal() -> None:
    env = gymnasium.make("palaestra/frozen-lake-v0")
    env.reset(seed=0)
    rewards = [env.step(move)[1] for move in ("down", "down", "right", "down", "right", "right")]
    assert rewards == [0, 0, 0, 0, 0, 1]
    env.close()


def test_it_also_runs_inside_a_running_event_loop() -> None:
    async def notebook() -> str:
        env = gymnasium.make("palaestra/frozen-lake-v0")
        text, _ = env.reset(seed=0)
        env.close()
        return str(text)

    assert asyncio.run(notebook()).endswith("at 0 0")


@pytest.mark.parametrize("words", ["[" * 200_000, '{"name": 1}', "[]", "9" * 5000])
def test_what_is_no_call_is_words(lake: Any, words: str) -> None:
    lake.reset(seed=0)
    assert lake.step(words)[1:3] == (0.0, False)


def test_an_environment_that_exits_raises_and_the_next_reset_plays_on() -> None:
    env = gymnasium.make("palaestra/frozen-lake-v0", env="plain_envs:Leaving")
    env.reset(seed=0)
    with pytest.raises(CodeExited, match=r"sys.exit\(0\)"):
        env.step("go")
    env.reset(seed=1)
    env.close()


def test_a_tool_call_is_json_and_the_grade_comes_with_the_last_reward() -> None:
    pytest.importorskip("reasoning_gym", reason="needs the extra `catalog`")
    env = gymnasium.make("palaestra/arithmetic-v0", size=3)
    text, info = env.reset(seed=0)
    assert '"name": "python"' in str(text)
    call = '{"name": "python", "arguments": {"code": "print(6 * 7)"}}'
    assert env.step(call) == ("42", 0.0, False, False, info)
    reference = palaestra.envs.load_env("arithmetic").tasks(size=3).by_id(info["task_id"]).reference
    assert env.step(f"Answer: {reference}")[1:4] == (1.0, True, False)
    env.close()


def blackjack() -> GymnasiumEnv:
    def describe(game: Any, observation: Any) -> str:
        return f"you {observation[0]}, dealer {observation[1]}"

    def parse(text: str) -> int:
        if text not in ("stick", "hit"):
            raise ValueError(f"{text!r} is no move; say hit or stick")
        return ("stick", "hit").index(text)

    return GymnasiumEnv(lambda task: gymnasium.make("Blackjack-v1"), describe=describe, parse=parse)


def test_any_gymnasium_environment_becomes_a_language_environment() -> None:
    task = Task(id="t", messages=(UserMessage("Blackjack."),))
    episode = run_async(play(blackjack(), ScriptedPolicy(["stay", "stick"]), task, seed=3))
    assert [message.role for message in episode.messages] == ["user", "assistant"] * 2 + ["user"]
    assert episode.messages[0].content.startswith("Blackjack.\nyou ")
    assert episode.messages[2].content == "'stay' is no move; say hit or stick"
    assert episode.stop is StopReason.DONE and episode.rewards[0] == 0.0
    assert episode.env_info == (("unparsed_actions", "1"),)


def test_the_same_seed_gives_the_same_game() -> None:
    task = Task(id="t")
    games = [run_async(play(blackjack(), ScriptedPolicy(["hit"] * 9), task, seed=5)) for _ in range(2)]
    assert games[0].messages == games[1].messages and games[0].rewards == games[1].rewards


def test_a_parser_with_a_bug_fails_the_episode() -> None:
    def parse(text: str) -> int:
        return {"hit": 1}[text]

    def describe(game: Any, observation: Any) -> str:
        return ""

    env = GymnasiumEnv(lambda task: gymnasium.make("Blackjack-v1"), describe=describe, parse=parse)
    episode = run_async(play(env, ScriptedPolicy(["fold"]), Task(id="t"), seed=0))
    assert episode.failure is not None and episode.failure.cause == "KeyError"


def test_an_unclosed_environment_does_not_hold_up_the_exit() -> None:
    code = "import gymnasium, palaestra.envs; gymnasium.make('palaestra/frozen-lake-v0').reset(seed=0)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
