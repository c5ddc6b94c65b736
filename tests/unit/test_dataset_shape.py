"""What a row must look like: for each rule rows that break it, where it says so, and near ones that don't."""

from pathlib import Path

import pytest
from broken_datasets import Broken, broken, cases, check, require_told
from datasets_builders import LOOKUP, calls, result, row, user, write_rows

from palaestra.envs.datasets.problem import Problem
from palaestra.envs.datasets.validate import RULE_NAMES

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
            b'{"prompt": "x", "answer": "1", "level": 2, "answer": "2"}',
            field="answer",
            says="twice in one object",
            cure="leave one of them out",
        ),
        broken(
            b'{"prompt": "x", "reward_model": {"ground_truth": 1, "ground_truth": 2}}',
            field="ground_truth",
            says="twice in one object",
            cure="leave one of them out",
        ),
        broken(
            b'{"prompt": "x", "answer": 1e999}',
            field="answer",
            says="a number beyond 1.8e308",
            cure="write a smaller one, or a text",
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
        broken({"id": "a"}, field="messages", says="neither", cure="or `prompt`, or name its field"),
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
}
CASES = cases(BROKEN)


def test_every_rule_has_rows_that_break_it() -> None:
    assert list(BROKEN) == list(RULE_NAMES[: RULE_NAMES.index("system_first")])


@pytest.mark.parametrize(("rule", "case"), CASES.values(), ids=CASES)
def test_a_broken_rule_is_named_with_line_field_and_cure(rule: str, case: Broken, tmp_path: Path) -> None:
    require_told(rule, case, tmp_path)


def test_a_field_s_name_may_stand_again_deeper_and_in_texts(tmp_path: Path) -> None:
    said = 'Is "prompt" or "messages" the name? "prompt"!'
    long = b'{"prompt": "x", "level": {"prompt": %s}}' % (b"1" * 4000)
    rows = row(user(said), level={"prompt": 1, "messages": 2}), long
    for number, each in enumerate(rows):
        assert check(write_rows(tmp_path / f"{number}.jsonl", each)).problems == ()


def test_a_text_that_speaks_of_nan_is_no_number(tmp_path: Path) -> None:
    assert check(write_rows(tmp_path / "a.jsonl", row(user("Is NaN more than -Infinity?")))).passed


def test_a_problem_reads_like_a_compiler_s() -> None:
    problem = Problem(rule="roles", path="a.jsonl", line=3, field="messages[0].role", message="no; yes")
    assert str(problem) == "a.jsonl:3: messages[0].role: no; yes (rule roles)"
