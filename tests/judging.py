"""Judges behind a real endpoint: what a model would write as its verdict is scripted."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from chat_endpoint import Answer, Endpoint, endpoint, says
from support import run_async

from palaestra.envs import (
    AssistantMessage,
    Episode,
    Failed,
    Message,
    Scored,
    StopReason,
    Task,
    Ungraded,
    UserMessage,
)
from palaestra.envs.graders import Grader, grade_episode
from palaestra.envs.graders.judge import Judge, JudgeModel, Scale

GRADES = Scale(task="Is the sum right?", levels=("Wrong.", "Half right.", "Right."))
SUM = Task(id="sum", messages=(UserMessage("What is 2 + 2?"),), reference="4")


@dataclass(frozen=True)
class Asked:
    """A question as the judge reads it."""

    payload: Mapping[str, Any]
    mark: str
    sections: Mapping[str, str]
    """By title, found by the mark alone."""

    @property
    def text(self) -> str:
        return "\n".join(message["content"] for message in self.payload["messages"])


def read_question(payload: Mapping[str, Any]) -> Asked:
    (mark,) = re.findall(r"carry the mark ([0-9a-f]{12})\.", payload["messages"][0]["content"])
    user = payload["messages"][1]["content"]
    found = re.findall(rf"^\[{mark} ([A-Z0-9 ]+) begins\]\n(.*?)\n\[{mark} \1 ends\]$", user, re.M | re.S)
    return Asked(payload, mark, dict(found))


def verdict(asked: Asked, **fields: Any) -> str:
    """As a model writes it that does what it was told."""
    return json.dumps({"mark": asked.mark, "reason": "I compared it.", **fields})


def writes(write: Callable[[Asked], str | None], finish: str = "stop") -> Answer:
    """A model that writes `write(question)`."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response(says(finish, content=write(read_question(await request.json()))))

    return answer


def grades(score: int) -> Answer:
    return writes(lambda asked: verdict(asked, score=score))


def careful(asked: Asked) -> str:
    """Reads the answer and is not impressed."""
    return verdict(asked, score=3 if asked.sections["ANSWER"].strip() in ("4", "2 + 2 = 4") else 1)


def said(*texts: str, reasoning: str = "") -> Episode:
    heard = (AssistantMessage(text, reasoning) for text in texts)
    messages: tuple[Message, ...] = (UserMessage("What is 2 + 2?"), *heard)
    return Episode(task_id="sum", seed=0, messages=messages, num_opening=1, stop=StopReason.DONE)


@dataclass
class Graded:
    """What came of it."""

    outcomes: list[Scored | Ungraded | Failed]
    endpoint: Endpoint
    model: JudgeModel
    questions: list[Asked] = field(default_factory=list[Asked])

    @property
    def reward(self) -> float:
        (outcome,) = self.outcomes
        assert isinstance(outcome, Scored), outcome
        return outcome.reward

    @property
    def reason(self) -> str:
        (outcome,) = self.outcomes
        assert isinstance(outcome, Ungraded), outcome
        return outcome.reason


def point(model: JudgeModel) -> Grader:
    return Judge(model=model, form=GRADES)


def judged(
    *replies: Answer,
    answers: tuple[str, ...] = ("4",),
    episode: Episode | None = None,
    task: Task = SUM,
    make: Callable[[JudgeModel], Grader] = point,
    timeout_s: float = 60.0,
    **options: Any,
) -> Graded:
    """Grade each answer, one after the other, by a model that gives these replies in turn."""

    async def main() -> Graded:
        async with endpoint(*replies) as found:
            settings: dict[str, Any] = {"backoff_s": 0.0, **options}
            model = JudgeModel(found.url, "m", **settings)
            grader = make(model)
            episodes = [said(answer) for answer in answers] if episode is None else [episode]
            outcomes = [
                await grade_episode(grader, task, each, reward_range=(0.0, 1.0), timeout_s=timeout_s)
                for each in episodes
            ]
            return Graded(outcomes, found, model, [read_question(each) for each in found.asked])

    return run_async(main())
