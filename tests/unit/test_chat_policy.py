import asyncio
import json
from base64 import b64decode
from typing import Any

import pytest
from aiohttp import web
from chat_endpoint import Answer, Endpoint, endpoint, says
from support import run_async

from palaestra.agents.chat import ChatPolicy
from palaestra.agents.errors import EngineError, EngineRefused
from palaestra.agents.formats import React
from palaestra.envs import (
    AssistantMessage,
    Message,
    OutOfBudget,
    StopReason,
    SystemMessage,
    ToolCall,
    ToolMessage,
    ToolSpec,
    UserMessage,
)
from palaestra.envs.message import Usage

ADD = ToolSpec(name="add", parameters={"type": "object", "properties": {"sum": {"type": "string"}}})
ASKED = AssistantMessage("I add.", "hm", (ToolCall(id="a1", name="add", arguments={"sum": "é"}),))
TALK: tuple[Message, ...] = (SystemMessage("Be brief."), UserMessage("hi"), ASKED, ToolMessage("2"))


def calls(*arguments: str) -> dict[str, Any]:
    functions = [{"name": "add", "arguments": each} for each in arguments]
    return says(
        content=None,
        tool_calls=[{"id": f"c{n}", "type": "function", "function": f} for n, f in enumerate(functions)],
    )


def ask(
    *answers: Answer,
    messages: tuple[Message, ...] = TALK,
    tools: tuple[ToolSpec, ...] = (ADD,),
    **options: Any,
) -> tuple[AssistantMessage, Endpoint]:
    async def main() -> tuple[AssistantMessage, Endpoint]:
        async with (
            endpoint(*answers) as found,
            ChatPolicy(found.url, "m", backoff_s=0.0, **options) as policy,
        ):
            return await policy(messages, tools), found

    return run_async(main())


def test_the_conversation_goes_out_in_the_form_that_endpoints_take() -> None:
    _, found = ask(says(content="ok"), options={"temperature": 0.5, "max_tokens": 9}, seed=3)
    (asked,) = found.asked
    assert (asked["model"], asked["temperature"], asked["max_tokens"]) == ("m", 0.5, 9)
    assert isinstance(asked["seed"], int)
    assert asked["tools"] == [ADD.to_openai()]
    assert asked["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": "I add.",
            "tool_calls": [
                {
                    "id": "a1",
                    "type": "function",
                    "function": {"name": "add", "arguments": json.dumps({"sum": "é"})},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "a1", "content": "2"},
    ]


def test_text_thoughts_and_usage_come_back() -> None:
    answer, _ = ask(says("length", content="ok", reasoning_content="hm"))
    usage = Usage(prompt_tokens=7, sampled_tokens=3, finish="length")
    assert answer == AssistantMessage("ok", "hm", usage=usage)
    answer, _ = ask({**says(content="ok"), "usage": None})
    assert answer == AssistantMessage("ok", usage=Usage())


def test_calls_come_back_and_what_is_malformed_is_the_models_fault() -> None:
    answer, _ = ask(calls('{"sum": "1+1"}', "", "{", "[1]"))
    assert [(call.id, call.arguments) for call in answer.tool_calls] == [("c0", {"sum": "1+1"}), ("c1", {})]
    assert [call.text for call in answer.bad_calls] == ["{", "[1]"]


def test_halves_of_surrogate_pairs_are_replaced_in_text_and_malformed_in_calls() -> None:
    odd = "\ud800"
    answer, _ = ask(says(content=f"a{odd}", reasoning_content=odd))
    assert (answer.content, answer.reasoning) == ("a?", "?")
    answer, _ = ask(calls('{"sum": "\\ud800"}', f'{{"sum": "{odd}"}}', '{"sum": "\\ud83d\\ude00"}'))
    assert [call.arguments for call in answer.tool_calls] == [{"sum": "\N{GRINNING FACE}"}]
    assert [call.text for call in answer.bad_calls] == ['{"sum": "\\ud800"}', '{"sum": "?"}']
    answer, _ = ask(says(content=f"Action: add\nAction Input: 1{odd}"), format=React())
    assert answer.tool_calls[0].arguments == {"sum": "1?"}


def test_a_text_format_shows_tools_and_reads_calls_in_the_text() -> None:
    answer, found = ask(says(content="Go.\nAction: add\nAction Input: 1+1"), format=React())
    assert (answer.content, answer.tool_calls[0].arguments) == ("Go.", {"sum": "1+1"})
    assert "tools" not in found.asked[0]
    assert "- add:" in found.asked[0]["messages"][0]["content"]
    assert [row["role"] for row in found.asked[0]["messages"]] == ["system", "user", "assistant", "user"]


def test_a_full_queue_and_a_broken_server_are_asked_again() -> None:
    busy = web.Response(status=429, headers={"Retry-After": "0"}, text="busy")
    answer, found = ask(busy, web.Response(status=503), says(content="ok"))
    assert (answer.content, len(found.asked)) == ("ok", 3)
    assert found.asked[0] == found.asked[2]


def test_the_last_try_says_what_happened() -> None:
    with pytest.raises(EngineError, match="did not answer in 3 tries; the last one: HTTP 500: broken"):
        ask(web.Response(status=500, text="broken"), max_retries=2)


def test_a_lost_connection_is_tried_again_and_then_is_an_engine_error() -> None:
    async def main() -> None:
        async with endpoint(says(content="ok")) as found:
            url = found.url
        async with ChatPolicy(url, "m", backoff_s=0.0, max_retries=1) as policy:
            await policy(TALK, ())

    with pytest.raises(EngineError, match="in 2 tries; the last one: ConnectError"):
        run_async(main())


def test_a_wrong_request_is_not_repeated() -> None:
    with pytest.raises(EngineRefused, match=r"HTTP 404: no such model; look at the model's name"):
        ask(web.Response(status=404, text="no such model"), says(content="never asked"))


@pytest.mark.parametrize(
    "text",
    ['{"error": {"code": "context_length_exceeded"}}', "This model's maximum context length is 4096 tokens."],
)
def test_a_full_context_ends_the_episode_and_is_no_fault(text: str) -> None:
    with pytest.raises(OutOfBudget) as stopped:
        ask(web.Response(status=400, text=text))
    assert stopped.value.reason is StopReason.CONTEXT


@pytest.mark.parametrize("answer", [{"choices": []}, web.Response(text="<html>"), says(content=5)])
def test_an_answer_that_is_no_chat_completion_is_an_engine_error(answer: Any) -> None:
    with pytest.raises(EngineError, match="no chat completion"):
        ask(answer)


def test_the_key_is_read_from_the_environment_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "s3cret")
    policy = ChatPolicy("http://127.0.0.1:1/v1", "m", api_key_env="SOME_KEY")
    assert "s3cret" not in repr(vars(policy))
    run_async(policy.close())
    _, found = ask(says(content="ok"), api_key_env="SOME_KEY")
    assert found.keys == ["Bearer s3cret"]
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(ValueError, match=r"api_key_env='SOME_KEY'.*not set"):
        ChatPolicy("http://127.0.0.1:1/v1", "m", api_key_env="SOME_KEY")


@pytest.mark.parametrize("status", [401, 500])
def test_an_endpoint_that_repeats_the_key_does_not_put_it_on_record(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def repeats(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text="." * 290 + request.headers["Authorization"])

    monkeypatch.setenv("SOME_KEY", "s3cret-s3cret\r\n")
    with pytest.raises(EngineError) as told:
        ask(repeats, api_key_env="SOME_KEY", max_retries=1)
    assert f"HTTP {status}" in str(told.value) and "Bearer" in str(told.value)
    assert "s3c" not in str(told.value)
    with pytest.raises(EngineError, match=r"(?s)no chat completion.*redacted") as told:
        ask({"choices": "Bearer s3cret-s3cret" + "." * 99}, api_key_env="SOME_KEY")
    assert "s3c" not in str(told.value)


def test_a_password_in_the_url_is_sent_and_never_shown() -> None:
    async def repeats(request: web.Request) -> web.StreamResponse:
        sent = request.headers["Authorization"]
        login = b64decode(sent.removeprefix("Basic ")).decode()
        return web.Response(status=400, text=f"{login == 'me:pass/word'} pass/word {sent}")

    async def main() -> None:
        async with endpoint(repeats) as found:
            url = found.url.replace("//", "//me:pass%2Fword@")
            async with ChatPolicy(url, "m") as policy:
                await policy(TALK, ())

    with pytest.raises(EngineRefused) as told:
        run_async(main())
    assert "HTTP 400: True [redacted] Basic [redacted];" in str(told.value)
    assert "me:" not in str(told.value)


@pytest.mark.parametrize("key", ["sk-\u2019quoted", "two\nlines", "\r\n"])
def test_a_key_that_no_header_carries_is_refused_at_the_start(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", key)
    with pytest.raises(ValueError, match=r"api_key_env='SOME_KEY'") as told:
        ChatPolicy("http://127.0.0.1:1/v1", "m", api_key_env="SOME_KEY")
    assert key not in str(told.value)


async def trickles(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.02)


async def floods(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" " * (1 << 20))


def test_an_answer_that_never_ends_is_given_up() -> None:
    with pytest.raises(EngineError, match=r"in 1 tries; the last one: no whole answer within 0.3 s"):
        ask(trickles, timeout_s=0.3, max_retries=0)
    with pytest.raises(EngineError, match="answered with more than 32 MiB"):
        ask(floods)


def calls_as(**call: Any) -> dict[str, Any]:
    return says(content=None, tool_calls=[call])


@pytest.mark.parametrize(
    ("call", "id", "arguments"),
    [
        ({"function": {"name": "add", "arguments": "{}"}}, "call00001", {}),
        ({"id": None, "function": {"name": "add", "arguments": None}}, "call00001", {}),
        ({"id": "a", "function": {"name": "add", "arguments": {"sum": "1"}}}, "a", {"sum": "1"}),
    ],
)
def test_what_servers_leave_out_of_a_call_is_no_failure(
    call: dict[str, Any], id: str, arguments: dict[str, str]
) -> None:
    answer, _ = ask(calls_as(**call))  # one call stands in the conversation already
    assert [(found.id, found.arguments) for found in answer.tool_calls] == [(id, arguments)]


@pytest.mark.parametrize(
    "function",
    [{"name": None}, {"name": "", "arguments": "{}"}, {"name": "add", "arguments": {"sum": "\ud800"}}],
)
def test_what_is_no_call_is_the_models_fault(function: dict[str, Any]) -> None:
    answer, _ = ask(calls_as(id="a", function=function))
    assert (answer.tool_calls, len(answer.bad_calls)) == ((), 1)


def test_content_in_parts_is_joined_and_odd_usage_counts_nothing() -> None:
    parts = [
        {"type": "text", "text": "a"},
        {"type": "refusal", "refusal": "no"},
        {"type": "text", "text": "b"},
    ]
    for odd in (None, -7):
        usage = {"prompt_tokens": odd, "completion_tokens": odd}
        answer, _ = ask({**says(content=parts), "usage": usage})
        assert answer == AssistantMessage("ab", usage=Usage())


def test_a_call_that_the_length_cut_is_a_bad_one() -> None:
    cut = calls('{"sum": "1"}', '{"sum": "1"}')
    cut["choices"][0]["finish_reason"] = "length"
    answer, _ = ask(cut)
    assert [call.id for call in answer.tool_calls] == ["c0"]
    assert "cut by its length" in answer.bad_calls[0].error
    answer, _ = ask(says("length", content="Action: add\nAction Input: 1+1"), format=React())
    assert (answer.tool_calls, len(answer.bad_calls)) == ((), 1)


def test_one_policy_serves_many_episodes_at_once() -> None:
    async def main() -> int:
        async with endpoint(says(content="ok")) as found, ChatPolicy(found.url, "m") as policy:
            answers = await asyncio.gather(*(policy(TALK, ()) for _ in range(50)))
            return len(answers)

    assert run_async(main()) == 50
