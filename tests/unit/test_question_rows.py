"""The user's files of gsm8k, finqa and sql: their forms, and what is said of rows that do not fit."""

import gzip
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from palaestra.envs.catalog._finqa_rows import finqa_steps, python_steps
from palaestra.envs.catalog.finqa import FinancialReports
from palaestra.envs.catalog.gsm8k import WordProblems
from palaestra.envs.catalog.sql import DatabaseQuestions

FLAT = {
    "id": "a",
    "context": "before .\n|year|sum|\n|2020|$ 5|\nafter .",
    "question": "how much?",
    "answer": "5",
}
TALK = {
    "id": "b",
    "text": "before .",
    "table": "year | sum\n2020 | $ 5\n",
    "questions": ["how much?", "and twice that?"],
    "answer": 10.0,
    "programs": ["ans = 5", "x0 = 5 + 0; ans = x0 * 2"],
}
ORIGINAL = {
    "id": "c",
    "pre_text": ["before ."],
    "post_text": ["after ."],
    "table": [["year", "sum"], ["2020", "$ 5"]],
    "qa": {"question": "how much?", "exe_ans": 5.0, "program": "add(5, const_0)"},
}


def file_of(folder: Path, *rows: Any) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_the_three_forms_of_finqa_become_the_same_kind_of_task(tmp_path: Path) -> None:
    tasks = FinancialReports.tasks(path=file_of(tmp_path, FLAT, TALK, ORIGINAL), instructions="")
    assert [task.id for task in tasks] == ["a", "b", "c"]
    assert [task.metadata["table"] for task in tasks] == [(("year", "sum"), ("2020", "$ 5"))] * 3
    assert [task.reference for task in tasks] == ["5", "10.0", "5.0"]
    assert [task.private["steps"] for task in tasks] == [(), ("5 + 0", "(5 + 0) * 2"), ("5 + 0",)]
    assert [task.prompt_text for task in tasks] == [
        "before .\nafter .\n\nhow much?",
        "before .\n\n1. how much?\n2. and twice that?\nAnswer the last question.",
        "before .\nafter .\n\nhow much?",
    ]


@pytest.mark.parametrize(
    ("program", "steps"),
    [
        ("subtract(9, 4), divide(#0, const_100)", ("9 - 4", "(9 - 4) / 100")),
        ("divide(#0, #1)", "IndexError"),
        ("multiply(5.4%, const_m1)", ("5.4% * (-1)",)),
        ("greater(3, 2)", ("3 > 2",)),
        ("exp(2, const_3)", ("2 ** 3",)),
        ("table_max(revenue, none)", ()),
        ("", ()),
    ],
)
def test_programs_of_finqa_become_expressions(program: str, steps: Any) -> None:
    if steps == "IndexError":
        with pytest.raises(ValueError, match="#0"):
            finqa_steps(program)
    else:
        assert finqa_steps(program) == steps


def test_programs_of_convfinqa_become_expressions() -> None:
    assert python_steps("x0 = 9 - 4; x1 = 7; ans = x0 / x1") == ("9 - 4", "7", "(9 - 4) / (7)")
    assert python_steps("ans = 5%") == ("5%",) and python_steps("") == ()
    with pytest.raises(ValueError, match="'x1'"):
        python_steps("ans = x1 + 1")


@pytest.mark.parametrize(
    "row",
    [
        {"db": "small", "question": "how many?", "gold": "SELECT 1"},
        {"db_id": "small", "question": "how many?", "query": "SELECT 1", "query_toks": []},
        {"db": "small", "query": "how many?", "gold": "SELECT 1", "hardness": "easy"},
    ],
    ids=["ours", "Spider", "InterCode"],
)
@pytest.mark.parametrize(
    "where", ["database/small.sqlite", "database/small/small.sqlite", "elsewhere/small.sqlite"]
)
def test_questions_to_databases_as_others_write_them(tmp_path: Path, row: dict[str, Any], where: str) -> None:
    file = tmp_path / where
    file.parent.mkdir(parents=True)
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE t (a INTEGER)")
    connection.close()
    folder = tmp_path / "elsewhere" if "elsewhere" in where else None
    (task,) = DatabaseQuestions.tasks(path=file_of(tmp_path, row), databases=folder, instructions="")
    assert (task.id, task.reference) == ("rows-0", "SELECT 1")
    assert task.private["database"] == str(file)
    assert task.prompt_text == "CREATE TABLE t (a INTEGER);\n\nhow many?"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"question": "a"}], r"rows.jsonl, row 1: answer: Field required"),
        (
            [{"question": "a", "answer": "#### 1"}, {"question": 5, "answer": "#### 1"}],
            r"row 2: question: .* got 5",
        ),
        (["a"], r"row 1: the row: .*, got 'a'"),
        ([], "holds no rows"),
        ([{"id": "x", "question": "a", "answer": "1"}] * 2, "task id 'x' stands twice"),
    ],
)
def test_a_row_that_does_not_fit_is_named(tmp_path: Path, rows: list[Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        WordProblems.tasks(path=file_of(tmp_path, *rows))


def test_a_list_is_read_as_well_and_what_is_no_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[{"question": "a", "answer": "#### 1"}]')
    assert [task.reference for task in WordProblems.tasks(path=path)] == ["1"]
    path.write_text('{"question": "a", "answer": "#### 1"}\n{"question"')
    with pytest.raises(ValueError, match=r"rows.json, line 2 is no JSON"):
        WordProblems.tasks(path=path)
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"rows.json, line 1 is no JSON"):
        WordProblems.tasks(path=path)
    with pytest.raises(ValueError, match="there is no such file"):
        WordProblems.tasks(path=tmp_path / "none.jsonl")


def test_rows_hold_any_separator_that_json_allows_and_come_from_tables_too(tmp_path: Path) -> None:
    row = {"question": "a\u2028b\u0085c", "answer": "#### 1"}
    lines = tmp_path / "rows.jsonl"
    lines.write_text(
        json.dumps(row, ensure_ascii=False) + "\r\n" + json.dumps(FLAT | {"question": "b"}), encoding="utf-8"
    )
    found = WordProblems.tasks(path=lines, instructions="")
    assert [task.prompt_text for task in found] == [row["question"], "b"]
    table = tmp_path / "rows.csv.gz"
    table.write_bytes(gzip.compress(b"question,answer\nhow much?,#### 7\n"))
    assert [task.reference for task in WordProblems.tasks(path=table)] == ["7"]
    packed = tmp_path / "rows.json.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf [" + json.dumps(row).encode() + b"]"))
    assert [task.reference for task in WordProblems.tasks(path=packed)] == ["1"]


@pytest.mark.parametrize(
    ("db", "said"),
    [
        ("nowhere", "no database 'nowhere' .*; name its folder with `databases`"),
        ("../up", "row 1: db: .*pattern"),
    ],
)
def test_a_database_that_is_not_there_is_named(tmp_path: Path, db: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DatabaseQuestions.tasks(path=file_of(tmp_path, {"db": db, "question": "a", "gold": "SELECT 1"}))


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.sqlite").write_text("hello")
    rows = file_of(tmp_path, {"db": "a", "question": "a", "gold": "SELECT 1"})
    with pytest.raises(ValueError, match="is no SQLite file"):
        DatabaseQuestions.tasks(path=rows, databases=tmp_path)
