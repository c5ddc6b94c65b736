"""What a row must mean: for each rule rows that break it, where it says so, and near ones that do not."""

from pathlib import Path
from typing import Any

import pytest
from broken_datasets import Broken, broken, cases, check, count, require_told, tool
from datasets_builders import LOOKUP, calls, result, row, user, write_rows

from palaestra.envs.datasets.rules import length_rule
from palaestra.envs.datasets.validate import RULE_NAMES

BROKEN: dict[str, list[Broken]] = {
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
}
CASES = cases(BROKEN)


def test_every_rule_has_rows_that_break_it() -> None:
    first, behind = map(RULE_NAMES.index, ("system_first", "not_empty"))
    assert list(BROKEN) == list(RULE_NAMES[first:behind])


@pytest.mark.parametrize(("rule", "case"), CASES.values(), ids=CASES)
def test_a_broken_rule_is_named_with_line_field_and_cure(rule: str, case: Broken, tmp_path: Path) -> None:
    require_told(rule, case, tmp_path)


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
