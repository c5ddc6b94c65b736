"""Inference logs become rows: Bedrock's in each of its forms, and those of OpenAI-compatible endpoints."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from datasets_builders import calls, user, write_rows
from inference_logs import (
    ANTHROPIC,
    ANTHROPIC_CALL_STREAM,
    ANTHROPIC_SAID,
    ANTHROPIC_STREAM,
    CONVERSE,
    CONVERSE_CALL_STREAM,
    CONVERSE_SAID,
    FUNCTION,
    OPENAI,
    OPENAI_SAID,
    SAID,
    SYSTEM,
    TALK,
    bedrock,
)

from palaestra.envs.datasets import DatasetError, Row
from palaestra.envs.datasets.logs import Import, LogFormat, Logs
from palaestra.envs.datasets.record import Record
from palaestra.envs.datasets.rules import problems_of


def imported(format: LogFormat, *entries: Any, **options: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    importer = Import(format=format, **options)
    lines = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in entries]
    rows = list(importer.read(Record(line, data) for line, data in enumerate(lines, 1)))
    return rows, dict(importer.skipped)


@pytest.mark.parametrize(
    ("format", "entry"),
    [
        ("bedrock", bedrock(CONVERSE, CONVERSE_SAID)),
        ("bedrock", bedrock(ANTHROPIC, ANTHROPIC_SAID, operation="InvokeModel")),
        ("bedrock", bedrock(ANTHROPIC, ANTHROPIC_STREAM, operation="InvokeModelWithResponseStream")),
        ("bedrock", bedrock(OPENAI, OPENAI_SAID, operation="InvokeModel")),
        ("openai", {"id": "r-1", "request": OPENAI, "response": OPENAI_SAID}),
        (
            "openai",
            {"custom_id": "r-1", "body": OPENAI, "response": {"status_code": 200, "body": OPENAI_SAID}},
        ),
        ("openai", {"id": "r-1", "object": "chat.completion"} | OPENAI | {"choices": OPENAI_SAID["choices"]}),
    ],
)
def test_the_same_talk_in_every_log_is_the_same_row(format: LogFormat, entry: dict[str, Any]) -> None:
    (found,), skipped = imported(format, entry)
    assert skipped == {}
    assert (found["id"], found["response"]) == ("r-1", SAID)
    row = Row.model_validate(found)
    assert row.conversation == Row.model_validate({"messages": [SYSTEM, *TALK]}).conversation
    assert row.tools == Row.model_validate({"tools": [{"type": "function", "function": FUNCTION}]}).tools
    assert problems_of(row) == []


def test_what_the_model_said_can_be_the_reference() -> None:
    (found,), _ = imported("bedrock", bedrock(CONVERSE, CONVERSE_SAID), response_as_reference=True)
    assert (found["reference_answer"], "response" in found) == ("It is 4.", False)
    _, skipped = imported("openai", {"request": OPENAI}, response_as_reference=True)
    assert skipped == {"no response that could be the reference": 1}


def test_a_response_of_calls_alone_is_no_reference() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    said = {"choices": [{"message": {"role": "assistant", "content": None, "tool_calls": [call]}}]}
    rows, skipped = imported("openai", {"request": OPENAI, "response": said}, response_as_reference=True)
    assert not rows and ["has no text" in reason for reason in skipped] == [True]


@pytest.mark.parametrize("said", [ANTHROPIC_CALL_STREAM, CONVERSE_CALL_STREAM], ids=["anthropic", "converse"])
def test_a_streamed_answer_is_put_together_with_its_thought_and_call(said: list[Any]) -> None:
    (found,), _ = imported("bedrock", bedrock(CONVERSE, said))
    (call,) = calls("c2", arguments='{"word": "é"}')["tool_calls"]
    wanted = {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": [call]}
    assert found["response"] == wanted


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"prompt": "What is 2 + 2?"}, {"generation": "It is 4."}),
        ({"prompt": "What is 2 + 2?"}, [{"generation": "It "}, {"generation": "is 4."}]),
        ({"prompt": "What is 2 + 2?"}, {"outputs": [{"text": "It is 4."}]}),
        ({"inputText": "What is 2 + 2?"}, {"results": [{"outputText": "It is 4."}]}),
    ],
)
def test_a_prompt_of_one_text_is_a_user_message(asked: Any, said: Any) -> None:
    (found,), _ = imported("bedrock", bedrock(asked, said, operation="InvokeModel"))
    assert (found["messages"], found["response"]) == ([user()], SAID)


def test_entries_are_chosen_by_what_they_hold() -> None:
    ours = bedrock(CONVERSE, CONVERSE_SAID, requestMetadata={"team": "search"})
    others = (
        bedrock(CONVERSE, CONVERSE_SAID, requestMetadata={"team": "ads"}),
        bedrock(CONVERSE, CONVERSE_SAID),
    )
    where = {"requestMetadata.team": "search", "modelId": "amazon.nova-lite-v1:0"}
    found, skipped = imported("bedrock", ours, *others, where=where)
    assert [each["requestMetadata"] for each in found] == [{"team": "search"}]
    assert skipped == {"requestMetadata.team is not 'search'": 2}


def test_cloudwatch_lines_and_events_hold_entries() -> None:
    entry = json.dumps(bedrock(CONVERSE, CONVERSE_SAID))
    lines = (
        f"2025-06-01T12:00:00.000Z {entry}".encode(),
        {"timestamp": 1, "message": entry},
        {"@message": entry},
    )
    found, skipped = imported("bedrock", *lines)
    assert (len(found), skipped) == (3, {})


@pytest.mark.parametrize(
    ("format", "entry", "reason"),
    [
        ("bedrock", b"no log", "no JSON"),
        ("bedrock", {"a": 1}, "no entry of a model invocation log"),
        (
            "bedrock",
            bedrock(CONVERSE, None, errorCode="ThrottlingException"),
            "the call failed: ThrottlingException",
        ),
        ("bedrock", bedrock({"texts": ["a"]}, {}), "the input is neither messages nor a prompt"),
        (
            "bedrock",
            bedrock(CONVERSE, {}, input={"inputBodyS3Path": "s3://bucket/data/x_input.json.gz"}),
            "the input lies in an object of its own, as those over 100 kB do",
        ),
        (
            "bedrock",
            bedrock({"messages": [{"role": "user", "content": [{"image": {"format": "png"}}]}]}, {}),
            "a block of image; only texts and tools are read",
        ),
        ("openai", {"request": OPENAI, "response": {"status_code": 429, "body": {}}}, "the call failed: 429"),
        ("openai", {"request": {"input": "x"}}, "the request has neither messages nor a prompt"),
    ],
)
def test_what_is_left_out_is_counted_with_its_reason(format: LogFormat, entry: Any, reason: str) -> None:
    assert imported(format, entry, entry) == ([], {reason: 2})


def test_a_folder_as_bedrock_leaves_it_in_s3_is_read_whole(tmp_path: Path) -> None:
    for hour in ("01", "02"):
        folder = tmp_path / "AWSLogs" / "123456789012" / "BedrockModelInvocationLogs" / hour
        folder.mkdir(parents=True)
        entry = json.dumps(bedrock(CONVERSE, CONVERSE_SAID, requestId=hour)).encode()
        (folder / "20250601T120000000Z_1.json.gz").write_bytes(gzip.compress(entry))
    logs = Logs(tmp_path)
    found = list(Import(format="bedrock").read(logs))
    assert [each["id"] for each in found] == ["01", "02"]
    assert logs.position() == logs.size > 0


def test_a_log_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no such log"):
        Logs(tmp_path)
    assert list(Logs(write_rows(tmp_path / "a.log", {"a": 1})))
