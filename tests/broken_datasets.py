"""Datasets that break a rule of the validator, and what must be said of each."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets_builders import row, user, write_rows

from palaestra.envs.datasets.rules import length_rule
from palaestra.envs.datasets.source import open_source
from palaestra.envs.datasets.validate import Report, validate

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


def count(messages: Iterable[Any], tools: Iterable[Any]) -> int:
    """A token a letter."""
    text = "".join(message.content for message in messages)
    if text == "refused":
        raise ValueError("it is not shown")
    return len(text)


def check(path: Path, **options: Any) -> Report:
    return validate(open_source(path), path.name, **options)


def cases(broken: Mapping[str, Sequence[Broken]]) -> dict[str, tuple[str, Broken]]:
    """Each with its rule, by a name."""
    return {f"{rule}-{n}": (rule, case) for rule, found in broken.items() for n, case in enumerate(found)}


def require_told(rule: str, case: Broken, folder: Path) -> None:
    """The rule is named once, with file, line, field and cure."""
    path = write_rows(folder / "train.jsonl", *case.rows)
    test_set = write_rows(folder / "test.jsonl", b"", row(user("other")), row(user("held out")))
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
