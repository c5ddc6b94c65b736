"""Rows of every usual form become tasks, from every kind of text file, a row at a time."""

import csv
import gzip
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from datasets_builders import LOOKUP, calls, result, row, user, write_rows
from support import data_path, require

from palaestra.envs import AssistantMessage, SystemMessage, Task, ToolCall, ToolMessage, ToolSpec, UserMessage
from palaestra.envs.datasets import DatasetError, iter_tasks, read_rows, read_tasks
from palaestra.envs.datasets.chat_form import to_chat
from palaestra.envs.datasets.seen import Seen

SYSTEM = {"role": "system", "content": "Solve it."}


def task(tmp_path: Path, value: dict[str, Any]) -> Task:
    (found,) = read_tasks(write_rows(tmp_path / "a.jsonl", value))
    return found


def test_a_row_for_fine_tuning_services_is_a_task(tmp_path: Path) -> None:
    found = task(
        tmp_path,
        {
            "id": 7,
            "messages": [
                SYSTEM,
                {"role": "user", "content": [{"text": "2 + 2"}, {"type": "text", "text": "?"}]},
            ],
            "tools": [LOOKUP],
            "reference_answer": {"answer": 4, "unit": None},
            "difficulty": "easy",
            "source": None,
        },
    )
    function = LOOKUP["function"]
    assert found == Task(
        id="7",
        messages=(SystemMessage("Solve it."), UserMessage("2 + 2?")),
        tools=(ToolSpec(name="lookup", description="Look a word up.", parameters=function["parameters"]),),
        reference={"answer": 4, "unit": None},
        metadata={"difficulty": "easy"},
    )


def test_a_verl_row_has_its_ground_truth_as_reference_and_nowhere_else(tmp_path: Path) -> None:
    found = task(
        tmp_path,
        {
            "data_source": "gsm8k",
            "prompt": [user()],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "4"},
            "extra_info": {"index": 0},
        },
    )
    assert (found.messages, found.reference) == ((UserMessage("What is 2 + 2?"),), "4")
    rest = {"data_source": "gsm8k", "ability": "math", "extra_info": {"index": 0}}
    assert found.metadata == rest | {"reward_model": {"style": "rule"}}


def test_a_prompt_is_a_text_or_the_turns_so_far(tmp_path: Path) -> None:
    assert task(tmp_path, {"prompt": "Hi", "answer": "4"}).messages == (UserMessage("Hi"),)
    turns = [user(), calls("c1") | {"reasoning_content": "Hm."}, result("c1") | {"name": "lookup"}]
    found = task(tmp_path, {"prompt": turns, "answer": "4", "info": {"a": 1}})
    call = ToolCall(id="c1", name="lookup", arguments={"word": "cat"})
    assert found.messages[1:] == (
        AssistantMessage("", "Hm.", (call,)),
        ToolMessage("an animal", "c1", "lookup"),
    )
    assert (found.reference, found.metadata) == ("4", {"info": {"a": 1}})


def test_the_first_of_several_references_counts_and_the_others_are_metadata(tmp_path: Path) -> None:
    found = task(tmp_path, row(reward_model={"ground_truth": "5"}, answer="6", prompt="old"))
    assert found.reference == "4"
    assert found.metadata == {"reward_model": {"ground_truth": "5"}, "answer": "6", "prompt": "old"}


def test_an_id_made_of_the_content_is_stable_and_every_task_has_its_own(tmp_path: Path) -> None:
    one, two = row(user("a")), row(user("b"))
    ids = [each.id for each in iter_tasks(write_rows(tmp_path / "a.jsonl", one, two, one, one))]
    again = [each.id for each in iter_tasks(write_rows(tmp_path / "b.jsonl", two, one | {"level": 3}))]
    assert len(set(ids)) == 4
    assert (again[0], again[1]) == (ids[1], ids[0])
    assert ids[2:] == [f"{ids[0]}-2", f"{ids[0]}-3"]
    reordered = {"reference_answer": {"b": 1, "a": 2}}, {"reference_answer": {"a": 2, "b": 1}}
    for number, each in enumerate(reordered):
        write_rows(tmp_path / f"{number}.jsonl", one | each)
    assert read_tasks(tmp_path / "0.jsonl")[0].id == read_tasks(tmp_path / "1.jsonl")[0].id


def test_fields_of_other_names_are_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", {"question": "2 + 2?", "answer": "4 #### 4", "gold": "4"})
    (found,) = read_tasks(path, prompt="question", reference="gold")
    assert (found.messages, found.reference) == ((UserMessage("2 + 2?"),), "4")
    assert found.metadata == {"answer": "4 #### 4"}
    with pytest.raises(DatasetError, match=r"a\.jsonl:1: query: is not there; the row has question, answer"):
        read_tasks(path, prompt="query")
    write_rows(path, row(question="x"))
    with pytest.raises(DatasetError, match="question: would replace what 'prompt' or 'messages' holds"):
        read_tasks(path, prompt="question")


def test_the_first_row_that_is_none_ends_the_reading_with_file_line_field_and_cure(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", row(), b"", row(user() | {"role": "bot"}))
    rows = read_rows(path)
    assert next(rows).reference == "4"
    with pytest.raises(
        DatasetError, match=r"a\.jsonl:3: messages\[0\]\.role: 'bot' is no role; write one of"
    ):
        next(rows)


def test_two_rows_with_one_id_make_no_task_set(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="task id 'x' stands twice"):
        read_tasks(write_rows(tmp_path / "a.jsonl", row(id="x"), row(user("b"), id="x")))


def test_a_row_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    """Of a file that never ends, as far as its reader can tell."""
    path = write_rows(tmp_path / "a.jsonl", *(row(user(f"{n}")) for n in range(5000)), b"no JSON")
    first = list(itertools.islice(iter_tasks(path), 10))
    assert [each.messages for each in first] == [(UserMessage(f"{n}"),) for n in range(10)]


def test_packed_lines_and_the_mark_of_windows_are_read(tmp_path: Path) -> None:
    line = json.dumps(row()).encode()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(line + b"\r\n" + line))
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + line)
    assert len(list(read_rows(tmp_path / "a.jsonl.gz"))) == 2
    assert len(list(read_rows(tmp_path / "b.jsonl"))) == 1


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", '{"prompt": "x"}'.encode("utf-16"), "UTF-16; save the file in UTF-8"),
        ("a.json", b'[{"prompt": "x"}]', "a JSON array; write one object a line"),
        ("a.json", b'\xef\xbb\xbf[{"prompt": "x"}]', "a JSON array; write one object a line: jq"),
        ("a.csv", b"prompt,answer,answer\nq,1,2", ":1: two columns are called 'answer'; rename one"),
        ("a.jsonl.gz", gzip.compress(b"x" * 9999, mtime=0)[:-20], "fetch it again"),
        ("a.jsonl.gz", b"no gzip", "fetch it again"),
        ("a.csv", b'prompt,answer\n"a\nb', "unexpected end of data; save it as CSV"),
        ("a.csv", b"prompt\n\xff", "save it as CSV in UTF-8"),
        ("a.csv", b"prompt,answer\na,b,c", "more cells than columns; put cells with ',' in quotes"),
        ("a.txt", b"", "'.txt' is no format of datasets"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=says) as refused:
        list(read_rows(tmp_path / name))
    assert name in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"none\.jsonl: there is no such file; a dataset is one of \.jsonl"
    ):
        read_tasks(tmp_path / "none.jsonl")


def test_a_folder_and_a_pipe_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name in ("folder", "pipe"):
        with pytest.raises(DatasetError, match=rf"{name}\.jsonl: is no regular file; a dataset is one of"):
            read_tasks(tmp_path / f"{name}.jsonl")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz"])
def test_a_table_of_text_has_json_in_its_cells_where_a_text_is_not_enough(
    suffix: str, tmp_path: Path
) -> None:
    rows = [
        {"id": "1", "messages": json.dumps([user("a,\nb")]), "tools": json.dumps([LOOKUP]), "level": "3"},
        {"id": "2", "prompt": json.dumps([user()]), "reward_model": json.dumps({"ground_truth": "4"})},
        {"id": "3", "prompt": "[1, 2] is a list?", "answer": "yes"},
    ]
    path = tmp_path / f"a{suffix}"
    columns = sorted({name for each in rows for name in each})
    with gzip.open(path, "wt") if suffix.endswith(".gz") else path.open("w") as file:
        table = csv.DictWriter(file, columns, delimiter="\t" if "tsv" in suffix else ",")
        table.writeheader()
        table.writerows(rows)
    one, two, three = read_tasks(path)
    assert (one.messages, one.tools[0].name, one.metadata) == (
        (UserMessage("a,\nb"),),
        "lookup",
        {"level": "3"},
    )
    assert (two.messages, two.reference) == ((UserMessage("What is 2 + 2?"),), "4")
    assert (three.messages, three.reference) == ((UserMessage("[1, 2] is a list?"),), "yes")


def test_a_row_in_the_chat_form_is_the_same_task(tmp_path: Path) -> None:
    rows = [
        {"prompt": [user(), calls("c1"), result("c1")], "reward_model": {"style": "s", "ground_truth": "4"}},
        {"prompt": "Hi", "answer": "4", "info": {"a": [1]}},
        row(SYSTEM, user(), id="x", tools=[LOOKUP], level=2),
    ]
    path = write_rows(tmp_path / "a.jsonl", *rows)
    chat = write_rows(tmp_path / "b.jsonl", *map(to_chat, read_rows(path)))
    assert list(read_tasks(chat)) == list(read_tasks(path))
    assert all("messages" in json.loads(line) for line in chat.read_text().splitlines())


def test_what_was_seen_is_known_beyond_the_newest() -> None:
    seen = Seen()
    assert all(seen.add(f"{number}") for number in range(70_000))
    assert not any(seen.add(f"{number}") for number in range(0, 70_000, 7))
    assert seen.add("another")


@pytest.mark.data
def test_a_real_dataset_of_questions_is_read_as_it_is() -> None:
    require("data")
    tasks = read_tasks(data_path("gsm8k", "train.jsonl"), prompt="question", reference="answer")
    assert len(tasks) == 7473
    assert all(each.reference.rpartition("#### ")[2] for each in tasks)
    assert all(type(each.messages[0]) is UserMessage and not each.metadata for each in tasks)
