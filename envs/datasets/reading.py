"""Bytes to rows, and a dataset to rows and tasks."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from ..task import Task, TaskSet
from .json_kinds import is_object
from .problem import DatasetError, Problem
from .record import Record
from .row import Row
from .shape import Malformed, boundless, explain, repeated
from .source import open_source
from .tasks import to_tasks

CAPITAL_N, CAPITAL_I = b"NI"
"""One letter is sought ten times as fast as a word, and a word from the end five times as fast."""
_PARSER = TypeAdapter(Row).validator
"""It parses as `Row.model_validate_json` does, which is a call of Python's around it."""


def read_rows(path: str | Path, *, prompt: str | None = None, reference: str | None = None) -> Iterator[Row]:
    """The rows of a dataset, one at a time, so the file may be larger than memory.

    `prompt` and `reference` name the fields to take these from, where they are called otherwise. Raises
    `DatasetError` at the first row that is none; `palaestra data validate` finds them all.

    >>> next(read_rows("train.jsonl", prompt="question", reference="answer")).reference  # doctest: +SKIP
    '... #### 72'
    """
    yield from rows_of(renamed(open_source(path), str(path), prompt, reference), str(path))


def iter_tasks(
    path: str | Path, *, prompt: str | None = None, reference: str | None = None
) -> Iterator[Task]:
    """The rows of a dataset as tasks, one at a time. A row without an `id` has one made of its content."""
    return to_tasks(read_rows(path, prompt=prompt, reference=reference))


def read_tasks(path: str | Path, *, prompt: str | None = None, reference: str | None = None) -> TaskSet:
    """The whole dataset as a task set: `messages` or `prompt`, `tools`, the reference, and every other field
    as metadata. Raises `DatasetError` at the first row that is none, `ValueError` at a repeated id."""
    return TaskSet(iter_tasks(path, prompt=prompt, reference=reference))


def rows_of(source: Iterable[Record], name: str) -> Iterator[Row]:
    """The same of records."""
    for record in source:
        try:
            yield parse_row(record.data)
        except Malformed as error:
            rule, field, message = error.found[0]
            first = Problem(rule=rule, path=name, line=record.line, field=field, message=message)
            raise DatasetError(str(first)) from error


def parse_row(data: bytes) -> Row:
    """Raises `Malformed`. For speed, only the conversation and the reference are looked for twice, and only
    the reference and the metadata themselves, nothing deeper, for numbers beyond a float's."""
    try:
        row: Row = _PARSER.validate_json(data)
    except ValidationError as error:
        raise Malformed(explain(data, error)) from error
    fields, more = row.__dict__, row.__pydantic_extra__  # a third of the time of as many attributes
    messages = fields["messages"]
    if not (messages or fields["prompt"]) or _says_not_finite(data):
        found = explain(data, None)
        if found:
            raise Malformed(found)
    asked = b'"prompt"' if messages is None else b'"messages"'
    expected = _reference_name(row.__pydantic_fields_set__)
    if data.count(asked) > 1 or (expected and data.count(expected) > 1):  # or in a text, or deeper
        twice = repeated(data)
        if twice:
            raise Malformed(twice)
    numbers = type(fields["reference_answer"]) is float or type(fields["answer"]) is float
    if numbers or (more and float in map(type, more.values())):
        found = boundless({"reference_answer": row.reference_answer, "answer": row.answer, **(more or {})})
        if found:
            raise Malformed(found)
    return row


def _says_not_finite(data: bytes) -> bool:
    """JSON knows neither NaN nor Infinity, which pydantic takes."""
    is_nan = CAPITAL_N in data and data.rfind(b"NaN") >= 0
    return is_nan or (CAPITAL_I in data and data.rfind(b"Infinity") >= 0)


def _reference_name(names: set[str]) -> bytes:
    """What holds the reference in a row of these fields, as JSON has it."""
    if "reference_answer" in names or "metadata" in names:
        return b'"reference_answer"'
    if "reward_model" in names:
        return b'"ground_truth"'
    return b'"answer"' if "answer" in names else b""


def renamed(
    source: Iterable[Record], name: str, prompt: str | None, reference: str | None
) -> Iterable[Record]:
    """The records with the fields called `prompt` and `reference` under the names that `Row` knows."""
    names = {"prompt": prompt, "reference_answer": reference}
    asked = {ours: theirs for ours, theirs in names.items() if theirs is not None and theirs != ours}
    return _renamed(source, name, asked) if asked else source


def _renamed(source: Iterable[Record], name: str, names: Mapping[str, str]) -> Iterator[Record]:
    for record in source:
        try:
            row = from_json(record.data)
        except ValueError:
            row = None
        if not is_object(row):  # `parse_row` says why
            yield record
            continue
        for ours, theirs in names.items():
            if theirs not in row or ours in row or (ours == "prompt" and "messages" in row):
                why = (
                    "is not there"
                    if theirs not in row
                    else f"would replace what {ours!r} or 'messages' holds"
                )
                raise DatasetError(f"{name}:{record.line}: {theirs}: {why}; the row has {', '.join(row)}")
            row[ours] = row.pop(theirs)
        yield Record(record.line, to_json(row))
