"""Every rule of the validator: a dataset that breaks it, where it says so, and a near one that does not."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from datasets_builders import LOOKUP, calls, result, row, user, write_rows

from palaestra.envs.datasets.problem import Problem
from palaestra.envs.datasets.record import Record
from palaestra.envs.datasets.rules import length_rule
from palaestra.envs.datasets.source import open_source
from palaestra.envs.datasets.validate import RULE_NAMES, Report, validate

GOOD = row(user("A good row."))


@dataclass(frozen=True, kw_only=True, slots=True)
class Broken:
    """Rows of which one breaks a rule."""

    rows: tuple[Any, ...]
    line: int
    field: str
    says: str
    """What is there."""
    cure: str


def broken(*rows: Any, line: int = 2, field: str, says: str, cure: str) -> Broken:
    """After a good row, which is line 1."""
    return Broken(rows=(GOOD, *rows), line=line, field=field, says=says, cure=cure)


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, **function}}


BROKEN: dict[str, list[Broken]] = {
    "encoding": [
        broken(b'{"messages": "\xff"}', field="", says="byte 15 is no UTF-8", cure="save the file in UTF-8")
    ],
    "json": [
        broken(b'{"messages": ', field="", says="no JSON", cure="one object a line"),
        broken(
            b'{"prompt": "x", "prompt": "y"}',
            field="prompt",
            says="twice in one object",
            cure="leave one of them out",
        ),
        broken(
            b'{"messages": [{"role": "user", "content": "a"}], "id": 1, "messages": []}'.replace(
                b"[]", b'[{"role": "user", "content": "b"}]'
            ),
            field="messages",
            says="twice in one object",
            cure="leave one of them out",
        ),
        broken(
            b'{"prompt": "x", "reference_answer": 1e999}',
            field="reference_answer",
            says="a number beyond 1.8e308",
            cure="write a smaller one, or a text",
        ),
        broken(
            b'{"prompt": "x", "level": -1e999}',
            field="level",
            says="a number beyond 1.8e308",
            cure="write a smaller one, or a text",
        ),
        broken(b'{"prompt": "x", "n": NaN}', field="", says="NaN", cure="without NaN and Infinity"),
    ],
    "object": [broken([1, 2], field="", says="[1, 2] is no object", cure="write {'messages'")],
    "conversation": [
        broken({"id": "a"}, field="messages", says="neither", cure="or as `prompt`"),
        broken(row() | {"messages": []}, field="messages", says="[]", cure="at least one user message"),
        broken({"prompt": 5}, field="prompt", says="5 is neither a text nor", cure="write one of them"),
        broken({"messages": {"role": "user"}}, field="messages", says="is no list", cure="write [{'role'"),
    ],
    "message_keys": [
        broken(
            row(user(), user() | {"weight": 1}),
            field="messages[1].weight",
            says="no such key",
            cure="leave 'weight' out",
        ),
        broken({"prompt": ["hi"]}, field="prompt[0]", says="'hi' is no object", cure="write {'role'"),
        broken(row(user() | {"name": 3}), field="messages[0].name", says="3 is no text", cure="leave it out"),
    ],
    "roles": [
        broken(
            row(user() | {"role": "bot"}),
            field="messages[0].role",
            says="'bot' is no role",
            cure="write one of",
        ),
        broken(
            row({"content": "hi"}), field="messages[0].role", says="is not there", cure="write one of system"
        ),
    ],
    "content_types": [
        broken(
            row(user() | {"content": 7}),
            field="messages[0].content",
            says="7 is neither",
            cure="write a text",
        ),
        broken(
            row(user() | {"content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
            field="messages[0].content[0]",
            says="'image_url'",
            cure="images and sounds are not taken",
        ),
    ],
    "call_shape": [
        broken(
            row(user(), calls("c1", arguments="{word: cat}"), result("c1"), tools=[LOOKUP]),
            field="messages[1].tool_calls[0]",
            says="is no call",
            cure="'arguments': '{...}'",
        ),
        broken(
            row(user(), {"role": "assistant", "tool_calls": "lookup"}),
            field="messages[1].tool_calls",
            says="'lookup' is no list",
            cure="write a list",
        ),
    ],
    "tool_shape": [
        broken(
            row(tools=[{"name": "f"}]), field="tools[0]", says="is no tool", cure="write {'type': 'function'"
        ),
        broken(row(tools={"f": 1}), field="tools", says="is no list", cure="write a list"),
    ],
    "field_types": [
        broken(row(id=[1]), field="id", says="[1] is neither", cure="write one"),
        broken(row(reward_model="x"), field="reward_model", says="'x' is no object", cure="ground_truth"),
    ],
    "system_first": [
        broken(
            row(user(), {"role": "system", "content": "Be brief."}, user()),
            field="messages[1].role",
            says="system message behind others",
            cure="move it to the front",
        )
    ],
    "has_user": [
        broken(
            row({"role": "system", "content": "x"}), field="messages", says="no user message", cure="add one"
        )
    ],
    "ends_open": [
        broken(
            row(user(), {"role": "assistant", "content": "4"}),
            field="messages[1]",
            says="ends with the assistant",
            cure="move this to `reference_answer`",
        )
    ],
    "content_present": [
        broken(row(user("")), field="messages[0].content", says="the user says nothing", cure="write it"),
        broken(
            row(user(), {"role": "assistant"}, user()),
            field="messages[1].content",
            says="the assistant says nothing",
            cure="drop the message",
        ),
    ],
    "keys_of_role": [
        broken(
            row(user() | {"tool_calls": calls("c1")["tool_calls"]}, result("c1"), tools=[LOOKUP]),
            field="messages[0].tool_calls",
            says="the user calls a tool",
            cure="only assistants do",
        ),
        broken(
            row(user() | {"tool_call_id": "c1"}),
            field="messages[0].tool_call_id",
            says="on a user message",
            cure="only tools answer calls",
        ),
    ],
    "call_pairing": [
        broken(
            row(user(), calls("c1"), result("c1"), result("c2"), tools=[LOOKUP]),
            field="messages[3].tool_call_id",
            says="'c2' answers no call",
            cure="the `id` of a call",
        ),
        broken(
            row(user(), calls("c1", "c2"), result("c1"), user("And?"), tools=[LOOKUP]),
            field="messages[1].tool_calls[1]",
            says="call 'c2' is not answered",
            cure="add a tool message",
        ),
        broken(
            row(user(), calls("c1", "c1"), result("c1"), tools=[LOOKUP]),
            field="messages[1].tool_calls[1].id",
            says="'c1' stands twice",
            cure="number them",
        ),
        broken(
            row(user(), calls("c1"), result("c1"), result("c1"), tools=[LOOKUP]),
            field="messages[3].tool_call_id",
            says="'c1' answers no call",
            cure="the `id` of a call",
        ),
    ],
    "known_tools": [
        broken(
            row(user(), calls("c1", tool="find"), result("c1"), tools=[LOOKUP]),
            field="messages[1].tool_calls[0].function.name",
            says="'find' is not in `tools`",
            cure="add it there",
        )
    ],
    "tool_names": [
        broken(
            row(tools=[tool(name="look up")]),
            field="tools[0].function.name",
            says="'look up' is no name",
            cure="letters, digits",
        )
    ],
    "duplicate_tools": [
        broken(
            row(tools=[tool(), tool()]),
            field="tools[1].function.name",
            says="'f' stands twice",
            cure="of its own",
        )
    ],
    "tool_schema": [
        broken(
            row(tools=[tool(parameters={"type": "object", "properties": {"a": {"type": "str"}}})]),
            field="tools[0].function.parameters.properties.a.type",
            says="'str' is not valid",
            cure="write a JSON schema",
        ),
        broken(
            row(tools=[tool(parameters={"type": "array"})]),
            field="tools[0].function.parameters.type",
            says="'array'",
            cure="write 'object'",
        ),
        broken(
            row(tools=[tool(parameters={"$schema": 5, "type": "object"})]),
            field="tools[0].function.parameters.$schema",
            says="5 is no draft",
            cure="write 'https://json-schema.org/draft/2020-12/schema'",
        ),
        broken(
            row(tools=[tool(parameters={"$schema": ["x"], "type": "object"})]),
            field="tools[0].function.parameters.$schema",
            says="['x'] is no draft",
            cure="write 'https://json-schema.org/draft/2020-12/schema'",
        ),
        broken(
            row(tools=[tool(parameters={"$schema": "http://elsewhere/x", "type": "object"})]),
            field="tools[0].function.parameters.$schema",
            says="'http://elsewhere/x' is no draft",
            cure="write 'https://json-schema.org/draft/2020-12/schema'",
        ),
        broken(
            row(tools=[tool(parameters={"type": "object", "properties": {"a": {"$ref": "http://[1/x"}}})]),
            field="tools[0].function.parameters.properties.a.$ref",
            says="is not in the schema",
            cure="refer to '#/$defs/NAME'",
        ),
        broken(
            row(tools=[tool(parameters={"type": "object", "anyOf": [{"$ref": "http://127.0.0.1:1/x"}]})]),
            field="tools[0].function.parameters.anyOf[0].$ref",
            says="is not in the schema; nothing is fetched",
            cure="put it under '$defs'",
        ),
    ],
    "length": [
        broken(
            row(user("long " * 30)), field="messages", says="150 tokens, the limit is 100", cure="shorten it"
        ),
        broken(
            row(user("refused")), field="messages", says="it is not shown", cure="as this model's template"
        ),
    ],
    "not_empty": [Broken(rows=(), line=0, field="", says="there is no row", cure="one JSON object a line")],
    "duplicate_rows": [
        broken(GOOD | {"level": 2}, field="", says="as in line 1", cure="drop it"),
        broken(
            row(user("b")), row(user("c")), row(user("b")), line=4, field="", says="line 2", cure="drop it"
        ),
    ],
    "duplicate_ids": [
        Broken(
            rows=(row(user("a"), id=7), row(user("b"), id="x"), row(user("c"), id="7")),
            line=3,
            field="id",
            says="the same as in line 1",
            cure="an id of its own",
        )
    ],
    "field_in_all_or_none": [
        broken(
            row(user("b"), id="x"),
            line=1,
            field="id",
            says="1 of 2 rows lack it",
            cure="to all rows or to none",
        ),
        broken(
            row(user("b"), reference_answer=None),
            field="reference_answer",
            says="1 of 2 rows lack it",
            cure="to all rows or to none",
        ),
    ],
    "leak": [
        broken(
            row(user("held out"), reference_answer="another"),
            field="",
            says="as in line 3 of test.jsonl",
            cure="out of one of them",
        )
    ],
}


def count(messages: Iterable[Any], tools: Iterable[Any]) -> int:
    """A token a letter."""
    text = "".join(message.content for message in messages)
    if text == "refused":
        raise ValueError("it is not shown")
    return len(text)


def check(path: Path, **options: Any) -> Report:
    return validate(open_source(path), path.name, **options)


def test_every_rule_has_a_dataset_that_breaks_it() -> None:
    assert list(BROKEN) == list(RULE_NAMES)


CASES = [(rule, number) for rule, found in BROKEN.items() for number in range(len(found))]


@pytest.mark.parametrize(("rule", "number"), CASES, ids=[f"{rule}-{number}" for rule, number in CASES])
def test_a_broken_rule_is_named_with_line_field_and_cure(rule: str, number: int, tmp_path: Path) -> None:
    case = BROKEN[rule][number]
    path = write_rows(tmp_path / "train.jsonl", *case.rows)
    test_set = write_rows(tmp_path / "test.jsonl", b"", row(user("other")), row(user("held out")))
    report = check(
        path,
        against=open_source(test_set),
        against_name="test.jsonl",
        extra_rules=[length_rule(count, 100)],
    )
    (problem,) = (each for each in report.problems if each.rule == rule)
    assert (problem.path, problem.line, problem.field) == ("train.jsonl", case.line, case.field)
    assert case.says in problem.message
    assert case.cure in problem.message.rpartition("; ")[2]
    assert report.counts[rule] == 1
    assert not report.passed


def test_a_conversation_with_tools_breaks_no_rule(tmp_path: Path) -> None:
    told = {"role": "developer", "content": [{"text": "Be "}, {"type": "text", "text": "brief."}]}
    talk = (
        user(),
        calls("c1", "c2"),
        result("c2"),
        result("c1", ""),
        user("And?"),
        calls("c1"),
        result("c1"),
    )
    whole = row(told, *talk, tools=[LOOKUP, tool(description=None, strict=True)])
    report = check(write_rows(tmp_path / "a.jsonl", whole), extra_rules=[length_rule(count, 100)])
    assert (report.rows, report.problems) == (1, ())


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"a": {"type": "string"}}, "properties": {"x": {"$ref": "#/$defs/a"}}},
        {"$defs": {"a": {"$anchor": "word", "type": "string"}}, "properties": {"x": {"$ref": "#word"}}},
        {"properties": {"$ref": {"type": "string"}, "$schema": {"type": "string"}}},
        {"$schema": "http://json-schema.org/draft-07/schema#", "items": {"$ref": "#"}},
        {"properties": {"x": {"$ref": "https://json-schema.org/draft/2020-12/schema"}}},
    ],
)
def test_a_schema_may_refer_to_itself_and_to_the_drafts(tmp_path: Path, schema: dict[str, Any]) -> None:
    tools = [tool(parameters={"type": "object", **schema})]
    assert check(write_rows(tmp_path / "a.jsonl", row(tools=tools))).problems == ()


def test_a_field_s_name_may_stand_again_deeper_and_in_texts(tmp_path: Path) -> None:
    said = 'Is "prompt" or "messages" the name? "prompt"!'
    long = b'{"prompt": "x", "level": {"prompt": %s}}' % (b"1" * 4000)
    rows = row(user(said), level={"prompt": 1, "messages": 2}), long
    for number, each in enumerate(rows):
        assert check(write_rows(tmp_path / f"{number}.jsonl", each)).problems == ()


def test_a_text_that_speaks_of_nan_is_no_number(tmp_path: Path) -> None:
    assert check(write_rows(tmp_path / "a.jsonl", row(user("Is NaN more than -Infinity?")))).passed


def test_rows_whose_tools_differ_are_no_duplicates(tmp_path: Path) -> None:
    rows = (row(tools=[LOOKUP]), row(tools=[tool()]), row(tools=[tool(name="g")]))
    assert check(write_rows(tmp_path / "a.jsonl", *rows)).passed


def test_a_prompt_and_the_same_as_a_message_are_duplicates_and_a_leak(tmp_path: Path) -> None:
    rows = ({"prompt": "Hi", "answer": "4"}, row(user("Hi")))
    path = write_rows(tmp_path / "a.jsonl", *rows)
    held_out = write_rows(tmp_path / "b.jsonl", row(user("Hi")), {"prompt": "Hi"})
    report = check(path, against=open_source(held_out))
    assert report.counts["duplicate_rows"] == 1
    assert [
        (each.line, "in line 1 of" in each.message) for each in report.problems if each.rule == "leak"
    ] == [
        (1, True),
        (2, True),
    ]


def test_two_rows_with_the_same_fields_of_which_different_ones_are_null_differ(tmp_path: Path) -> None:
    texts = ({"prompt": "a", "level": None, "answer": "4"}, {"prompt": "b", "level": 3, "answer": None})
    report = check(write_rows(tmp_path / "a.jsonl", *texts))
    fields = {each.field: (each.line, each.rule) for each in report.problems}
    assert fields == {"answer": (2, "field_in_all_or_none"), "level": (1, "field_in_all_or_none")}


def test_problems_come_by_line_and_are_all_counted_though_few_are_kept(tmp_path: Path) -> None:
    bad = [row(user(f"{number}"), {"role": "system", "content": "late"}, user()) for number in range(50)]
    report = check(write_rows(tmp_path / "a.jsonl", *bad, bad[0]), max_problems=3)
    assert report.counts == {"duplicate_rows": 1, "system_first": 51}
    assert [problem.line for problem in report.problems] == [1, 2, 3]


def test_a_repeat_is_told_of_the_first_row_that_it_repeats() -> None:
    rows = [row(user(f"{number % 700}")) for number in range(2100)]
    records = [Record(line, json.dumps(each).encode()) for line, each in enumerate(rows, 10)]
    report = validate(records, "a.jsonl", max_problems=3000)
    assert report.counts == {"duplicate_rows": 1400}
    for problem in report.problems:
        assert f"in line {10 + (problem.line - 10) % 700};" in problem.message


def test_a_problem_reads_like_a_compiler_s() -> None:
    problem = Problem(rule="roles", path="a.jsonl", line=3, field="messages[0].role", message="no; yes")
    assert str(problem) == "a.jsonl:3: messages[0].role: no; yes (rule roles)"


def test_a_thousand_kinds_of_rows_are_told_apart_and_no_more(tmp_path: Path) -> None:
    rows = [row(user(f"{number}"), **{f"only_{number}": 1}) for number in range(1100)]
    counts = check(write_rows(tmp_path / "a.jsonl", *rows)).counts
    assert counts == {"field_in_all_or_none": 1024}
