"""Rows that people have labelled, for a judge to be measured by."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, StrictBool, StrictInt, ValidationError

from ...datasets.text_files import JsonLines
from ...episode import Episode, StopReason
from ...message import AssistantMessage, UserMessage
from ...task import Task
from .model import JudgeModel
from .pair import PairJudge
from .point import Judge
from .template import Checklist, Scale

Ratings = Mapping[str, int]
"""Category by what was rated: "score", the name of a criterion, or "winner"."""
_WINNERS = {"second": 0, "tie": 1, "first": 2}


class Labelled(BaseModel):
    """A line of a file of labels.

    {"question": "2 + 2?", "answer": "4", "label": 5}    for a scale, from 1
    {"question": "2 + 2?", "answer": "4", "label": {"right": true}}    for a checklist
    {"question": "2 + 2?", "first": "4", "second": "5", "label": "first"}    for pairs; "second", "tie"
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    question: str
    answer: str | None = None
    first: str | None = None
    second: str | None = None
    reference: Any = None
    label: StrictInt | str | dict[str, StrictBool]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rater:
    """A judge, and the categories that it and the people use. Raises `ValueError` for other forms."""

    judge: Judge | PairJudge

    def __post_init__(self) -> None:
        if isinstance(self.judge, Judge) and not isinstance(self.judge.form, Scale | Checklist):
            raise ValueError(f"form={self.judge.form!r:.200}: only a Scale or a Checklist can be measured")

    @property
    def is_ordered(self) -> bool:
        """Whether categories lie nearer to each other and farther apart."""
        return isinstance(self.judge, Judge) and isinstance(self.judge.form, Scale)

    def labels(self, row: Labelled) -> Ratings:
        """What the people said. Raises `ValueError` for a row that is not of this judge's kind."""
        label = row.label
        if isinstance(self.judge, PairJudge):
            if row.first is None or row.second is None or label not in _WINNERS:
                raise ValueError('a pair needs "first", "second" and the label "first", "second" or "tie"')
            return {"winner": _WINNERS[str(label)]}
        if row.answer is None:
            raise ValueError('it has no "answer"')
        form = self.judge.form
        if isinstance(form, Scale):
            if not isinstance(label, int) or not 1 <= label <= len(form.levels):
                raise ValueError(f"label={label!r}: this scale has 1 to {len(form.levels)}")
            return {"score": label}
        assert isinstance(form, Checklist)
        names = [criterion.name for criterion in form.criteria]
        if not isinstance(label, dict) or sorted(label) != sorted(names):
            raise ValueError(f"label={label!r:.200}: it must be true or false for each of {names}")
        return {name: int(met) for name, met in label.items()}

    async def rate(self, row: Labelled) -> Ratings:
        """What the judge says. Raises `JudgeError` and `EndpointError`."""
        if isinstance(self.judge, PairJudge):
            worth = await self.judge.compare(row.question, row.first or "", row.second or "")
            return {"winner": round(2 * worth)}
        form, parts = self.judge.form, await self.parts(row.question, row.answer or "", row.reference)
        if isinstance(form, Scale):
            return {"score": 1 + round(parts["score"] * (len(form.levels) - 1))}
        return {name: round(part) for name, part in parts.items()}

    async def parts(self, question: str, answer: str, reference: Any) -> Mapping[str, float]:
        """Of a judge of one answer; all 0 for one that says nothing."""
        assert isinstance(self.judge, Judge)
        score = await self.judge.grade(*_played(question, answer, reference), None)
        if score.components:
            return score.components
        return dict.fromkeys(self.judge.form.fields(), 0.0)

    async def reward(self, question: str, answer: str, reference: Any) -> float:
        """Of an answer; in a pair, against the reference."""
        return (await self.judge.grade(*_played(question, answer, reference), None)).reward

    @property
    def model(self) -> JudgeModel:
        return self.judge.model


def _played(question: str, answer: str, reference: Any) -> tuple[Task, Episode]:
    asked = UserMessage(question)
    episode = Episode(
        task_id="labelled",
        seed=0,
        messages=(asked, AssistantMessage(answer)),
        num_opening=1,
        stop=StopReason.DONE,
    )
    return Task(id="labelled", messages=(asked,), reference=reference), episode


def read_labels(path: Path, rater: Rater) -> list[tuple[Labelled, Ratings]]:
    """The rows and what people said of them. Raises `ValueError` with file, line and cure, and `OSError`."""
    found: list[tuple[Labelled, Ratings]] = []
    for number, data, _ in JsonLines(path):
        try:
            row = Labelled.model_validate_json(data)
            found.append((row, rater.labels(row)))
        except ValidationError as error:
            problem = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ValueError(f"{path}, line {number}: {problem}") from error
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    if not found:
        raise ValueError(f"{path} holds no labelled row; write one JSON object a line")
    return found
