"""Guess a number: each wrong guess is told higher or lower, and who halves what is left finds it in time."""

import random
import re
from collections.abc import Sequence

from ..budget import Budget
from ..env import Env, Observation, Step
from ..message import AssistantMessage, Message, SystemMessage, UserMessage
from ..policy import Policy
from ..scripted import ScriptedPolicy
from ..task import Task, TaskSet

INSTRUCTIONS = "Find the number that I think of. Answer with a number; I say whether mine is higher or lower."


class NumberGuessing(Env[Task]):
    """1 for the number within the guesses, else 0. What names no number, or two, is a wrong guess too.

    There are `highest.bit_length()` guesses, three for seven numbers: just enough to find each of them by
    halving what is left, so that the best mean is exactly 1.
    """

    budget = Budget(max_turns=32)

    def __init__(self) -> None:
        self._secret = self._left = 0

    @classmethod
    def tasks(
        cls, *, highest: int = 7, size: int = 500, seed: int = 0, instructions: str = INSTRUCTIONS
    ) -> TaskSet:
        """`size` games, in which every number from 1 to `highest` comes about as often as the others.

        >>> NumberGuessing.tasks(size=1)[0].messages[-1].content
        'Game 0-0: a number from 1 to 7, in 3 guesses.'
        """
        if not 1 <= highest < 2**31:
            raise ValueError(f"highest={highest}: needs 1 .. 2147483647")
        opening: tuple[Message, ...] = (SystemMessage(instructions),) if instructions else ()
        question = f"a number from 1 to {highest}, in {highest.bit_length()} guesses."
        secrets = [1 + number % highest for number in range(size)]
        random.Random(seed).shuffle(secrets)
        return TaskSet(
            Task(
                id=f"{seed}-{number}",
                messages=(*opening, UserMessage(f"Game {seed}-{number}: {question}")),
                reference=secret,
                metadata={"highest": highest},
            )
            for number, secret in enumerate(secrets)
        )

    @classmethod
    def oracle(cls, task: Task) -> Policy:
        """Halves what is left; it does not look at the secret."""
        highest = int(task.metadata["highest"])

        def guess(conversation: Sequence[Message]) -> str:
            return halve(conversation, highest)

        return ScriptedPolicy([guess] * highest.bit_length())

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self._secret, self._left = task.reference, int(task.metadata["highest"]).bit_length()
        return Observation(messages=task.messages)

    async def step(self, action: AssistantMessage) -> Step:
        guess = named(action.content)
        self._left -= 1
        info = {"guesses_left": self._left}
        if guess == self._secret or not self._left:
            return Step(Observation(), float(guess == self._secret), True, False, info)
        told = "Answer with one number."
        if guess is not None:
            told = f"{'Higher' if guess < self._secret else 'Lower'} than {guess}."
        return Step(Observation(messages=(UserMessage(told),)), 0.0, False, False, info)


def named(text: str) -> int | None:
    """The number in a text; None for none, or for several.

    >>> named("I say 5."), named("5 or 6")
    (5, None)
    """
    found = re.findall(r"[0-9]+", text)
    return int(found[0]) if len(found) == 1 and len(found[0]) <= 10 else None


def halve(heard: Sequence[Message], highest: int) -> str:
    """The middle of what is left after all that was told."""
    low, high = 1, highest
    for message in heard:
        if told := re.fullmatch(r"(Higher|Lower) than ([0-9]+)\.", message.content):
            bound = int(told[2])
            low, high = (bound + 1, high) if told[1] == "Higher" else (low, bound - 1)
    return str((low + high) // 2)
