"""Wordle and Blackjack."""

import itertools
import math
import statistics
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
from support import run_async

from palaestra.envs import (
    AssistantMessage,
    Episode,
    Policy,
    ScriptedPolicy,
    StopReason,
    Task,
    play,
)
from palaestra.envs.catalog.blackjack import CARDS, Blackjack
from palaestra.envs.catalog.wordle import OPENER, Wordle, marks, words


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
