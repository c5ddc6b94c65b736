"""What a reward function says, read strictly: a reply that makes no sense gives no number."""

import base64
import binascii
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

from ...outcome import Score, finite

KINDS = ("Metric", "Reward")


class RewardFailed(Exception):
    """The function broke, or its reply makes no sense. A second call would meet it again."""

    is_retryable = False


class RewardBusy(Exception):
    """Throttled, or a server's passing trouble (429, 5xx): nothing was graded, and it may be asked again.

    `after_s`: seconds that the server wants to be left alone. `was_heard`: whether it may have looked at the
    samples, so that one of them may be its trouble.
    """

    is_retryable = True

    def __init__(self, problem: str, *, after_s: float = 0.0, was_heard: bool = False) -> None:
        super().__init__(problem)
        self.after_s, self.was_heard = after_s, was_heard


def read_reply(reply: object, ids: Sequence[str]) -> list[Score | RewardFailed]:
    """For each sample its score, or why it has none. Raises `RewardFailed` and `RewardBusy` for the whole.

    >>> read_reply([{"id": "a", "aggregate_reward_score": 1}], ["a"])[0].reward
    1.0
    """
    rows = _rows(_opened(reply))
    named = [str(row["id"]) if row.get("id") is not None else None for row in rows]
    counts = Counter(named)
    by_id = dict(zip(named, rows, strict=True))
    return [_score_of(each, by_id, counts[each], ids) for each in ids]


def read_plain(said: object, *, is_batched: bool) -> Score:
    """What a plain function returned; one of TRL's kind returns a list. Raises `TypeError` for no score.

    >>> read_plain({"score": 0.5, "brief": True}, is_batched=False).components
    {'brief': 1.0}
    """
    if is_batched:
        said = _only(said)
    if isinstance(said, Score):  # without what a class of the function's own adds
        return Score(reward=said.reward, components=said.components, evidence=said.evidence, turns=said.turns)
    if isinstance(said, dict) and "score" in said:
        fields = cast(dict[str, Any], said)
        parts = {
            name: float(part)
            for name, part in fields.items()
            if isinstance(part, int | float) and name != "score"
        }
        return Score(reward=finite(fields["score"], "score"), components=parts)
    return Score(reward=finite(said, "the reward"))


def _only(said: object) -> object:
    if not isinstance(said, list) or len(cast(list[object], said)) != 1:
        raise TypeError(f"the reward of one completion is {said!r:.200}; it must be a list of one number")
    return cast(list[object], said)[0]


def _opened(reply: object) -> object:
    """What is in the envelope `{statusCode, body}`, or the reply itself."""
    if not isinstance(reply, dict):
        return reply
    envelope = cast(dict[str, Any], reply)
    if "errorMessage" in envelope:
        raise RewardFailed(f"{envelope.get('errorType', 'error')}: {envelope['errorMessage']}")
    if "body" not in envelope and "statusCode" not in envelope:
        return envelope
    status, body = envelope.get("statusCode", 200), envelope.get("body")
    if not str(status).isdecimal() or int(status) >= 300:
        raise failure(str(status), f"the function answered with statusCode {status!r}: {body!r:.300}")
    if isinstance(body, str):
        return _parsed(_text(body) if envelope.get("isBase64Encoded") else body)
    return body


def failure(status: str, problem: str) -> RewardFailed | RewardBusy:
    """What an HTTP status means."""
    is_passing = status == "429" or (len(status) == 3 and status.startswith("5"))
    return RewardBusy(problem, was_heard=status != "429") if is_passing else RewardFailed(problem)


def parse_json(text: str | bytes) -> object:
    """The value of a JSON text. Raises `RewardFailed`."""
    return _parsed(text)


def _parsed(text: str | bytes) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RewardFailed(f"the reply is not JSON: {error}; it begins with {text[:100]!r}") from error


def _text(body: str) -> bytes:
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise RewardFailed(f"isBase64Encoded, but the body is not: {error}") from error


def _rows(reply: object) -> list[Mapping[str, Any]]:
    if isinstance(reply, dict) and "aggregate_reward_score" in reply:
        return [cast(dict[str, Any], reply)]
    if not isinstance(reply, list):
        raise RewardFailed(
            f"the reply is {reply!r:.200}; it must be a list with one {{id, aggregate_reward_score}} a sample"
        )
    rows = cast(list[object], reply)
    if wrong := [row for row in rows if not isinstance(row, dict)]:
        raise RewardFailed(f"a row of the reply is {wrong[0]!r:.200}; it must be an object")
    return [cast(dict[str, Any], row) for row in rows]


def _score_of(
    id: str, rows: Mapping[str | None, Mapping[str, Any]], count: int, ids: Sequence[str]
) -> Score | RewardFailed:
    if count == 0:
        return RewardFailed(_missing(id, [row for row in rows if row is not None], ids))
    if count > 1:
        return RewardFailed(f"the reply has {count} rows for the id {id!r}")
    try:
        return _score(rows[id])
    except (TypeError, KeyError, ValueError) as error:
        missing = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        return RewardFailed(f"the row of {id!r} makes no sense: {missing}")


def _missing(id: str, named: Sequence[str], ids: Sequence[str]) -> str:
    known = ", ".join(map(repr, named[:3])) or "none"
    cure = "; does it read only the first sample? then set batch to 1" if len(ids) > 1 else ""
    return f"the reply has no row for the id {id!r} of {len(ids)} samples; its ids are: {known}{cure}"


def _score(row: Mapping[str, Any]) -> Score:
    reward = finite(row["aggregate_reward_score"], "aggregate_reward_score")
    listed = row.get("metrics_list")
    if not isinstance(listed, list | None):
        raise TypeError(f"metrics_list is {listed!r:.200}; it must be a list")
    metrics = [_metric(metric) for metric in cast(list[object], listed or [])]
    evidence = ", ".join(f"{kind} {name} {value:g}" for name, value, kind in metrics)
    return Score(reward=reward, components={name: value for name, value, _ in metrics}, evidence=evidence)


def _metric(metric: object) -> tuple[str, float, str]:
    if not isinstance(metric, dict):
        raise TypeError(f"an entry of metrics_list is {metric!r:.200}; it must be an object")
    fields = cast(dict[str, Any], metric)
    name, kind = str(fields["name"]), fields.get("type", "Metric")
    if kind not in KINDS:
        raise ValueError(f"the type of metric {name!r} is {kind!r}; it must be one of {KINDS}")
    return name, finite(fields["value"], f"the value of metric {name!r}"), kind
