"""Whatever stands in a line of a log, the import goes on: it is a row, or it is left out by its place."""

import json
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any

import pytest
from datasets_builders import user
from hypothesis import given, settings
from hypothesis import strategies as st
from inference_logs import (
    ANTHROPIC,
    ANTHROPIC_SAID,
    ANTHROPIC_STREAM,
    CONVERSE,
    CONVERSE_CALL_STREAM,
    CONVERSE_SAID,
    OPENAI,
    OPENAI_SAID,
    bedrock,
)

from palaestra.envs.datasets.json_kinds import is_list, is_object
from palaestra.envs.datasets.logs import IMPORTERS, Import, LogFormat, Logs
from palaestra.envs.datasets.reading import parse_row
from palaestra.envs.datasets.record import Record

GOOD: tuple[dict[str, Any], ...] = (
    bedrock(CONVERSE, CONVERSE_SAID),
    bedrock(CONVERSE, CONVERSE_CALL_STREAM),
    bedrock(ANTHROPIC, ANTHROPIC_SAID),
    bedrock(ANTHROPIC, ANTHROPIC_STREAM),
    bedrock(OPENAI, OPENAI_SAID),
    bedrock({"prompt": "Hi"}, {"results": [{"outputText": "Hello"}]}),
    {"id": "r-1", "request": OPENAI, "response": OPENAI_SAID},
    {"custom_id": "r-1", "body": OPENAI, "response": {"status_code": 200, "body": OPENAI_SAID}},
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["user", "[]", "{}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of a value and all that is in it."""
    yield at
    if is_object(value):
        for name, each in value.items():
            yield from places(each, (*at, name))
    elif is_list(value):
        for number, each in enumerate(value):
            yield from places(each, (*at, number))


def replaced(value: Any, place: tuple[Any, ...], other: Any) -> Any:
    if not place:
        return other
    name, *rest = place
    changed = copy(value)
    changed[name] = replaced(value[name], tuple(rest), other)
    return changed


ALL_PLACES = [(number, place) for number, entry in enumerate(GOOD) for place in places(entry)]


@st.composite
def odd_lines(draw: st.DrawFn) -> bytes:
    """An entry with something else in one or two places."""
    number, place = draw(st.sampled_from(ALL_PLACES))
    entry = replaced(GOOD[number], place, draw(JSON))
    if draw(st.booleans()):
        entry = replaced(entry, draw(st.sampled_from(list(places(entry)))), draw(JSON))
    return json.dumps(entry).encode()


ANY_LINE = odd_lines() | JSON.map(lambda value: json.dumps(value).encode()) | st.binary()


@pytest.mark.parametrize("format", IMPORTERS)
@pytest.mark.parametrize("response_as_reference", [False, True])
@settings(deadline=None, max_examples=250)
@given(lines=st.lists(ANY_LINE, max_size=4))
def test_any_line_is_a_row_or_is_left_out_by_its_place(
    format: LogFormat, response_as_reference: bool, lines: list[bytes]
) -> None:
    importer = Import(format=format, response_as_reference=response_as_reference)
    rows = list(importer.read(Record(line, data, "a.log") for line, data in enumerate(lines, 1)))
    for row in rows:
        parse_row(json.dumps(row, allow_nan=False).encode())
    assert len(rows) + len(importer.left_out) == len(lines)
    assert sum(importer.skipped.values()) == len(importer.left_out)
    assert all(str(each).startswith(f"a.log:{each.line}: ") and each.reason for each in importer.left_out)


@pytest.mark.parametrize("format", IMPORTERS)
def test_the_entries_that_are_changed_are_rows_before(format: LogFormat) -> None:
    """Else the test above would see nothing of what stands behind the first thing that does not fit."""
    importer = Import(format=format)
    lines = [json.dumps(each).encode() for each in GOOD if ("schemaType" in each) == (format == "bedrock")]
    rows = list(importer.read(Record(line, data) for line, data in enumerate(lines, 1)))
    assert (len(rows), importer.left_out) == (len(lines), [])


def asked(**body: Any) -> dict[str, Any]:
    return bedrock({**CONVERSE, **body}, CONVERSE_SAID)


def request(**fields: Any) -> dict[str, Any]:
    return {"request": {**OPENAI, **fields}, "response": OPENAI_SAID}


BODY, SAID = "input.inputBodyJson", "output.outputBodyJson"
ODD: list[tuple[LogFormat, Any, str, str]] = [
    ("bedrock", asked(messages=["hi"]), f"{BODY}.messages[0]", "'hi' is no object"),
    (
        "bedrock",
        asked(messages=[{"role": "user", "content": 5}]),
        f"{BODY}.messages[0].content",
        "5 is neither",
    ),
    (
        "bedrock",
        asked(messages=[{"role": "user", "content": [{"text": "a"}, "b"]}]),
        f"{BODY}.messages[0].content[1]",
        "'b' is no block",
    ),
    (
        "bedrock",
        asked(messages=[{"role": "user", "content": [{"toolResult": {"toolUseId": "1", "content": [7]}}]}]),
        f"{BODY}.messages[0].content[0].content[0]",
        "7 is no block",
    ),
    (
        "bedrock",
        asked(messages=[{"role": "user", "content": [{"toolUse": "x"}]}]),
        f"{BODY}.messages[0].content[0]",
        "'x' is no object",
    ),
    ("bedrock", asked(system=[{"image": {}}]), f"{BODY}.system[0]", "a block of image where only text"),
    ("bedrock", asked(toolConfig="x"), f"{BODY}.toolConfig", "'x' is no object"),
    ("bedrock", asked(toolConfig={"tools": {"a": 1}}), f"{BODY}.toolConfig.tools", "is no list"),
    ("bedrock", asked(toolConfig={"tools": ["x"]}), f"{BODY}.toolConfig.tools[0]", "'x' is no tool"),
    ("bedrock", bedrock([1], {}), BODY, "the input is no object"),
    ("bedrock", bedrock(CONVERSE, {"content": ["x"]}), f"{SAID}.content[0]", "'x' is no block"),
    (
        "bedrock",
        bedrock(CONVERSE, [{"contentBlockStart": {"contentBlockIndex": 0, "start": "x"}}]),
        f"{SAID}[0]",
        "'x' is no object",
    ),
    ("bedrock", asked(messages=[{"role": "bot", "content": "a"}]), "messages[1].role", "'bot' is no role"),
    ("openai", request(messages=["hi"]), "request.messages[0]", "'hi' is no object"),
    ("openai", {"body": {"body": {"messages": [1]}}}, "body.body.messages[0]", "1 is no object"),
    ("openai", {"request": "x"}, "request", "'x' is no object"),
    ("openai", request(tools="x"), "tools", "'x' is no list"),
    ("openai", request(messages=[]), "messages", "[] says nothing"),
    ("openai", {**OPENAI, "error": {"code": 1}}, "error", "the call failed"),
    ("openai", b'{"request": {"messages": [], "seed": NaN}}', "", "no JSON"),
    ("openai", [1], "", "no JSON object"),
]


@pytest.mark.parametrize(("format", "entry", "field", "reason"), ODD, ids=[field for _, _, field, _ in ODD])
def test_an_odd_line_is_left_out_with_file_line_field_and_reason(
    format: LogFormat, entry: Any, field: str, reason: str, tmp_path: Path
) -> None:
    good = json.dumps(GOOD[0] if format == "bedrock" else GOOD[-1]).encode()
    odd = entry if isinstance(entry, bytes) else json.dumps(entry).encode()
    (tmp_path / "a.log").write_bytes(b"\n".join((good, odd, good)))
    importer = Import(format=format)
    assert len(list(importer.read(Logs(tmp_path)))) == 2
    (left,) = importer.left_out
    assert (left.path, left.line, left.field) == (str(tmp_path / "a.log"), 2, field)
    assert reason in left.reason


def test_a_million_reasons_take_the_memory_of_a_thousand() -> None:
    lines = (json.dumps({"request": f"{number}"}).encode() for number in range(1500))
    importer = Import(format="openai")
    assert not list(importer.read(Record(line, data) for line, data in enumerate(lines, 1)))
    assert (len(importer.left_out), len(importer.skipped)) == (1000, 1001)
    assert importer.skipped["other reasons"] == 500


def test_a_file_of_a_list_among_the_logs_is_left_out_and_the_others_are_read(tmp_path: Path) -> None:
    """Bodies over 100 kB lie in files of their own beside Bedrock's logs: some are a stream's events."""
    (tmp_path / "body.json").write_text(json.dumps(CONVERSE_CALL_STREAM))
    (tmp_path / "log.json").write_text(json.dumps(GOOD[0]))
    importer = Import(format="bedrock")
    assert len(list(importer.read(Logs(tmp_path)))) == 1
    assert [each.path for each in importer.left_out] == [str(tmp_path / "body.json")]


def test_what_nobody_asked_for_is_counted_and_not_listed(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text(json.dumps(GOOD[0]))
    importer = Import(format="bedrock", where={"modelId": "another"})
    assert not list(importer.read(Logs(tmp_path)))
    assert (importer.left_out, dict(importer.skipped)) == ([], {"modelId is not 'another'": 1})


def test_a_log_may_hold_any_separator_that_json_allows(tmp_path: Path) -> None:
    entry = {"request": {"messages": [user("a\u2028b\u0085c")]}}
    (tmp_path / "a.log").write_text(json.dumps(entry, ensure_ascii=False), encoding="utf-8")
    (found,) = Import(format="openai").read(Logs(tmp_path))
    assert found["messages"] == [user("a\u2028b\u0085c")]
