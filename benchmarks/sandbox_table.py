"""The lines that benchmarks/sandboxes.py prints: figures, ratios, and who did not take part and why."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from sandbox_race import Race

MEASURES = {
    "subprocess": None,
    "docker exec": ("docker agent",),
    "swe-rex execute": ("namespaces", "landlock"),
    "swe-rex session": ("namespaces", "landlock"),
    "swe-rex docker execute": ("docker agent",),
    "swe-rex docker session": ("docker agent",),
}
"""Who is the measure of whom; None: of everybody."""
_NAME = 28


def ratios(race: Race) -> dict[str, float]:
    found: dict[str, float] = {}
    for base, names in measured(race).items():
        for name in names:
            found |= race.ratios(name, base)
    return found


def measured(race: Race) -> dict[str, list[str]]:
    """`MEASURES` of those who took part."""
    names = list(race.turns)
    return {
        base: [name for name in names if name != base and (only is None or name in only)]
        for base, only in MEASURES.items()
        if base in names
    }


def table(
    race: Race, rows: Mapping[str, Mapping[str, float]], in_flight: Sequence[int], missing: Mapping[str, str]
) -> list[str]:
    printed = [*lines(race, in_flight, rows), *missing_lines(missing)]
    for base, names in measured(race).items():
        if names:
            printed += ["", *ratio_lines(race, base, names, in_flight)]
    return [*printed, ""]


def lines(race: Race, in_flight: Sequence[int], rows: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """One row a contestant, with what became of an output that it lost."""
    columns = {"p50": "p50 ms", "p95": "p95 ms"}
    columns |= {f"per_s_at_{flight}": f"/s at {flight}" for flight in in_flight}
    columns |= {"cpu": "cpu ms", "lost": "lost"}
    yield _line("", columns.values())
    for name, row in rows.items():
        yield _line(name, (_cell(row.get(column, math.nan)) for column in columns))
        if why := race.why_lost(name):
            yield f"{'':{_NAME}} lost, for one: {why:.200}"


def ratio_lines(race: Race, base: str, names: Sequence[str], in_flight: Sequence[int]) -> Iterator[str]:
    """Each of `names` over `base`: times and processor time are better small, rates large."""
    columns = {"p50": "p50", "p95": "p95"}
    columns |= {f"per_s_at_{flight}": f"/s at {flight}" for flight in in_flight} | {"cpu": "cpu"}
    yield _line(f"over {base}", columns.values())
    for name in names:
        found = race.ratios(name, base)
        values = (found.get(f"{name} {column} / {base} {column}", math.nan) for column in columns)
        yield _line(name, (_ratio(value) for value in values))


def missing_lines(missing: Mapping[str, str]) -> Iterator[str]:
    for name, reason in missing.items():
        yield f"{name:{_NAME}} not measured: {' '.join(reason.split())}"


def _line(name: str, cells: Iterable[str]) -> str:
    return " ".join([f"{name:{_NAME}}", *(f"{cell:>9}" for cell in cells)])


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0f}" if value == int(value) else f"{value:.1f}"


def _ratio(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g} x"
