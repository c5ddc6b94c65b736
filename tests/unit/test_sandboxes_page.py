"""The figures of docs/sandboxes.md and ARCHITECTURE.md, held against the run that they are of."""

import json
import re
from typing import Any

from support import ROOT

FOUND: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / "sandboxes.json").read_text())
RATIOS: dict[str, float] = FOUND["ratios"]
ROWS: dict[str, dict[str, float]] = FOUND["conditions"]["rows"]
PAGE = (ROOT / "docs" / "sandboxes.md").read_text(encoding="utf-8")
CONTESTANTS = {
    "`namespaces`: open, run, close": "namespaces",
    "`landlock`: open, run, close": "landlock",
    "`docker`: run in one warm container": "docker agent",
    "`docker exec`, by the SDK, in one warm container": "docker exec",
    "`docker run`, by the SDK": "docker run",
    "SWE-ReX 1.4.0, local: `execute` (no walls)": "swe-rex execute",
    "SWE-ReX 1.4.0, local: bash session (no walls)": "swe-rex session",
    "SWE-ReX 1.4.0, one warm container: `execute`": "swe-rex docker execute",
    "SWE-ReX 1.4.0, one warm container: bash session": "swe-rex docker session",
}
COLUMNS = {
    "median time": "p50",
    "a second, 1 in flight": "per_s_at_1",
    "a second, 32 in flight": "per_s_at_32",
    "processor time": "cpu",
}


def two_digits(value: float | None) -> str:
    """As the page writes a figure.

    >>> two_digits(0.2996), two_digits(20.996)
    ('0.30', '21')
    """
    return "not measured" if value is None else f"{value:#.2g}".rstrip(".")


def table() -> list[list[str]]:
    """The cells of the page's table of ratios, its head first."""
    (text,) = re.findall(r"^\| over `subprocess` \|.*\n(?:\|.*\n)+", PAGE, re.MULTILINE)
    head, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines())
    return [head, *rows]


def test_each_ratio_of_the_page_is_the_one_that_was_measured() -> None:
    head, *rows = table()
    assert head[1:] == list(COLUMNS)
    assert [row[0] for row in rows] == list(CONTESTANTS)
    for name, *cells in rows:
        contestant = CONTESTANTS[name]
        measured = [
            RATIOS.get(f"{contestant} {measure} / subprocess {measure}") for measure in COLUMNS.values()
        ]
        assert cells == [two_digits(value) for value in measured], name


def test_what_the_page_says_of_the_soak_and_of_docker_exec_was_measured() -> None:
    own = ROWS["namespaces"]
    programs = re.findall(r"same run ([\d,]+) programs with 128 in flight lost no output", PAGE)
    assert programs == [f"{own['soak']:,}"] and own["soak_lost"] == 0
    times = re.findall(r"the docker sandbox ran (\d+) times as many", PAGE)
    assert times == [two_digits(RATIOS["docker agent per_s_at_32 / docker exec per_s_at_32"])]


def test_the_milliseconds_of_the_architecture_are_those_of_the_same_run() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    shown = re.findall(r"beside a plain subprocess \| ([\d.]+) ms and ([\d.]+) ms, median", text)
    assert shown == [tuple(two_digits(ROWS[name]["p50"]) for name in ("namespaces", "subprocess"))]
