"""Instructions that a program can verify, as in IFEval."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from ..episode import Episode, Workspace
from ..errors import BadTask
from ..outcome import Score
from ..task import Task
from ._constraints import CHECKS
from .answer import final_answer

CONSTRAINT_IDS = tuple(sorted(CHECKS))
"""The instructions that `Constraints` can check."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Constraint:
    """One instruction."""

    id: str
    arguments: Mapping[str, Any]

    def holds(self, text: str) -> bool:
        """Whether a text follows it; one of white space alone follows none."""
        return bool(text.strip()) and CHECKS[self.id](text, **self.arguments)


@dataclass(frozen=True, kw_only=True, slots=True)
class Constraints:
    """1 when the last message follows every instruction in `Task.reference`.

    >>> rows = [{"id": "punctuation:no_comma"}, {"id": "length_constraints:number_words",
    ...         "kwargs": {"relation": "at least", "num_words": 3}}]
    >>> (await Constraints().grade(Task(id="t", reference=rows), episode, None)).components
    {'punctuation:no_comma': 1.0, 'length_constraints:number_words': 0.0}

    A row of IFEval's own file is a reference too: `{"instruction_id_list": [...], "kwargs": [...]}`.
    """

    partial_credit: bool = False
    """The reward is the part of the instructions that are followed. False: all or nothing."""
    loose: bool = False
    """Also without its first or last line, and without asterisks, as in IFEval's loose accuracy."""

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        """Raises `ValueError` for a reference with an instruction that is unknown, or misses arguments."""
        constraints = parse_constraints(task.reference)
        text = final_answer(episode, None) or ""
        texts = list(_variants(text)) if self.loose else [text]
        held = [any(map(constraint.holds, texts)) for constraint in constraints]
        part = sum(held) / len(held)
        broken = [constraint.id for constraint, ok in zip(constraints, held, strict=True) if not ok]
        return Score(
            reward=part if self.partial_credit else float(not broken),
            components=_named(constraints, held),
            evidence=f"not followed: {', '.join(broken)}" if broken else "",
        )


def parse_constraints(reference: Any) -> list[Constraint]:
    """The instructions of a reference, each with arguments that fit it. Raises `ValueError`.

    >>> parse_constraints([{"id": "punctuation:no_comma"}])
    [Constraint(id='punctuation:no_comma', arguments={})]
    """
    constraints = [_constraint(id, arguments) for id, arguments in _pairs(reference)]
    if not constraints:
        raise BadTask(f"the reference {reference!r:.200} names no instruction")
    return constraints


class _Instruction(BaseModel, extra="forbid"):
    id: str
    kwargs: dict[str, Any] | None = None


class _Row(BaseModel):
    """Of IFEval's file."""

    instruction_id_list: list[str]
    kwargs: list[dict[str, Any]]


_REFERENCE = TypeAdapter[list[_Instruction] | _Row](list[_Instruction] | _Row)


def _pairs(reference: Any) -> list[tuple[str, Mapping[str, Any]]]:
    try:
        found = _REFERENCE.validate_python(reference)
    except ValidationError as error:
        raise BadTask(
            f"the reference is {reference!r:.200}; it must be a list of {{'id': ..., 'kwargs': ...}}, "
            f"or a row of IFEval: {error.errors()[0]['msg']}"
        ) from error
    if not isinstance(found, _Row):
        return [(row.id, row.kwargs or {}) for row in found]
    if len(found.instruction_id_list) != len(found.kwargs):
        raise BadTask(
            f"{len(found.instruction_id_list)} instructions have {len(found.kwargs)} kwargs; each needs one"
        )
    return list(zip(found.instruction_id_list, found.kwargs, strict=True))


def _constraint(id: str, arguments: Mapping[str, Any]) -> Constraint:
    if id not in CHECKS:
        raise BadTask(f"there is no instruction {id!r}; there are: {', '.join(CONSTRAINT_IDS)}")
    # IFEval's rows carry the arguments of other instructions as null.
    given = {name: value for name, value in arguments.items() if value is not None}
    try:
        inspect.signature(CHECKS[id]).bind("", **given)
        CHECKS[id]("a", **given)  # a text that each of them can read
    except (TypeError, ValueError, AttributeError) as error:
        raise BadTask(f"instruction {id!r} with {given!r:.200}: {error}") from error
    return Constraint(id=id, arguments=given)


def _named(constraints: Sequence[Constraint], held: Sequence[bool]) -> dict[str, float]:
    """By id; an id that stands there twice has a number from the second on."""
    named: dict[str, float] = {}
    for constraint, ok in zip(constraints, held, strict=True):
        number = sum(name.partition("#")[0] == constraint.id for name in named) + 1
        named[constraint.id if number == 1 else f"{constraint.id}#{number}"] = float(ok)
    return named


def _variants(text: str) -> Iterator[str]:
    lines = text.split("\n")
    for part in (lines, lines[1:], lines[:-1], lines[1:-1]):
        joined = "\n".join(part).strip()
        yield from (joined, joined.replace("*", ""))
