"""`palaestra data` as a user calls it: exit codes, files, JSON, what it says."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from command import forked, palaestra
from datasets_builders import LOOKUP, calls, result, row, user, write_rows
from support import data_path, require

from palaestra.cli.data_files import written
from palaestra.envs import UserMessage
from palaestra.envs.datasets import read_tasks

LATE = row(user(), {"role": "system", "content": "x"}, user())


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_valid_dataset_ends_with_zero_and_a_broken_one_with_one(tmp_path: Path) -> None:
    write_rows(tmp_path / "good.jsonl", row(), row(user("b")))
    done = forked("data", "validate", "good.jsonl", cwd=tmp_path)
    assert (done.code, done.stdout) == (0, "good.jsonl: 2 rows, valid\n")
    assert "validate" in done.stderr
    write_rows(tmp_path / "bad.jsonl", row(), LATE, b"{")
    done = forked("data", "validate", "bad.jsonl", cwd=tmp_path)
    assert done.code == 1
    first, second = done.stdout.splitlines()[:2]
    cure = "a system message behind others; move it to the front (rule system_first)"
    assert first == f"bad.jsonl:2: messages[1].role: {cure}"
    assert second.startswith("bad.jsonl:3: no JSON: ")


def test_a_report_for_machines_has_every_problem(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", LATE, row(user("held out"), id="x"))
    write_rows(tmp_path / "test.jsonl", row(user("held out")))
    done = forked("data", "validate", "a.jsonl", "--against", "test.jsonl", "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert (done.code, report["passed"], report["rows"]) == (1, False, 2)
    assert report["counts"] == {"field_in_all_or_none": 1, "leak": 1, "system_first": 1}
    places = [(each["line"], each["rule"], each["field"]) for each in report["problems"]]
    assert places == [
        (1, "system_first", "messages[1].role"),
        (1, "field_in_all_or_none", "id"),
        (2, "leak", ""),
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("convert", "good.jsonl", "pipe"), "'pipe' is no regular file, and would be replaced; name a file"),
        (("filter", "good.jsonl", "out", "--decisions", "pipe"), "'pipe' is no regular file"),
        (("filter", "good.jsonl", "folder"), "'folder' is a folder"),
        (("filter", "good.jsonl", ""), "'.' is a folder"),
        (("convert", "good.jsonl", ""), "'.' is a folder"),
    ],
)
def test_what_is_no_file_is_not_replaced_by_one(
    arguments: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    """As root, a device would be replaced: all other programs would then write to a file."""
    write_rows(tmp_path / "good.jsonl", row())
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    done = forked("data", *arguments, cwd=tmp_path, env={"COLUMNS": "300"})
    assert done.code == 2 and says in done.stderr, done
    assert (tmp_path / "pipe").is_fifo()
    assert {path.name for path in tmp_path.iterdir()} == {"good.jsonl", "pipe", "folder"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("validate", "none.jsonl"), "none.jsonl: there is no such file"),
        (("stats", "hf:name"), "hf:name: names no split; write hf:NAME:SPLIT"),
        (("convert", "broken.jsonl", "out.jsonl"), "broken.jsonl:1: no JSON"),
        (("convert", "deep.jsonl", "out.jsonl"), "deep.jsonl: row 2: "),
        (("convert", "good.jsonl", "good.jsonl"), "good.jsonl is what is read; write to another file"),
        (("convert", "good.jsonl", "none/out.jsonl"), "none/out.jsonl"),
        (
            ("filter", "good.jsonl", "out.jsonl", "--decisions", "./out.jsonl"),
            "--decisions 'out.jsonl' is OUT too",
        ),
        (("filter", "good.jsonl", "out.jsonl", "--decisions", "good.jsonl"), "good.jsonl is what is read"),
        (("convert", "good.jsonl", "out.jsonl", "--logs", "aws"), "name one of bedrock, openai"),
        (("convert", "good.jsonl", "out.jsonl", "--where", "a=b"), "say which with --logs"),
        (
            ("convert", "good.jsonl", "out.jsonl", "--logs", "openai", "--where", "a"),
            "requestMetadata.team=search",
        ),
        (("filter", "good.jsonl", "out.jsonl", "--max-tokens", "5"), "name its folder with --model"),
        (("validate", "good.jsonl", "--max-tokens", "5", "--model", "."), "has no tokenizer.json"),
    ],
)
def test_what_must_be_mended_first_ends_with_two_and_writes_nothing(
    arguments: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    write_rows(tmp_path / "good.jsonl", row())
    write_rows(tmp_path / "broken.jsonl", b"{")
    write_rows(tmp_path / "deep.jsonl", row(), b'{"prompt": "x", "reference_answer": {"number": 1e999}}')
    done = forked("data", *arguments, cwd=tmp_path, env={"COLUMNS": "300"})
    assert done.code == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.jsonl", "deep.jsonl", "good.jsonl"]


def test_a_filter_writes_what_it_keeps_and_why_it_drops_the_rest(tmp_path: Path) -> None:
    kept = row(user("a"), id="a")
    write_rows(tmp_path / "a.jsonl", kept, LATE | {"id": "b"}, kept | {"id": "c"}, b"{")
    done = forked(
        "data", "filter", "a.jsonl", "b.jsonl.gz", "--invalid", "--duplicates", "--json", cwd=tmp_path
    )
    told = json.loads(done.stdout)
    assert (done.code, told["counts"]) == (0, {"kept": 1, "invalid": 1, "duplicate": 1, "malformed": 1})
    assert gzip.decompress((tmp_path / "b.jsonl.gz").read_bytes()) == json.dumps(kept).encode() + b"\n"
    decided = read(tmp_path / told["decisions"])
    assert [(each["line"], each["id"], each["kept"]) for each in decided] == [
        (1, "a", True),
        (2, "b", False),
        (3, "c", False),
        (4, "", False),
    ]
    assert decided[1]["reason"].endswith("(rule system_first)")
    assert "reason" not in decided[0]


def test_two_commands_that_write_one_file_do_not_meet(tmp_path: Path) -> None:
    """The first still writes when the second begins, and each puts a whole file there."""
    out = tmp_path / "out.jsonl"
    with written(out, "a.jsonl") as first:
        first.write(b"one, ")
        with written(out, "a.jsonl") as second:
            second.write(b"two")
        assert out.read_bytes() == b"two"
        first.write(b"and whole")
    assert out.read_bytes() == b"one, and whole"
    with pytest.raises(ValueError, match="broke"), written(out, "a.jsonl"):
        raise ValueError("it broke")
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_any_dataset_becomes_json_lines_of_the_usual_form(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,gold,level\nWhat is 2 + 2?,4,1\n")
    names = ("--prompt", "question", "--reference", "gold")
    assert forked("data", "convert", "a.csv", "b.jsonl", *names, cwd=tmp_path).code == 0
    assert read(tmp_path / "b.jsonl") == [{**row(), "level": "1"}]
    assert forked("data", "validate", "a.csv", *names, cwd=tmp_path).code == 0
    done = forked("data", "stats", "a.csv", *names, "--json", cwd=tmp_path)
    stats = json.loads(done.stdout)
    assert (stats["rows"], stats["roles"], stats["spreads"]["characters"]["max"]) == (1, {"user": 1}, 14)


def test_a_log_becomes_a_dataset_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    said = {"choices": [{"message": {"role": "assistant", "content": "4"}}]}
    ours = {"request": {"messages": [user()], "model": "m"}, "response": said}
    write_rows(tmp_path / "log.jsonl", ours, {"request": {"input": "x"}}, {"request": {"messages": ["hi"]}})
    options = ("--logs", "openai", "--response-as-reference")
    done = forked("data", "convert", "log.jsonl", "out.jsonl", *options, cwd=tmp_path)
    assert done.code == 0
    assert done.stdout.splitlines() == [
        "left out: log.jsonl:2: request: the request has neither messages nor a prompt",
        "left out: log.jsonl:3: request.messages[0]: 'hi' is no object",
        "out.jsonl: 1 rows",
        "left out 1: the request has neither messages nor a prompt",
        "left out 1: 'hi' is no object",
    ]
    again = forked("data", "convert", "log.jsonl", "out.jsonl", *options, "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["left_out"][1] == {
        "path": "log.jsonl",
        "line": 3,
        "field": "request.messages[0]",
        "reason": "'hi' is no object",
    }
    (task,) = read_tasks(tmp_path / "out.jsonl")
    assert (task.messages, task.reference, task.metadata) == (
        (UserMessage("What is 2 + 2?"),),
        "4",
        {"model": "m"},
    )


def test_a_missing_extra_is_named_with_the_command_that_brings_it(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"")
    code = "import sys; sys.modules['pyarrow'] = None; from palaestra.cli.main import main; main()"
    done = palaestra("data", "validate", "a.parquet", cwd=tmp_path, code=code)
    assert done.code == 2
    assert "pip install 'palaestra[data]'" in done.stderr


@pytest.mark.data
def test_the_length_of_a_row_is_that_under_the_real_chat_template(tmp_path: Path) -> None:
    """With tools, whose schemas the template writes into the prompt, and as transformers counts them."""
    from transformers import AutoTokenizer

    require("data")
    talk = (user("Look up a cat."), calls("c1"), result("c1"), user("And a dog?"))
    rows = [row(user("Hi"), tools=[LOOKUP]), row(*talk, tools=[LOOKUP])]
    write_rows(tmp_path / "a.jsonl", *rows)
    for folder in (data_path("tokenizer_qwen3"), data_path("tokenizer_qwen2_5")):
        loader: Any = AutoTokenizer
        real = loader.from_pretrained(str(folder))
        lengths = [
            len(
                real.apply_chat_template(_decoded(each), tools=[LOOKUP], add_generation_prompt=True)[
                    "input_ids"
                ]
            )
            for each in rows
        ]
        shared = ("a.jsonl", "--model", str(folder))
        stats = json.loads(forked("data", "stats", *shared, "--json", cwd=tmp_path).stdout)
        tokens = stats["spreads"]["tokens"]
        assert (tokens["min"], tokens["max"]) == tuple(lengths), folder
        limit = str(lengths[1] - 1)
        done = forked("data", "validate", *shared, "--max-tokens", limit, "--json", cwd=tmp_path)
        (problem,) = json.loads(done.stdout)["problems"]
        assert (done.code, problem["line"], problem["rule"]) == (1, 2, "length")
        assert f"{lengths[1]} tokens, the limit is {limit}" in problem["message"]
        kept = forked(
            "data", "filter", *shared[:1], "out.jsonl", *shared[1:], "--max-tokens", limit, cwd=tmp_path
        )
        assert (kept.code, len(read(tmp_path / "out.jsonl"))) == (0, 1)


@pytest.mark.data
def test_a_template_beside_the_tokenizer_is_counted_with_and_may_refuse(tmp_path: Path) -> None:
    require("data")
    write_rows(tmp_path / "a.jsonl", row(user("Hi")), row(user("Hi"), user("there")))
    templates = data_path("chat_templates", "trl")
    model = ("--model", str(data_path("tokenizer_qwen3")), "--template", str(templates / "gemma.jinja"))
    done = forked("data", "validate", "a.jsonl", *model, "--max-tokens", "100", "--json", cwd=tmp_path)
    (problem,) = json.loads(done.stdout)["problems"]
    assert (problem["line"], problem["rule"]) == (2, "length")
    assert "the chat template refuses this conversation" in problem["message"]
    assert problem["message"].endswith("write it as this model's template wants it")


def _decoded(each: dict[str, Any]) -> list[dict[str, Any]]:
    """Qwen's template takes the arguments of a call as an object, and wants a text beside it."""
    messages: list[dict[str, Any]] = json.loads(json.dumps(each["messages"]))
    for message in messages:
        message["content"] = message.get("content") or ""
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return messages
