"""The games of TextArena, alone and against other policies."""

import asyncio
import itertools
import random
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import pytest
from support import run_async

from palaestra.envs import (
    AssistantMessage,
    Episode,
    Message,
    Policy,
    ScriptedPolicy,
    StopReason,
    Task,
    ToolSpec,
    play,
)

LINES = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]


@pytest.fixture
def textarena() -> Any:
    return pytest.importorskip("textarena", reason="needs the extra `textarena`")


def noughts() -> type[Any]:
    from palaestra.envs.adapters.textarena import TextArenaEnv

    class Noughts(TextArenaEnv):
        """Against a player who takes any free cell."""

        def opponent(self, task: Task, player: int) -> Policy:
            dice = random.Random(player)

            def move(heard: Sequence[Message]) -> str:
                return f"[{dice.choice(free(heard))}]"

            return ScriptedPolicy([move] * 9)

        @classmethod
        def oracle(cls, task: Task) -> Policy:
            return ScriptedPolicy([perfect] * 9)

    return Noughts


def free(heard: Sequence[Message]) -> list[int]:
    moves = heard[-1].content.rpartition("Available Moves:")[2]
    return [int(cell) for cell in re.findall(r"\[(\d)\]", moves)]


def perfect(heard: Sequence[Message]) -> str:
    cells = list(
        "".join(
            re.findall(r"^ (\S) \| (\S) \| (\S) $", heard[-1].content, re.M)[-3 + row][column]
            for row in range(3)
            for column in range(3)
        )
    )
    mine = "X" if "you will be 'X'" in heard[0].content else "O"
    return f"[{max(free(heard), key=lambda cell: -negamax(marked(cells, cell, mine), other(mine)))}]"


def other(mark: str) -> str:
    return "O" if mark == "X" else "X"


def marked(cells: Sequence[str], cell: int, mark: str) -> tuple[str, ...]:
    return tuple(mark if number == cell else held for number, held in enumerate(cells))


@cache
def negamax(cells: tuple[str, ...], to_move: str) -> int:
    if any(all(cells[cell] == other(to_move) for cell in line) for line in LINES):
        return -1
    left = [number for number, held in enumerate(cells) if held.isdigit()]
    return max((-negamax(marked(cells, cell, to_move), other(to_move)) for cell in left), default=0)


def test_a_game_for_two_against_a_policy(textarena: Any) -> None:
    env = noughts()
    tasks = env.tasks(game="TicTacToe-v0", num_players=2, size=20)

    async def all_at_once() -> list[Episode]:
        games = (play(env(), env.oracle(task), task, seed=n) for n, task in enumerate(tasks))
        return await asyncio.gather(*games)

    episodes = run_async(all_at_once())
    results = [sum(episode.rewards) for episode in episodes]
    assert min(results) >= 0.0 and results.count(1.0) >= 10
    assert {task.private["player"] for task in tasks} == {0, 1}
    assert all("You are Player 1" in episode.messages[0].content for episode in episodes[1::2])
    assert all(episode.messages[1].content not in episode.messages[2].content for episode in episodes[::2])


def test_two_perfect_players_draw(textarena: Any) -> None:
    class Twins(noughts()):  # type: ignore[misc]  # the base is made by a function
        def opponent(self, task: Task, player: int) -> Policy:
            return ScriptedPolicy([perfect] * 9)

    for task in Twins.tasks(game="TicTacToe-v0", num_players=2, size=2):
        episode = run_async(play(Twins(), Twins.oracle(task), task, seed=0))
        assert sum(episode.rewards) == 0.0 and episode.stop is StopReason.DONE, episode


def test_an_illegal_move_loses_and_says_so(textarena: Any) -> None:
    env = noughts()
    (task,) = env.tasks(game="TicTacToe-v0", num_players=2, size=1)
    episode = run_async(play(env(), ScriptedPolicy(["[99]", "[99]"]), task, seed=0))
    assert episode.rewards[-1] == -1.0 and dict(episode.env_info)["invalid_move"] == "True"


def test_an_opponent_that_breaks_fails_the_episode(textarena: Any) -> None:
    from palaestra.envs.adapters.textarena import TextArenaEnv

    (task,) = TextArenaEnv.tasks(game="TicTacToe-v0", num_players=2, size=1)
    episode = run_async(play(TextArenaEnv(), ScriptedPolicy([]), task, seed=0))
    assert episode.failure is not None and "define the method `opponent`" in episode.failure.message


def test_the_time_of_an_opponent_is_not_the_envs(textarena: Any) -> None:
    from palaestra.envs.adapters.textarena import TextArenaEnv

    class Slow(TextArenaEnv):
        def opponent(self, task: Task, player: int) -> Policy:
            async def slow(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> AssistantMessage:
                await asyncio.sleep(1.0)
                return AssistantMessage(f"[{free(messages)[0]}]")

            return slow

    (task,) = Slow.tasks(game="TicTacToe-v0", num_players=2, size=1, player=0)
    timing = run_async(play(Slow(), ScriptedPolicy([perfect] * 9), task, seed=0)).timing
    assert timing.wall_s - timing.env_s >= 2.0, timing  # two moves at least


def halving(heard: Sequence[Message]) -> str:
    low, high = 1, 20
    for said, told in itertools.pairwise(heard[1:]):
        if isinstance(said, AssistantMessage):
            guess = int(said.content.strip("[]"))
            low, high = (guess + 1, high) if "higher" in told.content else (low, guess - 1)
    return f"[{(low + high) // 2}]"


def test_a_game_alone_follows_the_seed_and_leaves_the_random_numbers_of_others_alone(textarena: Any) -> None:
    from palaestra.envs.adapters.textarena import TextArenaEnv

    tasks = TextArenaEnv.tasks(game="GuessTheNumber-v0", size=10)

    async def games() -> list[Episode]:
        policies = (ScriptedPolicy([halving] * 9) for _ in tasks)
        return await asyncio.gather(
            *(
                play(TextArenaEnv(), policy, task, seed=n)
                for n, (policy, task) in enumerate(zip(policies, tasks, strict=True))
            )
        )

    random.seed(5)
    expected = random.random()
    random.seed(5)
    first, second = run_async(games()), run_async(games())
    assert random.random() == expected
    assert [sum(episode.rewards) for episode in first] == [1.0] * 10
    assert [episode.messages for episode in first] == [episode.messages for episode in second]
    assert len({episode.num_turns for episode in first}) > 1


@pytest.mark.parametrize("game", ["GuessTheNumber-v0", "DealtWhenMade-v0"])
def test_siblings_begin_with_the_same_game(textarena: Any, game: str) -> None:
    with suppress(ValueError):  # it is registered already
        textarena.register("DealtWhenMade-v0-raw", "textarena.envs.Countdown.env:CountdownEnv")
    from palaestra.envs.adapters.textarena import TextArenaEnv

    tasks = TextArenaEnv.tasks(game=game, size=8)

    def heard(task: Task, seed: int) -> tuple[Message, ...]:
        return run_async(play(TextArenaEnv(), ScriptedPolicy([halving] * 9), task, seed=seed)).messages

    games = [heard(task, 0) for task in tasks]
    assert [heard(task, 1) for task in tasks] == games and len(set(games)) > 4


def test_a_player_who_is_none_is_refused() -> None:
    from palaestra.envs.adapters.textarena import TextArenaEnv

    with pytest.raises(ValueError, match="player=2 is none of the 2 players"):
        TextArenaEnv.tasks(game="TicTacToe-v0", num_players=2, player=2)
