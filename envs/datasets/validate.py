"""Every rule on every row of a dataset, in one pass and little memory."""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import nsmallest

from .census import Census, prompt_hash
from .hashes import Hashes, common, repeats
from .problem import Problem
from .reading import parse_row
from .record import Record
from .rules import MESSAGE_RULES, ROLE_RULES, TOOL_RULES, RowRule, problems_of
from .shape import SHAPE_RULES, Malformed

MAX_PROBLEMS = 1000
"""How many are kept; all are counted."""

Finding = tuple[int, str, str]
"""(line, field, message)"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a validation found."""

    rows: int
    """How many there are, the malformed ones too."""
    counts: dict[str, int]
    """Problems by rule, of the rules that are broken."""
    problems: tuple[Problem, ...]
    """The first ones, by line."""

    @property
    def passed(self) -> bool:
        return not self.counts


def validate(
    source: Iterable[Record],
    name: str,
    *,
    against: Iterable[Record] | None = None,
    against_name: str = "the other dataset",
    extra_rules: Sequence[RowRule] = (),
    max_problems: int = MAX_PROBLEMS,
) -> Report:
    """Raises `DatasetError` only where a file cannot be read on.

    `against` is the test set, of which no prompt may stand here. Memory: 64 bytes a row at most, beyond
    a constant.

    >>> validate(open_source("train.jsonl"), "train.jsonl").passed  # doctest: +SKIP
    True
    """
    found = _Found(name, max_problems)
    census = Census(with_prompts=against is not None)
    malformed = _walk(source, extra_rules, census, found)
    for rule in SET_RULES:
        for line, field, message in rule(census):
            found.add(rule.__name__, line, field, message)
    if not len(census) + malformed:
        found.add("not_empty", 0, "", "there is no row; write one JSON object a line")
    if against is not None and census.prompts is not None:
        for line, field, message in leak(census.prompts, _prompts(against), against_name):
            found.add("leak", line, field, message)
    return Report(
        rows=len(census) + malformed, counts=dict(sorted(found.counts.items())), problems=found.sorted()
    )


def duplicate_rows(census: Census) -> Iterator[Finding]:
    for line, first in repeats(census.rows):
        cure = "drop it, as `palaestra data filter --duplicates` does"
        yield line, "", f"the same conversation, tools and reference as in line {first}; {cure}"


def duplicate_ids(census: Census) -> Iterator[Finding]:
    for line, first in repeats(census.ids):
        yield line, "id", f"the same as in line {first}; give each row an id of its own"


def field_in_all_or_none(census: Census) -> Iterator[Finding]:
    """A loader that makes columns of the rows would fill the gaps with something."""
    for field in sorted(frozenset[str]().union(*census.kinds)):
        lacking = [kind for fields, kind in census.kinds.items() if field not in fields]
        if lacking:
            line, count = min(kind.first for kind in lacking), sum(kind.count for kind in lacking)
            cure = f"give {field!r} to all rows or to none"
            yield line, field, f"not in this row; {count} of {len(census)} rows lack it; {cure}"


def leak(prompts: Hashes, others: Hashes, other_name: str) -> Iterator[Finding]:
    for line, there in common(prompts, others):
        cure = "take the row out of one of them"
        yield line, "", f"the same conversation as in line {there} of {other_name}; {cure}"


SetRule = Callable[[Census], Iterator[Finding]]
SET_RULES: tuple[SetRule, ...] = (duplicate_rows, duplicate_ids, field_in_all_or_none)

RULE_NAMES = (
    "encoding",
    "json",
    "object",
    *(rule.__name__ for rule in SHAPE_RULES),
    *(rule.__name__ for rule in (*ROLE_RULES, *MESSAGE_RULES, *TOOL_RULES)),
    "length",
    "not_empty",
    *(rule.__name__ for rule in SET_RULES),
    "leak",
)
"""Every rule there is."""


def _walk(source: Iterable[Record], extra_rules: Sequence[RowRule], census: Census, found: "_Found") -> int:
    """One pass. Returns the number of malformed rows, which are in no census."""
    malformed = 0
    for line, data, _ in source:
        try:
            row = parse_row(data)
        except Malformed as error:
            malformed += 1
            for rule, field, message in error.found:
                found.add(rule, line, field, message)
            continue
        for rule, field, message in problems_of(row, extra_rules):
            found.add(rule, line, field, message)
        census.add(line, row)
    return malformed


def _prompts(source: Iterable[Record]) -> Hashes:
    """Malformed rows have none; who wants to know validates that dataset too."""
    found = Hashes(array("I"), array("q"))
    for line, data, _ in source:
        try:
            found.values.append(prompt_hash(parse_row(data)))
        except Malformed:
            continue
        found.lines.append(line)
    return found


class _Found:
    """Counts all problems, keeps the first ones."""

    def __init__(self, name: str, max_problems: int) -> None:
        self.counts = Counter[str]()
        self._name, self._max = name, max_problems
        self._kept: list[Problem] = []

    def add(self, rule: str, line: int, field: str, message: str) -> None:
        self.counts[rule] += 1
        self._kept.append(Problem(rule=rule, path=self._name, line=line, field=field, message=message))
        if len(self._kept) >= 2 * self._max:
            self._kept = list(self.sorted())

    def sorted(self) -> tuple[Problem, ...]:
        return tuple(nsmallest(self._max, self._kept, key=lambda problem: problem.line))
