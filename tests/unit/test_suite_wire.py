"""What crosses between suite and program: values, changes of arguments, changes of files."""

import datetime
import decimal
import fractions
import os
import pathlib
import uuid
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import Path
from typing import Any

import pytest

from palaestra.envs.graders._suite.link import update
from palaestra.envs.graders._suite.tree import Tree
from palaestra.envs.graders._suite.wire import MAX_FRAME, Codec, Frames, pack


def refuse(*what: Any) -> Any:
    raise LookupError(what)


def crossed(value: Any, *, of: str = "/here", to: str = "/there") -> Any:
    data = pack({"value": Codec(of, refuse, refuse).encode(value)})
    chunks = [data[at : at + 7] for at in range(0, len(data), 7)]
    frame = Frames(lambda: chunks.pop(0) if chunks else b"").next()
    return Codec(to, refuse, refuse).decode(frame["value"])


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 0, -1, 1 << 63, -(1 << 80), 1.5, float("inf"), 1 + 2j, "", "é\0\ud800\n", b"\xff"),
        *([1, [2]], (1, (2,)), {1, 2}, frozenset({1}), {1: {"a": (2,)}, (1,): None}, bytearray(b"a")),
        *(range(1, 9, 2), slice(1, None), Ellipsis, NotImplemented, int, ValueError, type(None)),
        *(Counter("aab"), OrderedDict([(2, 1), (1, 2)]), defaultdict(list, {1: [2]}), deque([1], 3)),
        *(decimal.Decimal("1.10"), fractions.Fraction(1, 3), uuid.UUID(int=5), pathlib.PurePosixPath("a/b")),
        datetime.datetime(2020, 1, 2, 3, tzinfo=datetime.UTC),
        *(datetime.date(2020, 1, 2), datetime.timedelta(1, 2, 3), datetime.time(1, 2)),
    ],
)
def test_a_plain_value_crosses_as_an_equal_one_of_its_type(value: Any) -> None:
    found = crossed(value)
    assert found == value and type(found) is type(value)


def test_what_a_plain_value_cannot_show_crosses_too() -> None:
    assert str(crossed(-0.0)) == "-0.0" and crossed(float("nan")) != crossed(float("nan"))
    assert crossed(deque([1], 3)).maxlen == 3 and crossed(defaultdict(list)).default_factory is list
    assert crossed(1 << 20000) == 1 << 20000
    assert crossed({"b": 1, "a": 2}) == {"b": 1, "a": 2} and list(crossed({"b": 1, "a": 2})) == ["b", "a"]


def test_a_path_in_the_workspace_arrives_as_one_in_the_other() -> None:
    assert crossed("/here/a.txt") == "/there/a.txt" and crossed(["x=/here"]) == ["x=/there"]
    assert crossed(Path("/here/a")) == Path("/there/a") and crossed("/elsewhere") == "/elsewhere"


@pytest.mark.parametrize("value", [object(), lambda: 0, type("I", (int,), {})(1), os, len, Path])
def test_anything_else_is_lent(value: Any) -> None:
    with pytest.raises(LookupError):
        crossed(value)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"a": 1},
        [],
        ["zzz"],
        ["y", "eval"],
        ["y", "type"],
        ["v", "os", "system", "true"],
        ["v", "builtins", "eval", "1"],
        ["i", "__import__('os')"],
        ["b", "zz"],
        ["s", ["l"]],
        [1],
        [["l"]],
    ],
)
def test_what_the_other_side_did_not_encode_is_an_error_and_runs_nothing(data: Any) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, IndexError, LookupError)):
        Codec("/here", refuse, refuse).decode(data)


@pytest.mark.parametrize(
    "data", [b"0000000x{}", b"ffffffff", b"-0000001", b"00000002[]", b"00000002", b"00000001{"]
)
def test_bytes_that_are_no_frame_are_an_error(data: bytes) -> None:
    chunks = [data]
    with pytest.raises((ValueError, EOFError)):
        Frames(lambda: chunks.pop() if chunks else b"").next()
    with pytest.raises(ValueError):
        pack({"value": "x" * MAX_FRAME})


def test_an_argument_changes_in_place_and_what_stayed_equal_stays_itself() -> None:
    row, other = [1], [2]
    table = [row, other]
    assert update(table, [[1], [5], [6]])
    assert table == [[1], [5], [6]] and table[0] is row and table[1] is other
    twice = [row, row]
    assert update(twice, [[7], [8]]) and twice == [[7], [8]] and row == [1]
    mapping: dict[str, Any] = {"a": row, "gone": 1}
    assert update(mapping, {"new": 2, "a": [3]}) and mapping["a"] is row and list(mapping) == ["new", "a"]
    numbers, data = {1, 2}, bytearray(b"a")
    assert update(numbers, {3}) and numbers == {3} and update(data, bytearray(b"bc")) and data == b"bc"
    assert not update((1,), (2,)) and not update([1], {1})


def test_changes_of_files_are_told_once_and_made_on_the_other_side(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    here, there = Tree(str(tmp_path / "a")), Tree(str(tmp_path / "b"))

    def told() -> list[str]:
        changes = here.changes()
        there.apply(changes)
        assert there.changes() == {}
        return sorted(changes)

    (tmp_path / "a" / "x" / "y").mkdir(parents=True)
    (tmp_path / "a" / "x" / "y" / "one").write_bytes(b"\xff1")
    assert told() == ["x", "x/y", "x/y/one"] and told() == []
    assert (tmp_path / "b" / "x" / "y" / "one").read_bytes() == b"\xff1"
    (tmp_path / "a" / "x" / "y" / "one").write_bytes(
        b"\xff2"
    )  # as long, and within the same tick of the clock
    assert told() == ["x/y/one"]
    assert (tmp_path / "b" / "x" / "y" / "one").read_bytes() == b"\xff2"
    (tmp_path / "a" / "x" / "y" / "one").unlink()
    (tmp_path / "a" / "x" / "y").rmdir()
    assert told() == ["x/y", "x/y/one"] and not (tmp_path / "b" / "x" / "y").exists()
    (tmp_path / "a" / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "a" / "pipe")
    assert told() == []


def test_a_change_leaves_neither_the_tree_nor_touches_what_is_hidden(tmp_path: Path) -> None:
    (tmp_path / "tree" / "tests").mkdir(parents=True)
    secret = tmp_path / "tree" / "tests" / "secret"
    secret.write_text("mine")
    tree = Tree(str(tmp_path / "tree"), hidden=["tests/secret", "kept"])
    assert tree.changes(["tests/secret"]) == {"tests/secret": [0o644, "bWluZQ=="]}
    entry = [0o644, "eA=="]
    names = (
        "../out",
        "/out",
        "a/../../out",
        "tests/secret",
        "tests/secret/x",
        "tests",
        "kept",
        "",
        "./out",
        "a\0b",
    )
    tree.apply(dict.fromkeys(names, entry) | {"tests": None})
    assert secret.read_text() == "mine"
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == [
        "tree/tests/secret"
    ]
