"""What the `data` commands found, for people."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from ..envs.datasets.logs import LeftOut
from ..envs.datasets.stats import Stats
from ..envs.datasets.validate import Report
from .console import open_console, printable

SHOWN = 50
"""Problems that are printed; `--json` has all that are kept."""
TOP = 20
"""Fields and tools that are printed."""


def show_report(path: str, report: Report) -> None:
    console = open_console()
    for problem in report.problems[:SHOWN]:
        console.print(printable(str(problem)), markup=False, highlight=False, soft_wrap=True)
    total = sum(report.counts.values())
    if total > SHOWN:
        console.print(f"... and {total - SHOWN} more", highlight=False)
    if report.passed:
        console.print(f"{path}: {report.rows} rows, valid", markup=False, highlight=False)
        return
    table = Table("rule", "problems", title=Text(f"{path}: {report.rows} rows"))
    for rule, count in report.counts.items():
        table.add_row(rule, str(count))
    console.print(table)


def show_stats(path: str, stats: Stats, malformed: int) -> None:
    console = open_console()
    table = Table("", "least", "median", "p95", "most", "in all", title=Text(f"{path}: {stats.rows} rows"))
    for name, spread in stats.spreads.items():
        table.add_row(name, *map(str, (spread.min, spread.median, spread.p95, spread.max, spread.total)))
    console.print(table)
    for name, counts in {"fields": stats.fields, "roles": stats.roles, "tools": stats.tools}.items():
        shown = ", ".join(f"{key} {count}" for key, count in list(counts.items())[:TOP])
        rest = f" and {len(counts) - TOP} more" if len(counts) > TOP else ""
        console.print(printable(f"{name}: {shown or 'none'}{rest}"), markup=False, highlight=False)
    for what, count in {"malformed": malformed, "refused by the template": stats.uncounted}.items():
        if count:
            console.print(f"{count} rows are {what}", highlight=False)


def show_rows(out: Path, rows: int, skipped: Mapping[str, int], left_out: Sequence[LeftOut]) -> None:
    """What came of a conversion; of a log, what was left out of it too."""
    console = open_console()
    for each in left_out[:SHOWN]:
        console.print(printable(f"left out: {each}"), markup=False, highlight=False, soft_wrap=True)
    console.print(f"{out}: {rows} rows", markup=False, highlight=False)
    for reason, number in list(skipped.items())[:SHOWN]:
        console.print(f"left out {number}: {printable(reason)}", markup=False, highlight=False)


def show_counts(out: Path, log: Path, counts: Mapping[str, int]) -> None:
    """What a filter did."""
    console = open_console()
    for kind, number in counts.items():
        console.print(f"{number:>8} {kind}", highlight=False)
    console.print(f"{out} has what is kept, {log} the reason for each row", markup=False, highlight=False)
