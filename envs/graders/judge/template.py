"""How an answer is judged: on a scale, or by a list of yes and no."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


class Form(Protocol):
    """What a `Judge` asks, and what it makes of the verdict."""

    @property
    def shows_reasoning(self) -> bool: ...

    def asks(self) -> str:
        """For the model that judges."""
        ...

    def fields(self) -> Mapping[str, Any]:
        """JSON schema of each field of the verdict."""
        ...

    def parts(self, verdict: Mapping[str, Any]) -> Mapping[str, float]:
        """Named numbers from 0 to 1."""
        ...

    def reward(self, parts: Mapping[str, float]) -> float:
        """From 0 to 1, of parts that may be the mean of several votes."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """One grade, from 1 to as many as there are `levels`: the lowest is a reward of 0, the highest 1.

    >>> Scale(task="How polite is the answer?", levels=("Rude.", "Neutral.", "Polite.")).parts({"score": 2})
    {'score': 0.5}
    """

    task: str
    """What is to be judged, in words for the judge."""
    levels: tuple[str, ...]
    """What each grade means, from the lowest up."""
    shows_reasoning: bool = False
    """The judge also reads the thoughts that the chat format keeps apart from the answer."""

    def __post_init__(self) -> None:
        if len(self.levels) < 2:
            raise ValueError(f"levels={self.levels!r}: a scale needs at least two")

    def asks(self) -> str:
        meanings = "\n".join(f"{number}: {meaning}" for number, meaning in enumerate(self.levels, start=1))
        return f"{self.task}\nGive the answer a score:\n{meanings}"

    def fields(self) -> Mapping[str, Any]:
        return {"score": {"type": "integer", "enum": list(range(1, len(self.levels) + 1))}}

    def parts(self, verdict: Mapping[str, Any]) -> Mapping[str, float]:
        return {"score": (int(verdict["score"]) - 1) / (len(self.levels) - 1)}

    def reward(self, parts: Mapping[str, float]) -> float:
        return parts["score"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Criterion:
    """One question with the answer yes or no."""

    name: str
    """Of the score's component: letters, digits and underscores."""
    asks: str
    """For the judge: "Does the answer name its source?"."""
    weight: float = 1.0
    """Below 0 for a fault."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name={self.name!r}: a criterion's name is letters, digits and underscores")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checklist:
    """Criteria, each met or not. The reward is the weight of those met over that of all that can be earned;
    faults take off, down to 0.

    >>> tests = Criterion(name="has_tests", asks="Are there tests?", weight=3.0)
    >>> style = Criterion(name="is_short", asks="Is it short?")
    >>> Checklist(criteria=(tests, style)).reward({"has_tests": 1.0, "is_short": 0.0})
    0.75
    """

    criteria: tuple[Criterion, ...]
    task: str = "Judge the answer by each criterion on its own."
    shows_reasoning: bool = False

    def __post_init__(self) -> None:
        names = [criterion.name for criterion in self.criteria]
        if len(set(names)) != len(names):
            raise ValueError(f"criteria {names}: each needs a name of its own")
        if not self._earnable:
            raise ValueError("a checklist needs at least one criterion whose weight is over 0")

    @property
    def _earnable(self) -> float:
        return sum(max(0.0, criterion.weight) for criterion in self.criteria)

    def asks(self) -> str:
        questions = "\n".join(f"{criterion.name}: {criterion.asks}" for criterion in self.criteria)
        return f"{self.task}\nSay of each whether it is so. What you cannot tell is false.\n{questions}"

    def fields(self) -> Mapping[str, Any]:
        return {criterion.name: {"type": "boolean"} for criterion in self.criteria}

    def parts(self, verdict: Mapping[str, Any]) -> Mapping[str, float]:
        return {criterion.name: float(verdict[criterion.name]) for criterion in self.criteria}

    def reward(self, parts: Mapping[str, float]) -> float:
        met = sum(criterion.weight * parts[criterion.name] for criterion in self.criteria)
        return min(1.0, max(0.0, met / self._earnable))


@dataclass(frozen=True, kw_only=True, slots=True)
class Preference:
    """Which of two answers is the better one."""

    task: str = "Judge which of the two answers serves the question better."
    criteria: tuple[str, ...] = field(default=())
    """What counts, the most important first; none: correct, complete, clear."""
    allows_tie: bool = True

    def asks(self) -> str:
        counts = "; ".join(self.criteria) or "whether it is correct, then complete, then clear"
        tie = " If neither is better, it is a tie." if self.allows_tie else ""
        return f"{self.task} What counts: {counts}. Neither length nor the order of the two does.{tie}"

    def fields(self) -> Mapping[str, Any]:
        winners = ["A", "B", "tie"] if self.allows_tie else ["A", "B"]
        return {"winner": {"type": "string", "enum": winners}}


INSTRUCTION_FOLLOWING = Scale(
    task=(
        "Judge how well the answer follows the instructions in the question: every demand and every "
        "limit in it, on content, form, length and language. First list them for yourself, then check "
        "each."
    ),
    levels=(
        "It ignores or refuses what was asked, or is no answer.",
        "It misses most of the instructions.",
        "It follows about half of them, or misses an important one.",
        "It follows all but a minor one.",
        "It follows every instruction.",
    ),
)
SUMMARY = Scale(
    task=(
        "The question holds a text that is to be summarised; the answer is the summary. Judge whether "
        "it has the main points, nothing that the text does not say, and no more words than that "
        "takes."
    ),
    levels=(
        "It is no summary of this text, or says the opposite of it.",
        "It misses most main points, or invents some.",
        "It has about half of the main points, or a claim that the text does not support.",
        "It has the main points and no false claim; it is wordy, or misses a detail that matters.",
        "It has every main point, no claim beyond the text, and no needless word.",
    ),
)
REASONING = Scale(
    task=(
        "Judge the reasoning in the answer, and in the thoughts if they are shown: whether each step "
        "follows from what was given or shown before, and whether the conclusion follows from the "
        "steps. A right result without a reason is a guess."
    ),
    levels=(
        "There is no reasoning, or it has nothing to do with the question.",
        "An early step is wrong and the rest is built on it.",
        "The plan is right, but a step that matters is wrong or missing.",
        "All that matters is right; a small step is missing or loosely argued.",
        "Every step follows, and the conclusion follows from them.",
    ),
    shows_reasoning=True,
)
FAITHFULNESS = Scale(
    task=(
        "Judge whether every claim of the answer is supported by the material: the question with what "
        "it quotes, and the reference if there is one. What is true in the world but not in the "
        "material is not supported."
    ),
    levels=(
        "It contradicts the material, or is no answer.",
        "Most claims are not in the material.",
        "Some claims that matter are not in the material.",
        "One small detail is not in the material.",
        "Every claim is in the material.",
    ),
)

TEMPLATES: Mapping[str, Scale] = {
    "faithfulness": FAITHFULNESS,
    "instruction_following": INSTRUCTION_FOLLOWING,
    "reasoning": REASONING,
    "summary": SUMMARY,
}
