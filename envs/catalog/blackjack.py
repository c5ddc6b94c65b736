"""Gymnasium's Blackjack in words: hit or stick, against a dealer who sticks on 17."""

import string
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import gymnasium
import numpy as np

from ..budget import Budget
from ..env import Observation, Step
from ..gym import GymnasiumEnv
from ..message import AssistantMessage, Message, SystemMessage, UserMessage
from ..policy import Policy
from ..scripted import ScriptedPolicy
from ..task import Task, TaskSet

INSTRUCTIONS = (
    "Come closer to 21 than I do without going over it. An ace counts 1 or 11, a picture 10; I take cards up "
    "to 17. Answer with one word: hit or stick."
)
MOVES = {"stick": 0, "hit": 1}
CARDS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10, 10)
"""Each as likely as the others at every draw."""


class Blackjack(GymnasiumEnv):
    """1 for a hand won, -1 for one lost, 0 for a draw. An answer that names no move forfeits the hand.

    A task is a deal: two cards and the dealer's open one. All others follow the episode's seed.
    """

    reward_range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    budget = Budget(max_turns=24)

    def __init__(self) -> None:
        super().__init__(_make, describe=_describe, parse=lambda text: MOVES[_named(text) or "stick"])

    @classmethod
    def tasks(cls, *, size: int = 500, seed: int = 0, instructions: str = INSTRUCTIONS) -> TaskSet:
        """`size` deals, as often as they come."""
        opening: tuple[Message, ...] = (SystemMessage(instructions),) if instructions else ()
        deals = np.random.default_rng(seed).choice(CARDS, (size, 3)).tolist()
        return TaskSet(
            Task(
                id=f"{seed}-{number}",
                messages=(*opening, UserMessage(f"You hold {first} and {second}, I show {dealer}.")),
                private={"hand": (first, second), "dealer": dealer},
            )
            for number, (first, second, dealer) in enumerate(deals)
        )

    @classmethod
    def oracle(cls, task: Task) -> Policy:
        """Plays the best move in every position: the mean of its rewards is `best_mean`."""

        def move(conversation: Sequence[Message]) -> str:
            *_, kind, total, _, dealer = conversation[-1].content.split()
            now = int(total), kind == "soft", int(dealer)
            return "hit" if hit(*now) > stick(now[0], now[2]) else "stick"

        return ScriptedPolicy([move] * 24)

    @classmethod
    def best_mean(cls, task: Task) -> float:
        return value(*_count(task.private["hand"]), task.private["dealer"])

    async def step(self, action: AssistantMessage) -> Step:
        if _named(action.content) is None:
            return Step(Observation(), self.reward_range[0], True, False, {})
        return await super().step(action)


class _Deal(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The task's open cards in place of the drawn ones."""

    cards: Mapping[str, Any]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        _, info = super().reset(seed=seed, options=options)
        table: Any = self.env.unwrapped
        table.player, table.dealer[0] = list(self.cards["hand"]), self.cards["dealer"]
        total, is_soft = _count(table.player)
        return (total, table.dealer[0], is_soft), info


def _count(hand: Sequence[int]) -> tuple[int, bool]:
    """(total, whether an ace counts 11) of two cards."""
    return sum(hand) + 10 * (1 in hand), 1 in hand


def _make(task: Task) -> gymnasium.Env[Any, Any]:
    deal = _Deal(gymnasium.make("Blackjack-v1", disable_env_checker=True))
    deal.cards = task.private
    return deal


def _describe(game: gymnasium.Env[Any, Any], observation: Any) -> str:
    total, dealer, is_soft = observation
    return f"That is a {'soft' if is_soft else 'hard'} {total} against {dealer}"


def _named(text: str) -> str | None:
    named = {word.strip(string.punctuation) for word in text.lower().split()} & MOVES.keys()
    return named.pop() if len(named) == 1 else None


def _draw(total: int, is_soft: bool, card: int) -> tuple[int, bool]:
    """(total, soft) after one more card; an ace that counted 11 counts 1 where the total would pass 21."""
    if card == 1 and total <= 10:
        return total + 11, True
    return (total + card - 10, False) if is_soft and total + card > 21 else (total + card, is_soft)


@cache
def _ends(total: int, is_soft: bool) -> dict[int, float]:
    """How likely the dealer ends on each total; over 21 counts 0."""
    if total >= 17:
        return {total if total <= 21 else 0: 1.0}
    ends: dict[int, float] = {}
    for card in CARDS:
        for end, chance in _ends(*_draw(total, is_soft, card)).items():
            ends[end] = ends.get(end, 0.0) + chance / len(CARDS)
    return ends


@cache
def stick(total: int, dealer: int) -> float:
    """The mean reward of stopping on `total`."""
    ends = _ends(11, True) if dealer == 1 else _ends(dealer, False)
    return sum(chance * ((total > end) - (total < end)) for end, chance in ends.items())


@cache
def hit(total: int, is_soft: bool, dealer: int) -> float:
    """The mean reward of taking a card, and playing on as well as one can."""
    after = (_draw(total, is_soft, card) for card in CARDS)
    return sum(-1.0 if total > 21 else value(total, soft, dealer) for total, soft in after) / len(CARDS)


def value(total: int, is_soft: bool, dealer: int) -> float:
    """The mean reward of the best play from a position.

    >>> value(20, False, 7)
    0.773...
    """
    return max(stick(total, dealer), hit(total, is_soft, dealer))
