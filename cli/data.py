"""`palaestra data validate|convert|stats|filter`: what there is to train on."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Annotated, cast, get_args

import typer
from pydantic_core import from_json, to_json

from ..envs.datasets.chat_form import to_chat
from ..envs.datasets.filters import (
    MAX_SIMILAR,
    Decision,
    Duplicates,
    Filter,
    Language,
    Length,
    Similar,
    decide,
    invalid,
)
from ..envs.datasets.logs import Import, LogFormat, Logs
from ..envs.datasets.problem import DatasetError
from ..envs.datasets.reading import parse_row, renamed, rows_of
from ..envs.datasets.record import Record
from ..envs.datasets.row import Row
from ..envs.datasets.rules import RowRule, length_rule
from ..envs.datasets.shape import Malformed
from ..envs.datasets.source import FORMATS, open_source
from ..envs.datasets.stats import measure
from ..envs.datasets.validate import validate
from .console import print_json
from .counting import token_counter
from .data_files import new_file, require_two, watched, written
from .data_show import show_counts, show_report, show_rows, show_stats
from .options import Json, Prompt, Reference

data = typer.Typer(
    help="Check, convert, measure and filter datasets.", no_args_is_help=True, rich_markup_mode=None
)

Dataset = Annotated[str, typer.Argument(help=f"{FORMATS}; a folder or a name as hf:NAME:SPLIT.")]
Out = Annotated[Path, typer.Argument(help="The file to write, JSON lines; .gz packs it.", callback=new_file)]
Model = Annotated[Path | None, typer.Option(help="A folder with the tokenizer that counts tokens.")]
Template = Annotated[Path | None, typer.Option(help="A chat template, instead of that folder's own.")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="Of a prompt, with --model.")]


@data.command("validate")
def validate_data(
    path: Dataset,
    against: Annotated[str | None, typer.Option(help="The test set; no prompt may be in both.")] = None,
    prompt: Prompt = None,
    reference: Reference = None,
    model: Model = None,
    template: Template = None,
    max_tokens: MaxTokens = None,
    as_json: Json = False,
) -> None:
    """Every rule on every row; exit code 1 when one is broken."""
    rules: tuple[RowRule, ...] = ()
    if max_tokens is not None:
        rules = (length_rule(token_counter(model, template), max_tokens),)
    with watched(open_source(path), "validate") as records:
        report = validate(
            renamed(records, path, prompt, reference),
            path,
            against=renamed(open_source(against), against, prompt, reference) if against else None,
            against_name=str(against),
            extra_rules=rules,
        )
    if as_json:
        print_json({"path": path, "passed": report.passed, **dataclasses.asdict(report)})
    else:
        show_report(path, report)
    if not report.passed:
        raise typer.Exit(1)


@data.command("convert")
def convert_data(
    path: Dataset,
    out: Out,
    logs: Annotated[
        str | None, typer.Option(help='Read an inference log, or a folder of them: "bedrock" or "openai".')
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="Take log entries with this alone: requestMetadata.team=search.")
    ] = None,
    response_as_reference: Annotated[
        bool, typer.Option("--response-as-reference", help="What the model said is the reference.")
    ] = False,
    prompt: Prompt = None,
    reference: Reference = None,
    as_json: Json = False,
) -> None:
    """Any dataset, or inference log, as JSON lines of messages, tools, reference_answer, id and metadata."""
    if logs is None and (where or response_as_reference):
        raise typer.BadParameter("--where and --response-as-reference are about logs; say which with --logs")
    importer = None
    if logs is not None:
        importer = Import(
            format=_format(logs), where=_pairs(where), response_as_reference=response_as_reference
        )
    source = Logs(Path(path)) if importer else open_source(path)
    count = 0
    with written(out, path) as file, watched(source, "convert") as records:
        if importer:
            rows = importer.read(records)
        else:
            rows = map(to_chat, rows_of(renamed(records, path, prompt, reference), path))
        for row in rows:
            file.write(_row_line(row, f"{path}: row {count + 1}") + b"\n")
            count += 1
    skipped = dict(importer.skipped.most_common()) if importer else {}
    left_out = importer.left_out if importer else []
    if as_json:
        places = [dataclasses.asdict(each) for each in left_out]
        print_json({"rows": count, "out": str(out), "skipped": skipped, "left_out": places})
    else:
        show_rows(out, count, skipped, left_out)


@data.command("stats")
def data_stats(
    path: Dataset,
    prompt: Prompt = None,
    reference: Reference = None,
    model: Model = None,
    template: Template = None,
    as_json: Json = False,
) -> None:
    """Rows, fields, roles, tools, and how long the prompts are."""
    count = token_counter(model, template) if model else None
    malformed = 0

    def rows(records: Iterable[Record]) -> Iterator[Row]:
        nonlocal malformed
        for record in records:
            try:
                yield parse_row(record.data)
            except Malformed:
                malformed += 1

    with watched(open_source(path), "measure") as records:
        stats = measure(rows(renamed(records, path, prompt, reference)), count)
    if as_json:
        print_json({"path": path, "malformed": malformed, **dataclasses.asdict(stats)})
    else:
        show_stats(path, stats, malformed)


@data.command("filter")
def filter_data(
    path: Dataset,
    out: Out,
    decisions: Annotated[
        Path | None,
        typer.Option(help="Every row's id, kept or dropped, and why; default: OUT.decisions.jsonl."),
    ] = None,
    drop_invalid: Annotated[bool, typer.Option("--invalid", help="Drop rows that break a rule.")] = False,
    duplicates: Annotated[
        bool, typer.Option("--duplicates", help="Drop equal rows, all but the first.")
    ] = False,
    similar: Annotated[
        float | None,
        typer.Option(min=0.1, max=MAX_SIMILAR, help="Drop rows whose prompts have this much in common."),
    ] = None,
    language: Annotated[list[str] | None, typer.Option(help="Keep these languages alone: en, de.")] = None,
    prompt: Prompt = None,
    reference: Reference = None,
    model: Model = None,
    template: Template = None,
    max_tokens: MaxTokens = None,
    as_json: Json = False,
) -> None:
    """Write the rows that are worth training on, and for every row why it is kept or dropped."""
    filters: list[Filter] = [invalid] if drop_invalid else []
    filters += [Duplicates()] if duplicates else []
    filters += [Language(language)] if language else []
    filters += [Length(token_counter(model, template), max_tokens)] if max_tokens is not None else []
    filters += [Similar(similar)] if similar is not None else []
    log = decisions or out.with_name(f"{out.name}.decisions.jsonl")
    require_two(out, log, "--decisions")
    with (
        written(out, path) as kept,
        written(log, path) as decided,
        watched(open_source(path), "filter") as records,
    ):
        counts = _sort_out(decide(renamed(records, path, prompt, reference), filters), kept, decided)
    if as_json:
        print_json({"out": str(out), "decisions": str(log), "counts": counts})
    else:
        show_counts(out, log, counts)


def _row_line(row: object, where: str) -> bytes:
    line = to_json(row)
    if b"Infinity" in line or b"NaN" in line:  # in a text they may stand
        try:
            from_json(line, allow_inf_nan=False)
        except ValueError as error:
            cure = "write numbers below 1.8e308, or texts"
            raise DatasetError(
                f"{where}: {error}, of a number beyond what JSON's readers hold; {cure}"
            ) from error
    return line


def _sort_out(decisions: Iterable[Decision], kept: IO[bytes], decided: IO[bytes]) -> dict[str, int]:
    """Every decision is written, and the rows that are kept. Returns how many came to what."""
    counts = {"kept": 0}
    for decision in decisions:
        kind = decision.reason.partition(":")[0] or "kept"
        counts[kind] = counts.get(kind, 0) + 1
        decided.write(_decision_line(decision))
        if not decision.reason:
            kept.write(decision.record.data.rstrip(b"\r\n") + b"\n")
    return counts


def _decision_line(decision: Decision) -> bytes:
    line = {"line": decision.record.line, "id": decision.id, "kept": not decision.reason}
    return to_json(line | ({"reason": decision.reason} if decision.reason else {})) + b"\n"


def _format(name: str) -> LogFormat:
    if name not in get_args(LogFormat):
        raise typer.BadParameter(
            f"--logs {name!r} is no format of logs; name one of {', '.join(get_args(LogFormat))}"
        )
    return cast(LogFormat, name)


def _pairs(where: Sequence[str] | None) -> dict[str, str]:
    pairs = [each.partition("=") for each in where or ()]
    for path, equals, value in pairs:
        if not (path and equals):
            raise typer.BadParameter(
                f"--where {path + equals + value!r}; write it as requestMetadata.team=search"
            )
    return {path: value for path, _, value in pairs}
