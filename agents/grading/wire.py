"""What crosses to a grader in another process, and what comes back: JSON, as docs/grading.md has it."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from ...envs import Episode, Score, Tampered, Task, Ungraded
from ...envs.graders.grading import Verdict
from .job import Answer, Broken, GradeRequest, GraderRefused, Running, Verdicts

MAX_ANSWER_BYTES = 1 << 24
ENDED = "nonsense: the grader has ended, and says that it is running"

_TASK: TypeAdapter[Task] = TypeAdapter(Task)
_EPISODE: TypeAdapter[Episode] = TypeAdapter(Episode)


def request_json(request: GradeRequest, **more: Any) -> bytes:
    """The request; raises `GraderRefused` for a task that JSON cannot carry."""
    try:
        task = _TASK.dump_python(request.task, mode="json", warnings="error")
        episodes = [_EPISODE.dump_python(each, mode="json", warnings="error") for each in request.episodes]
        body = {
            "id": request.job,
            "attempt": request.attempt,
            "limit_s": request.limit_s,
            "task": task,
            "episodes": episodes,
            **more,
        }
        return json.dumps(body, allow_nan=False).encode()
    except ValueError as error:
        raise GraderRefused(
            f"task {request.task.id!r} has no form in JSON: {error}; make it of plain values, "
            "or set grading.kind: inline"
        ) from error


def whole_json(request: GradeRequest) -> bytes:
    """The request, if `read_request` gives back what it was. Raises `GraderRefused`."""
    body = request_json(request)
    if (found := read_request(body).task) != request.task:
        raise GraderRefused(
            f"task {request.task.id!r} is another one after JSON: {request.task!r:.200} became "
            f"{found!r:.200}; make it of plain values, without tuples and classes of its own, "
            "or set grading.kind: inline"
        )
    return body


def read_request(body: bytes) -> GradeRequest:
    """What `request_json` wrote."""
    found = json.loads(body)
    return GradeRequest(
        job=found["id"],
        attempt=found["attempt"],
        limit_s=found["limit_s"],
        task=_TASK.validate_python(found["task"]),
        episodes=tuple(_EPISODE.validate_json(json.dumps(each)) for each in found["episodes"]),
    )


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _Score(_Part):
    reward: FiniteFloat
    components: dict[str, FiniteFloat] = Field(default_factory=dict)
    evidence: str = ""
    turns: list[FiniteFloat] = Field(default_factory=list[FiniteFloat])


class _Tampered(_Part):
    tampered: str


class _Ungraded(_Part):
    ungraded: str


class _Answer(_Part):
    model_config = ConfigDict(strict=True, extra="ignore")  # a service may say more than we ask

    id: str | None = None
    status: Literal["running", "done", "failed"] = "done"
    scores: Annotated[list[_Score | _Tampered | _Ungraded], Field(min_length=1)] | None = None
    error: str = ""
    retryable: bool = True
    beat: str | int | float | None = None


def read_answer(text: bytes | str) -> Answer:
    """What a grader said; what makes no sense is a try that came to nothing.

    >>> read_answer('{"scores": [{"reward": 0.5}]}').each[0].reward
    0.5
    """
    try:
        found = _Answer.model_validate_json(text)
    except ValidationError as error:
        why = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:3])
        return Broken(reason=f"nonsense: {why:.300}: {_shown(text)}", is_retryable=False)
    if found.status == "running":
        return Running(beat=None if found.beat is None else str(found.beat))
    if found.status == "failed":
        return Broken(reason=f"crash: {found.error[:2000]}", is_retryable=found.retryable)
    if found.scores is None:
        return Broken(reason=f"nonsense: no `scores`: {_shown(text)}", is_retryable=False)
    return Verdicts(each=tuple(map(_verdict, found.scores)), job=found.id)


def verdicts_json(verdicts: Sequence[Verdict]) -> str:
    """The answer of a grader that has finished."""
    return json.dumps({"scores": [_said(verdict) for verdict in verdicts]})


def _verdict(part: _Score | _Tampered | _Ungraded) -> Verdict:
    match part:
        case _Score():
            return Score(
                reward=part.reward,
                components=part.components,
                evidence=part.evidence,
                turns=tuple(part.turns),
            )
        case _Tampered():
            return Tampered(part.tampered)
        case _Ungraded():
            return Ungraded(reason=f"grader: {part.ungraded}")


def _said(verdict: Verdict) -> dict[str, Any]:
    match verdict:
        case Score():
            return {
                "reward": verdict.reward,
                "components": dict(verdict.components),
                "evidence": verdict.evidence,
                "turns": list(verdict.turns),
            }
        case Tampered():
            return {"tampered": str(verdict)}
        case Ungraded():
            return {"ungraded": verdict.reason}


def _shown(text: bytes | str) -> str:
    return repr(text.decode(errors="replace") if isinstance(text, bytes) else text)[:200]
