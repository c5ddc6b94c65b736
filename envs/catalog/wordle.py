"""Wordle: find a word of five letters in six guesses. The words are those of TextArena's package."""

import random
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from importlib.util import find_spec, module_from_spec

from ..budget import Budget
from ..env import Env, Observation, Step
from ..message import AssistantMessage, Message, SystemMessage, UserMessage
from ..policy import Policy
from ..scripted import ScriptedPolicy
from ..task import Task, TaskSet

INSTRUCTIONS = (
    "Find the secret English word of five letters. Answer with one word. Each guess is marked letter by "
    "letter: G for the right place, Y for elsewhere in the word, X for not in it. You have six guesses."
)
NUM_GUESSES = 6
OPENER = "raise"


class Wordle(Env[Task]):
    """1 for the word within six guesses, else 0. What is no word of the list costs a turn, not a guess."""

    budget = Budget(max_turns=12)

    def __init__(self) -> None:
        self._secret = ""
        self._num_guesses = 0

    @classmethod
    def tasks(cls, *, size: int = 500, seed: int = 0, instructions: str = INSTRUCTIONS) -> TaskSet:
        """`size` secret words, drawn without repetition.

        >>> Wordle.tasks(size=1)[0].messages[-1].content
        'Game 0-0. Your first guess?'
        """
        if size > len(words()):
            raise ValueError(f"size={size}: the list has {len(words())} words; ask for fewer")
        opening: tuple[Message, ...] = (SystemMessage(instructions),) if instructions else ()
        return TaskSet(
            Task(
                id=f"{seed}-{number}",
                messages=(*opening, UserMessage(f"Game {seed}-{number}. Your first guess?")),
                reference=secret,
            )
            for number, secret in enumerate(random.Random(seed).sample(words(), size))
        )

    @classmethod
    def oracle(cls, task: Task) -> Policy:
        """Guesses words that fit all marks so far; only its last guess knows the secret."""
        left = list(words())

        def guess(conversation: Sequence[Message]) -> str:
            if not any(isinstance(message, AssistantMessage) for message in conversation):
                return OPENER
            word, marked = conversation[-1].content.lower().split()
            left[:] = [other for other in left if marks(word, other).lower() == marked]
            return best(left)

        return ScriptedPolicy([*[guess] * (NUM_GUESSES - 1), str(task.reference)])

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self._secret = str(task.reference)
        return Observation(messages=task.messages)

    async def step(self, action: AssistantMessage) -> Step:
        """Mark the last word of five letters that the message holds."""
        found = re.findall(r"\b[a-z]{5}\b", action.content.lower())
        if not found:
            return self._go_on("Answer with one word of five letters.")
        word = found[-1]
        if word not in words():
            return self._go_on(f"{word} is not in the list of words. Try another.")
        self._num_guesses += 1
        if word == self._secret:
            return Step(Observation(), 1.0, True, False, {"num_guesses": self._num_guesses})
        if self._num_guesses == NUM_GUESSES:
            return Step(Observation(), 0.0, True, False, {"num_guesses": self._num_guesses})
        return self._go_on(f"{word} {marks(word, self._secret)}")

    def _go_on(self, told: str) -> Step:
        return Step(Observation(messages=(UserMessage(told),)), 0.0, False, False, {})


@cache
def words() -> tuple[str, ...]:
    """The words of five letters in the dictionary of TextArena's package, without names."""
    spec = find_spec("textarena")
    if spec is None:
        raise ModuleNotFoundError("no module 'textarena'", name="textarena")
    # Of a module that is not executed: to import TextArena takes a second.
    dictionary = files(module_from_spec(spec)) / "envs" / "utils" / "data" / "en_US.dic"
    entries = dictionary.read_text(encoding="utf-8").splitlines()
    roots = {entry.partition("/")[0] for entry in entries}  # "crane/MS": a word and how it is inflected
    return tuple(sorted(root for root in roots if re.fullmatch("[a-z]{5}", root)))


def marks(guess: str, secret: str) -> str:
    """G, Y or X for each letter. A letter is marked as often as the secret has it, the right places first.

    >>> marks("sleek", "geese")
    'YXGYX'
    """
    others = Counter(there for here, there in zip(guess, secret, strict=True) if here != there)
    row: list[str] = []
    for here, there in zip(guess, secret, strict=True):
        if here == there:
            row.append("G")
        elif others[here] > 0:
            others[here] -= 1
            row.append("Y")
        else:
            row.append("X")
    return "".join(row)


def best(left: Sequence[str]) -> str:
    """The word whose letters most of the others have."""
    common = Counter(letter for word in left for letter in set(word))
    return max(left, key=lambda word: (sum(common[letter] for letter in set(word)), word))
