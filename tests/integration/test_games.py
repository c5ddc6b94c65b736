"""Wordle, Blackjack, and the games of TextArena."""

import asyncio
import itertools
import math
import random
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
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
from palaestra.envs.catalog.blackjack import CARDS, Blackjack
from palaestra.envs.catalog.wordle import OPENER, Wordle, marks, words

LINES = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]


@pytest.fixture
def textarena() -> Any:
    return pytest.importorskip("textarena", reason="needs the extra `textarena`")


# Wordle


@pytest.mark.parametrize(
    ("guess", "secret", "expected"),
    [
        ("crane", "crane", "GGGGG"),
        ("sleek", "geese", "YXGYX"),
        ("eerie", "geese", "YGXXG"),
        ("aabbb", "ccaac", "YYXXX"),
        ("llama", "small", "YYGYX"),
        ("fuzzy", "crane", "XXXXX"),
    ],
)
def test_a_letter_is_marked_as_often_as_the_secret_has_it(guess: str, secret: str, expected: str) -> None:
    assert marks(guess, secret) == expected


def test_the_wordle_oracle_reasons_from_the_marks(textarena: Any) -> None:
    """Most words it finds by itself, before its last guess, the one that knows the secret."""
    assert OPENER in words() and len(words()) > 3000
    episodes = [oracle_game(task) for task in Wordle.tasks(size=100, seed=7)]
    assert statistics.fmean(episode.num_turns <= 5 for episode in episodes) > 0.8
    for episode in episodes:
        for marked, guess in itertools.pairwise(episode.messages[2:]):
            if isinstance(guess, AssistantMessage) and episode.num_turns <= 5 and " " in marked.content:
                word, seen = marked.content.split()[:2]
                assert marks(word, guess.content) == seen


def oracle_game(task: Task) -> Episode:
    return run_async(play(Wordle(), Wordle.oracle(task), task, seed=0))


def test_what_is_no_word_costs_a_turn_and_no_guess(textarena: Any) -> None:
    task = Task(id="a", reference="crane")
    lines = ["I guess zzzzz", "well", "My guess is TRAIN.", "crane"]
    episode = run_async(play(Wordle(), ScriptedPolicy(lines), task, seed=0))
    assert [said.content for said in episode.messages if said.role == "user"] == [
        "zzzzz is not in the list of words. Try another.",
        "Answer with one word of five letters.",
        "train XGGXY",
    ]
    assert episode.rewards == (0.0, 0.0, 0.0, 1.0) and episode.stop is StopReason.DONE


def test_six_wrong_guesses_lose(textarena: Any) -> None:
    episode = run_async(
        play(Wordle(), ScriptedPolicy(["train"] * 9), Task(id="a", reference="crane"), seed=0)
    )
    assert episode.num_turns == 6 and sum(episode.rewards) == 0.0 and episode.stop is StopReason.DONE
    with pytest.raises(ValueError, match=r"size=9999: the list has \d+ words"):
        Wordle.tasks(size=9999)


# Blackjack


def by_hand(total: int, has_ace: bool, dealer: int) -> float:
    """The optimal value over plain sums: an ace counts 1, and 10 more where that fits."""
    shown = total + 10 if has_ace and total + 10 <= 21 else total
    staying = sum(
        chance * ((shown > end) - (shown < end)) for end, chance in dealer_ends(dealer, dealer == 1).items()
    )
    return max(staying, hitting(total, has_ace, dealer))


@cache
def hitting(total: int, has_ace: bool, dealer: int) -> float:
    after = [
        -1.0 if total + card > 21 else by_hand(total + card, has_ace or card == 1, dealer) for card in CARDS
    ]
    return statistics.fmean(after)


@cache
def dealer_ends(total: int, has_ace: bool) -> dict[int, float]:
    shown = total + 10 if has_ace and total + 10 <= 21 else total
    if shown >= 17:
        return {shown if shown <= 21 else 0: 1.0}
    ends: dict[int, float] = {}
    for card in CARDS:
        for end, chance in dealer_ends(total + card, has_ace or card == 1).items():
            ends[end] = ends.get(end, 0.0) + chance / len(CARDS)
    return ends


def deals() -> Iterator[tuple[Task, float]]:
    for first, second, dealer in itertools.product(CARDS, repeat=3):
        task = Task(id="deal", private={"hand": (first, second), "dealer": dealer})
        yield task, by_hand(first + second, 1 in (first, second), dealer)


def test_the_best_mean_of_every_deal_is_the_exact_optimum() -> None:
    optimum = [value for _, value in deals()]
    assert statistics.fmean(optimum) == pytest.approx(-0.04656, abs=5e-5)
    for task, value in deals():
        assert Blackjack.best_mean(task) == pytest.approx(value, abs=1e-12)


def blackjack_gap(policy: Callable[[Task], Policy], num_hands: int) -> tuple[float, float]:
    """(mean of reward minus optimum, its standard error) over fresh deals."""
    tasks = Blackjack.tasks(size=num_hands, seed=11)

    async def main() -> list[float]:
        gaps: list[float] = []
        for number, task in enumerate(tasks):
            episode = await play(Blackjack(), policy(task), task, seed=number)
            assert episode.stop is StopReason.DONE, episode
            gaps.append(sum(episode.rewards) - Blackjack.best_mean(task))
        return gaps

    gaps = run_async(main())
    return statistics.fmean(gaps), statistics.stdev(gaps) / math.sqrt(num_hands)


def always_hitting(task: Task) -> Policy:
    return ScriptedPolicy(["hit"] * 24)


def test_the_oracle_reaches_the_optimum_and_a_careless_player_does_not() -> None:
    gap, error = blackjack_gap(Blackjack.oracle, 4000)
    assert error < 0.02 and abs(gap) < 3.5 * error
    gap, error = blackjack_gap(always_hitting, 400)
    assert gap < -10 * error


def test_a_deal_keeps_its_open_cards_and_draws_the_rest_by_the_seed() -> None:
    task = Task(id="a", private={"hand": (1, 6), "dealer": 10})

    def hand(seed: int) -> Episode:
        return run_async(play(Blackjack(), ScriptedPolicy(["hit", "stick"]), task, seed=seed))

    assert {hand(seed).messages[0].content for seed in range(10)} == {"That is a soft 17 against 10"}
    assert hand(1).messages == hand(1).messages
    assert len({hand(seed).messages[2].content for seed in range(20)}) > 4


@pytest.mark.parametrize("said", ["", "hit or stick?", "double"])
def test_babble_forfeits_the_hand(said: str) -> None:
    """Else it would earn 0, which is more than the best play earns."""
    task = Blackjack.tasks(size=1)[0]
    episode = run_async(play(Blackjack(), ScriptedPolicy([said]), task, seed=0))
    assert episode.rewards == (-1.0,) and episode.stop is StopReason.DONE


# TextArena


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
