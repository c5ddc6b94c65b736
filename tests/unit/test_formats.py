import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaestra.agents.formats import MAX_DEPTH, Hermes, NoTools, React, ToolFormat, tool_format
from palaestra.envs import AssistantMessage, ToolCall, ToolSpec

CALCULATE = ToolSpec(name="calculate", parameters={"properties": {"expression": {"type": "string"}}})
SQUARE = ToolSpec(name="square", parameters={"properties": {"x": {"type": "number"}}})
MOVE = ToolSpec(name="move", parameters={"properties": {"x": {"type": "number"}, "y": {"type": "number"}}})
TOOLS = (CALCULATE, SQUARE, MOVE)

texts = st.text(st.characters(exclude_categories=["Cs"]))  # Cs: halves of surrogate pairs
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
WORDS = "<tool_call> </tool_call> <tool_call Action: Observation: Thought: [[ } calculate square move NaN"
pieces = st.sampled_from(
    [
        *WORDS.split(),
        *('{"name": "f", "arguments": {}}', '{"name": ', '"\\ud800"', "\r\n", "\n", " ", "\x00"),
        *("\nAction: calculate\n", "\nAction Input: {", "Action Input:"),
    ]
)
hostile = st.lists(pieces | texts, max_size=12).map("".join) | st.binary().map(
    lambda raw: raw.decode("utf-8", errors="replace")
)


def says(*bodies: str) -> str:
    return "\n".join(f"<tool_call>{body}</tool_call>" for body in bodies)


@pytest.mark.parametrize("name", ["hermes", "react", "none"])
@given(text=hostile, is_cut=st.booleans())
def test_no_text_makes_a_parser_raise(name: str, text: str, is_cut: bool) -> None:
    for tools in ((), TOOLS):
        parsed = tool_format(name).parse(text, tools, is_cut=is_cut)
        for call in parsed.tool_calls:
            json.dumps(dict(call.arguments), allow_nan=False).encode()


@st.composite
def messages(
    draw: st.DrawFn, content: st.SearchStrategy[str], names: st.SearchStrategy[str]
) -> AssistantMessage:
    arguments = draw(st.lists(st.dictionaries(texts, values, max_size=3), max_size=3))
    calls = (
        ToolCall(id=f"call{number:05d}", name=draw(names), arguments=each)
        for number, each in enumerate(arguments)
    )
    return AssistantMessage(draw(content).strip(), tool_calls=tuple(calls))


def assert_comes_back(format: ToolFormat, message: AssistantMessage) -> None:
    parsed = format.parse(format.render(message), ())
    assert parsed.bad_calls == ()
    assert (parsed.content, parsed.tool_calls) == (message.content, message.tool_calls)


@given(messages(texts.filter(lambda text: "<tool_call>" not in text), texts.filter(bool)))
def test_what_hermes_writes_it_reads(message: AssistantMessage) -> None:
    assert_comes_back(Hermes(), message)


@given(messages(texts.filter(lambda text: "Action:" not in text), st.from_regex(r"\A[\w.-]+\Z")))
def test_what_react_writes_it_reads(message: AssistantMessage) -> None:
    assert_comes_back(React(), message)


@given(texts)
def test_without_a_format_every_text_is_content(text: str) -> None:
    assert NoTools().parse(text, TOOLS).content == text


def test_hermes_keeps_the_text_around_its_calls() -> None:
    call = '{"name": "square", "arguments": {"x": 3}}'
    parsed = Hermes().parse(f"First this.\n{says(call, call)}\nThen that.", TOOLS, first_call=7)
    assert [call.id for call in parsed.tool_calls] == ["call00007", "call00008"]
    assert (parsed.tool_calls[0].name, parsed.tool_calls[0].arguments) == ("square", {"x": 3})
    assert parsed.content.split() == ["First", "this.", "Then", "that."]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('<tool_call>{"name": "square", "arguments": {"x": 3}}', "not closed"),
        (says("{'name': 'square'}"), "not valid JSON"),
        (says('["square"]'), "must be a JSON object, not list"),
        (says('{"name": 3, "arguments": {}}'), '"name" must be a string, not int'),
        (says('{"name": "", "arguments": {}}'), "names no tool"),
        (says('{"name": "square"}'), '"arguments" must be an object, not NoneType'),
        (says('{"name": "square", "arguments": "{}"}'), '"arguments" must be an object, not str'),
        (says('{"name": "square", "arguments": {"x": NaN}}'), "not valid JSON"),
        (says('{"name": "square", "arguments": {"x": 1e999}}'), "not valid JSON"),
        (says('{"name": "square", "arguments": {"x": "\\ud800"}}'), "not valid JSON"),
        (says('{"name": "square", "arguments": {"x": ' + "1" * 5000 + "}}"), "not valid JSON"),
        (says('{"name": "square", "arguments": ' + '{"x":' * 100 + "1" + "}" * 101), "nested deeper"),
        (says("[" * 100_000), "not valid JSON"),
    ],
)
def test_a_malformed_hermes_call_says_what_is_wrong(text: str, error: str) -> None:
    parsed = Hermes().parse(text, TOOLS)
    assert parsed.tool_calls == ()
    assert error in parsed.bad_calls[0].error
    assert parsed.bad_calls[0].text in text


def test_a_broken_call_does_not_take_its_neighbours_with_it() -> None:
    good = '{"name": "square", "arguments": {"x": 3}}'
    parsed = Hermes().parse(f"<tool_call>{good}</tool_call><tool_call>{{<tool_call>{good}</tool_call>", TOOLS)
    assert (len(parsed.tool_calls), len(parsed.bad_calls)) == (2, 1)


@pytest.mark.parametrize(
    ("text", "name", "arguments"),
    [
        ("Action: calculate\nAction Input: 1 + 1", "calculate", {"expression": "1 + 1"}),
        ("Action: calculate\nAction Input: 12", "calculate", {"expression": "12"}),
        ("Action: calculate\nAction Input: {x", "calculate", {"expression": "{x"}),
        ("Action: square\nAction Input: 12", "square", {"x": 12}),
        ("Action: square\nAction Input: twelve", "square", {"x": "twelve"}),
        ('Action: move\nAction Input: {"x": 1,\n "y": 2}\n', "move", {"x": 1, "y": 2}),
        ('Thought: go.\nAction:move \n\nAction Input:{"x": 1}\nObservation: ok', "move", {"x": 1}),
        ('Action: unknown\nAction Input: {"x": 1}', "unknown", {"x": 1}),
    ],
)
def test_a_react_call_takes_an_object_or_the_value_of_the_only_parameter(
    text: str, name: str, arguments: dict[str, object]
) -> None:
    parsed = React().parse(text, TOOLS)
    assert [(call.name, call.arguments) for call in parsed.tool_calls] == [(name, arguments)]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("Action: calculate", "'Action Input:' is missing"),
        ("Action: calculate\nwith 1 + 1", "'Action Input:' is missing"),
        ("Action: move\nAction Input: left", "move takes 2 arguments"),
        ("Action: move\nAction Input: {left", "not valid JSON"),
        ("Action: fly\nAction Input: up", "there is no tool 'fly'; the tools are: calculate, square, move"),
        ("Action:\nAction Input: {}", "names no tool"),
    ],
)
def test_a_malformed_react_call_says_what_is_wrong(text: str, error: str) -> None:
    parsed = React().parse(text, TOOLS)
    assert parsed.tool_calls == ()
    assert error in parsed.bad_calls[0].error


WHOLE = {
    "hermes": says('{"name": "square", "arguments": {"x": 3}}'),
    "react": "Action: square\nAction Input: 3",
}


@pytest.mark.parametrize("name", ["hermes", "react"])
@given(cut=st.integers(0, 80))
def test_no_part_of_a_call_that_was_cut_is_called(name: str, cut: int) -> None:
    text = f"Go.\n{WHOLE[name]}\n{WHOLE[name]}\n"
    whole = tool_format(name).parse(text, TOOLS).tool_calls
    found = tool_format(name).parse(text[:cut], TOOLS, is_cut=True).tool_calls
    assert found == whole[: len(found)]


@pytest.mark.parametrize(
    "value", ["rm -rf /tmp", '{"expression": "1"}', '{"expression": "import os; os.remo']
)
def test_what_may_be_half_a_react_call_is_a_bad_one(value: str) -> None:
    text = f"Action: square\nAction Input: 2\nAction: calculate\nAction Input: {value}"
    parsed = React().parse(text, TOOLS, is_cut=True)
    assert [call.name for call in parsed.tool_calls] == ["square"]
    assert "cut by its length" in parsed.bad_calls[0].error
    assert value in parsed.bad_calls[0].text


def test_what_react_says_behind_an_observation_of_its_own_is_ignored() -> None:
    text = "Action: square\nAction Input: 2\nObservation: 5\nAction: square\nAction Input: 5"
    assert len(React().parse(text, TOOLS).tool_calls) == 1


def test_react_tells_the_model_its_tools() -> None:
    text = React().describe(TOOLS)
    assert all(tool.name in text for tool in TOOLS)
    assert React().describe(()) == ""


def test_arguments_may_be_nested_up_to_the_limit() -> None:
    body = "[" * (MAX_DEPTH - 2) + "]" * (MAX_DEPTH - 2)
    parsed = Hermes().parse(says(f'{{"name": "f", "arguments": {{"x": {body}}}}}'), ())
    assert len(parsed.tool_calls) == 1


def test_an_unknown_format_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'xml' is unknown; use one of hermes, none, react"):
        tool_format("xml")
