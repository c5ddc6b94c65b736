"""What a dataset must be as a whole: for each rule one that breaks it, and near ones that do not."""

import json
from pathlib import Path

import pytest
from broken_datasets import GOOD, Broken, broken, cases, check, require_told, tool
from datasets_builders import LOOKUP, row, user, write_rows

from palaestra.envs.datasets.record import Record
from palaestra.envs.datasets.source import open_source
from palaestra.envs.datasets.validate import RULE_NAMES, validate

BROKEN: dict[str, list[Broken]] = {
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
CASES = cases(BROKEN)


def test_every_rule_has_a_dataset_that_breaks_it() -> None:
    assert list(BROKEN) == list(RULE_NAMES[RULE_NAMES.index("not_empty") :])


@pytest.mark.parametrize(("rule", "case"), CASES.values(), ids=CASES)
def test_a_broken_rule_is_named_with_line_field_and_cure(rule: str, case: Broken, tmp_path: Path) -> None:
    require_told(rule, case, tmp_path)


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


def test_a_thousand_kinds_of_rows_are_told_apart_and_no_more(tmp_path: Path) -> None:
    rows = [row(user(f"{number}"), **{f"only_{number}": 1}) for number in range(1100)]
    counts = check(write_rows(tmp_path / "a.jsonl", *rows)).counts
    assert counts == {"field_in_all_or_none": 1024}
