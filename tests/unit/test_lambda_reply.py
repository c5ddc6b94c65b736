"""What a reward function is sent, how its reply is read, and how questions share a call."""

import asyncio
import json
import math
from typing import Any

import pytest
from rewards import episode
from support import run_async

from palaestra.envs import (
    AssistantMessage,
    Episode,
    Score,
    StopReason,
    Task,
    ToolCall,
    ToolMessage,
    ToolSpec,
    UserMessage,
)
from palaestra.envs.graders._functions.batches import Batches
from palaestra.envs.graders._functions.reply import RewardBusy, RewardFailed, read_reply
from palaestra.envs.graders._functions.sample import to_sample

ROW = {"id": "a", "aggregate_reward_score": 0.5}


def test_the_reference_stands_at_both_places_and_fields_too() -> None:
    task = Task(id="7", reference={"answer": "4"}, metadata={"my_key": "sample-001"})
    assert to_sample(task, episode("4", task_id="7", seed=3)) == {
        "id": "7:3",
        "messages": [{"role": "user", "content": "question"}, {"role": "assistant", "content": "4"}],
        "reference_answer": {"answer": "4"},
        "my_key": "sample-001",
        "metadata": {"my_key": "sample-001", "reference_answer": {"answer": "4"}},
    }


def test_a_metadata_field_of_the_row_is_the_metadata() -> None:
    task = Task(id="7", metadata={"metadata": {"reference_answer": "4", "level": 2}, "topic": "sums"})
    sample = to_sample(task, episode("4"))
    assert sample["reference_answer"] == "4" and sample["topic"] == "sums"
    assert sample["metadata"] == {"reference_answer": "4", "level": 2, "topic": "sums"}


def test_the_messages_end_with_the_models_last_answer() -> None:
    call = ToolCall(id="c1", name="add", arguments={"a": 1})
    said = (UserMessage("q"), AssistantMessage("", tool_calls=(call,)), ToolMessage("3", call_id="c1"))
    task = Task(id="t", tools=(ToolSpec(name="add"),))
    cut = Episode(task_id="t", seed=0, messages=said, num_opening=1, stop=StopReason.MAX_TURNS)
    sample = to_sample(task, cut)
    assert [message["role"] for message in sample["messages"]] == ["user", "assistant"]
    assert json.loads(sample["messages"][-1]["tool_calls"][0]["function"]["arguments"]) == {"a": 1}
    assert sample["tools"][0]["function"]["name"] == "add"


@pytest.mark.parametrize(
    "reply",
    [
        [ROW],
        ROW,
        {"statusCode": 200, "body": json.dumps([ROW])},
        {"statusCode": "200", "body": [ROW]},
        {"statusCode": 200, "body": ROW},
        {
            "statusCode": 200,
            "body": "W3siaWQiOiAiYSIsICJhZ2dyZWdhdGVfcmV3YXJkX3Njb3JlIjogMC41fV0=",
            "isBase64Encoded": True,
        },
        {"body": json.dumps(ROW)},
        [{**ROW, "metrics_list": None}, {"id": "stranger", "aggregate_reward_score": 1}],
    ],
)
def test_every_envelope_is_read(reply: object) -> None:
    assert read_reply(reply, ["a"]) == [Score(reward=0.5)]


def test_ids_may_come_back_as_numbers_and_in_another_order() -> None:
    reply = [{"id": 2, "aggregate_reward_score": 1}, {"id": 1, "aggregate_reward_score": 0}]
    assert [getattr(found, "reward", None) for found in read_reply(reply, ["1", "2"])] == [0.0, 1.0]


def test_metrics_become_components_and_their_kind_is_kept() -> None:
    metrics = [
        {"name": "accuracy", "value": 0.9, "type": "Reward"},
        {"name": "length", "value": 12, "type": "Metric"},
    ]
    (score,) = read_reply([{**ROW, "metrics_list": metrics}], ["a"])
    assert isinstance(score, Score)
    assert score.components == {"accuracy": 0.9, "length": 12.0}
    assert score.evidence == "Reward accuracy 0.9, Metric length 12"


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ({"aggregate_reward_score": 1}, "no row for the id 'a'"),
        ({"id": "b", "aggregate_reward_score": 1}, "its ids are: 'b'"),
        ({"id": "a"}, "no 'aggregate_reward_score'"),
        ({**ROW, "aggregate_reward_score": None}, "finite number"),
        ({**ROW, "aggregate_reward_score": "0.5"}, "finite number"),
        ({**ROW, "aggregate_reward_score": math.nan}, "finite number"),
        ({**ROW, "aggregate_reward_score": math.inf}, "finite number"),
        ({**ROW, "metrics_list": 3}, "metrics_list is 3"),
        ({**ROW, "metrics_list": [3]}, "must be an object"),
        ({**ROW, "metrics_list": [{"value": 1, "type": "Metric"}]}, "no 'name'"),
        ({**ROW, "metrics_list": [{"name": "m", "value": 1, "type": "Reword"}]}, "Reword"),
        ({**ROW, "metrics_list": [{"name": "m", "value": math.nan, "type": "Metric"}]}, "metric 'm'"),
    ],
)
def test_a_row_without_sense_has_no_number_and_leaves_the_others_theirs(
    row: dict[str, Any], word: str
) -> None:
    found = read_reply([row, {"id": "good", "aggregate_reward_score": 1}], ["a", "good"])
    assert isinstance(found[0], RewardFailed) and word in str(found[0])
    assert found[1] == Score(reward=1.0)


def test_two_rows_for_one_sample_are_no_score() -> None:
    (found,) = read_reply([ROW, ROW], ["a"])
    assert isinstance(found, RewardFailed) and "2 rows" in str(found)


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        (None, "must be a list"),
        ({"scores": [ROW]}, "must be a list"),
        (["a"], "must be an object"),
        ({"statusCode": 200, "body": "<html>"}, "not JSON"),
        ({"statusCode": 200}, "must be a list"),
        ({"statusCode": 200, "body": "%", "isBase64Encoded": True}, "isBase64Encoded"),
        ({"statusCode": 400, "body": "no event"}, "no event"),
        ({"statusCode": "?", "body": "[]"}, "statusCode '?'"),
        ({"errorMessage": "division by zero", "errorType": "ZeroDivisionError"}, "division by zero"),
    ],
)
def test_a_reply_without_sense_is_no_score_for_anyone(reply: object, word: str) -> None:
    with pytest.raises(RewardFailed, match=word.replace("?", r"\?")):
        read_reply(reply, ["a"])


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_throttled_or_broken_server_may_be_asked_again(status: int) -> None:
    with pytest.raises(RewardBusy, match="later"):
        read_reply({"statusCode": status, "body": "later"}, ["a"])


class Recorder:
    """Doubles numbers; keeps what each call was asked, and how many ran at the same time."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.running = self.most = self.cancelled = 0
        self.may_end = asyncio.Event()
        self.events = asyncio.Queue[str]()

    async def __call__(self, numbers: list[int]) -> list[int | Exception]:
        self.calls.append(numbers)
        self.events.put_nowait("starts")
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
            self.events.put_nowait("ends")
        if 13 in numbers:
            raise RewardFailed("thirteen")
        return [ValueError("odd") if number % 2 else 2 * number for number in numbers]


def test_questions_share_calls_within_both_limits() -> None:
    async def main() -> None:
        call = Recorder()
        call.may_end.set()
        batches = Batches(call, batch=4, concurrency=2)
        answers = await asyncio.gather(*(batches.ask(2 * number) for number in range(10)))
        assert answers == [4 * number for number in range(10)]
        assert [len(numbers) for numbers in call.calls] == [4, 4, 2] and call.most <= 2

    run_async(main())


def test_each_gets_its_own_answer_or_error() -> None:
    async def main() -> None:
        call = Recorder()
        call.may_end.set()
        batches = Batches(call, batch=2, concurrency=1)
        numbers = (2, 3, 13, 14)
        found = await asyncio.gather(*map(batches.ask, numbers), return_exceptions=True)
        assert found[0] == 4 and isinstance(found[1], ValueError)
        assert isinstance(found[2], RewardFailed) and isinstance(found[3], RewardFailed)

    run_async(main())


def test_a_call_that_nobody_waits_for_is_cancelled_and_one_that_somebody_does_is_not() -> None:
    async def main() -> None:
        call = Recorder()
        batches = Batches(call, batch=2, concurrency=2)
        asked = [asyncio.create_task(batches.ask(number)) for number in (2, 4, 6, 8)]
        assert [await call.events.get(), await call.events.get()] == ["starts", "starts"]
        for gone in asked[:3]:
            gone.cancel()
        assert await call.events.get() == "ends"
        call.may_end.set()
        assert await asked[3] == 16 and call.cancelled == 1

    run_async(main())


def test_a_call_that_breaks_is_made_again_one_by_one_and_who_hangs_holds_up_nobody() -> None:
    async def main() -> None:
        calls, for_ever = list[list[int]](), asyncio.Event()

        async def call(numbers: list[int]) -> list[int | Exception]:
            calls.append(numbers)
            if 13 in numbers and len(numbers) > 1:
                raise RewardFailed("no reply within 30 s")
            if 13 in numbers:
                await for_ever.wait()
            return [2 * number for number in numbers]

        batches = Batches(call, batch=16, concurrency=2, is_ones_doing=lambda e: isinstance(e, RewardFailed))
        hanging = asyncio.create_task(batches.ask(13))
        answers = await asyncio.gather(*map(batches.ask, range(12)))
        assert answers == [2 * number for number in range(12)] and not hanging.done()
        assert calls == [[13, *range(12)], [13], *([number] for number in range(12))]
        hanging.cancel()

    run_async(main())


def test_what_is_no_questions_doing_is_raised_to_all_of_a_call() -> None:
    async def main() -> None:
        calls = list[int]()

        async def call(numbers: list[int]) -> list[int | Exception]:
            calls.append(len(numbers))
            raise RewardBusy("throttled")

        batches = Batches(call, batch=4, concurrency=2, is_ones_doing=lambda e: isinstance(e, RewardFailed))
        found = await asyncio.gather(*map(batches.ask, range(4)), return_exceptions=True)
        assert [type(each) for each in found] == [RewardBusy] * 4 and calls == [4]

    run_async(main())
