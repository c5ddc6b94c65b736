"""How long the policy's answers are."""

from dataclasses import dataclass
from typing import Literal

from ..episode import Episode, Workspace
from ..outcome import Score
from ..task import Task

Unit = Literal["tokens", "words", "chars"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Length:
    """1 up to `most - ramp`, down in a straight line to 0 at `most`, and 0 beyond; 0 below `least`.

    >>> (await Length(most=100, ramp=20, unit="chars").grade(task, episode, None)).reward   # 95 characters
    0.25

    Minus 1 it is DAPO's soft overlong punishment, with `ramp` as its cache; within a group of siblings the
    constant makes no difference.
    """

    most: int
    ramp: int = 0
    least: int = 1
    unit: Unit = "words"
    """Of all answers of the episode together. "tokens" are the engine's, reasoning and tool calls included; a
    policy that has none, such as an oracle, is then `Ungraded`. "words" and "chars" count its texts."""

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most - self.ramp <= self.most:
            raise ValueError(
                f"Length(least={self.least}, most={self.most}, ramp={self.ramp}): the ramp must begin at "
                "`least` or above, and end at `most`"
            )

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        number = _measure(episode, self.unit)
        if number < self.least:
            reward = 0.0
        elif number <= self.most - self.ramp:
            reward = 1.0
        else:
            reward = max(self.most - number, 0) / self.ramp if self.ramp else 0.0
        return Score(reward=reward, evidence=f"{number} {self.unit}")


def _measure(episode: Episode, unit: Unit) -> int:
    if unit == "tokens":
        usages = [answer.usage for answer in episode.answers]
        if None in usages:
            raise ValueError('the policy has counted no tokens; measure it in unit="words" or "chars"')
        return sum(usage.sampled_tokens for usage in usages if usage is not None)
    texts = [answer.content for answer in episode.answers]
    return sum(len(text.split()) if unit == "words" else len(text) for text in texts)
