"""Parquet, Arrow and Hugging Face's own folders give the tasks that the same rows give as JSON lines."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from datasets_builders import LOOKUP, calls, result, row, user, write_rows

from palaestra.envs import UserMessage
from palaestra.envs.datasets import DatasetError, iter_tasks, read_rows, read_tasks
from palaestra.envs.datasets.source import open_source
from palaestra.envs.datasets.tables import without_nulls

ROWS: list[dict[str, Any]] = [
    row(user("a"), id="1", tools=[LOOKUP], level=3),
    row(user("b"), calls("c1"), result("c1"), id="2", tools=[LOOKUP]),
    {"prompt": [user("c")], "reward_model": {"style": "rule", "ground_truth": "4"}, "id": "3"},
]
"""Columns make nulls of what a row lacks, at every depth."""


def library() -> Any:
    """Hugging Face's, which looks for nothing elsewhere."""
    return import_module("datasets")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library().config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    table: Any = import_module("pyarrow").Table.from_pylist(rows)
    match path.suffix:
        case ".parquet":
            import_module("pyarrow.parquet").write_table(table, path, row_group_size=100)
        case ".feather":
            import_module("pyarrow.feather").write_feather(table, str(path))
        case _:
            with import_module("pyarrow.ipc").new_stream(str(path), table.schema) as stream:
                stream.write_table(table)
    return path


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
def test_a_table_of_nested_columns_is_the_same_dataset(name: str, tmp_path: Path) -> None:
    # A column has one type; the struct of the two kinds of rows is that of all their fields.
    columns = {key: None for each in ROWS for key in each}
    path = write_table(tmp_path / name, [columns | each for each in ROWS])
    assert list(read_tasks(path)) == list(read_tasks(write_rows(tmp_path / "a.jsonl", *ROWS)))


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
def test_a_large_table_is_read_in_batches_and_knows_its_position(name: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"{number}", "answer": "4"} for number in range(1000)]
    source = open_source(write_table(tmp_path / name, rows))
    for record in source:
        assert source.position() == record.line
    assert source.position() == 1000
    assert [each.reference for each in read_rows(tmp_path / name)] == ["4"] * 1000


def test_json_text_in_columns_is_read(tmp_path: Path) -> None:
    rows = [{"messages": '[{"role": "user", "content": "hi"}]', "reward_model": '{"ground_truth": "4"}'}]
    (found,) = read_tasks(write_table(tmp_path / "a.parquet", rows))
    assert (found.messages, found.reference) == ((UserMessage("hi"),), "4")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_broken_table_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"PAR1 it is not")
    with pytest.raises(DatasetError, match=f"{name}: .*look whether it is there and whole"):
        list(read_rows(tmp_path / name))


@pytest.mark.parametrize("name", ["a.parquet", "a.feather", "a.arrow"])
def test_two_columns_of_one_name_are_refused(name: str, tmp_path: Path) -> None:
    arrow: Any = import_module("pyarrow")
    table = arrow.table([["q"], ["1"], ["2"]], names=["prompt", "answer", "answer"])
    match name:
        case "a.parquet":
            import_module("pyarrow.parquet").write_table(table, tmp_path / name)
        case "a.feather":
            import_module("pyarrow.feather").write_feather(table, str(tmp_path / name))
        case _:
            with arrow.ipc.new_stream(tmp_path / name, table.schema) as stream:
                stream.write_table(table)
    with pytest.raises(DatasetError, match=rf"{name}: two columns are called 'answer'; rename one"):
        list(read_rows(tmp_path / name))


def test_a_column_of_bytes_is_refused_with_its_row(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", [{"prompt": "x", "image": b"\xff\xd8"}])
    with pytest.raises(DatasetError, match=r"a\.parquet:1: .*drop the columns of bytes"):
        list(read_rows(path))


def test_saved_and_streamed_datasets_of_hugging_face_are_read(tmp_path: Path) -> None:
    rows = [{"prompt": f"{number}", "answer": "4"} for number in range(20)]
    made = library().Dataset.from_list(rows)
    made.save_to_disk(str(tmp_path / "saved"))
    library().DatasetDict({"train": made}).save_to_disk(str(tmp_path / "split"))
    (tmp_path / "files").mkdir()
    write_table(tmp_path / "files" / "train.parquet", rows)
    wanted = [(UserMessage(f"{number}"),) for number in range(20)]
    for name in (tmp_path / "saved", f"hf:{tmp_path}/split:train", f"hf:{tmp_path}/files:train"):
        assert [each.messages for each in iter_tasks(name)] == wanted, name


@pytest.mark.parametrize("name", ["hf:{}/none:train", "hf:{}/files:none", "hf:{}/files"])
def test_a_dataset_that_hugging_face_does_not_find_is_an_error_with_its_name(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "files").mkdir()
    write_table(tmp_path / "files" / "train.parquet", [{"prompt": "x"}])
    with pytest.raises(DatasetError, match=f"^{name.format(tmp_path)}: "):
        list(read_rows(name.format(tmp_path)))


def test_nulls_leave_objects_at_every_depth_and_stay_in_lists() -> None:
    assert without_nulls({"a": None, "b": [{"c": None, "d": [None]}]}) == {"b": [{"d": [None]}]}
