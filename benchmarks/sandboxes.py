"""What a sandboxed program costs, next to the ways people run one today: one table from one run.

    python benchmarks/sandboxes.py [--json PATH] [--soak 20000] [--only subprocess namespaces]

The contestants take turns in rounds. A figure is the median over the rounds; a ratio is the median of the
rounds' ratios, and says more than any figure on a busy machine. An execution is `python3 -c "print(...)"`,
and its output is held against what it must be. For our embedded tiers it is open, run and close.

"subprocess" is a python3 without packages. "subprocess (host)" is this machine's, whose .pth files run at
each start; "subprocess -S" leaves `site` out. SWE-ReX is one warm deployment for everybody, as `docker exec`
is one container. Who cannot take part here is in the table with the reason.
"""

import argparse
import asyncio
import json
import math
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out
from sandbox_contestants import (
    BASE_PYTHON,
    MAX_IN_FLIGHT,
    Contestant,
    DockerAgent,
    DockerExec,
    DockerRun,
    Embedded,
    Subprocess,
    clean_python,
    set_up,
)
from sandbox_race import Race, turn
from sandbox_swerex import SweRex, SweRexDocker
from sandbox_table import ratios, table
from workspace_fork import measure_fork

SOAKED = "namespaces"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """What must hold on two cores."""

    figure: str
    """A ratio, or the name of a contestant and of a figure in its row."""
    at_least: float = -math.inf
    at_most: float = math.inf

    def verdict(self, figures: Mapping[str, float]) -> str:
        """ "pass", "FAIL" or "not measured"."""
        if self.figure not in figures:
            return "not measured"
        return "pass" if self.at_least <= figures[self.figure] <= self.at_most else "FAIL"

    def line(self, figures: Mapping[str, float]) -> str:
        value = figures.get(self.figure, math.nan)
        limit = f"<= {self.at_most:g}" if self.at_most < math.inf else f">= {self.at_least:g}"
        return f"{self.verdict(figures):14}{self.figure}: {value:.3g} (wanted {limit})"


BARS = (
    Bar(figure="namespaces p50 / subprocess p50", at_most=0.5),
    Bar(figure="namespaces per_s_at_32 / subprocess per_s_at_32", at_least=2.5),
    Bar(figure="docker agent per_s_at_32 / docker exec per_s_at_32", at_least=15),
    Bar(figure="namespaces fork_ms", at_most=1.0),
    Bar(figure=f"{SOAKED} soak_lost", at_most=0),
)


@dataclass(kw_only=True, slots=True)
class Report:
    """What `--json` writes."""

    ratios: dict[str, float]
    bars: dict[str, str]
    conditions: dict[str, object]


async def measure(options: argparse.Namespace) -> Report:
    load = os.getloadavg()[0]
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        wanted = chosen(contestants(Path(folder)), options.only)
        ready, missing = await set_up(stack, wanted)
        race = Race(ready, options.in_flight)
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
            await race.run_round(options.turn_s)
        rows = {who.name: race.row(who.name) for who in ready}
        for who in ready:
            if who.name == SOAKED and options.soak:
                rows[who.name] |= await soak(who, options.soak)
            if who.name == SOAKED:
                rows[who.name] |= await measure_fork(who.name, options.rounds * 10)
    print(*table(race, rows, options.in_flight, missing), sep="\n")
    found = ratios(race)
    figures = dict(found)
    for name, row in rows.items():
        figures |= {f"{name} {figure}": value for figure, value in row.items()}
    for bar in BARS:
        print(bar.line(figures))
    conditions: dict[str, object] = {
        "python": sys.version.split()[0],
        "kernel": platform.release(),
        "processors": len(os.sched_getaffinity(0)),
        "load": [load, os.getloadavg()[0]],
        "options": {name: value for name, value in vars(options).items() if name != "json"},
        "missing": missing,
        "rows": rows,
    }
    bars = {bar.figure: bar.verdict(figures) for bar in BARS}
    return Report(ratios=found, bars=bars, conditions=conditions)


def contestants(folder: Path) -> list[Contestant]:
    """All of them, ours last; `folder` is empty and stays until they are done."""
    python = clean_python(folder / "python")
    execute, session = folder / "execute", folder / "session"
    execute.mkdir()
    session.mkdir()
    return [
        Subprocess("subprocess", python),
        Subprocess("subprocess -S", BASE_PYTHON, "-S"),
        Subprocess("subprocess (host)", BASE_PYTHON),
        DockerExec(),
        DockerRun(),
        SweRex("swe-rex execute", python, in_session=False),
        SweRex("swe-rex session", python, in_session=True),
        SweRexDocker("swe-rex docker execute", execute, in_session=False),
        SweRexDocker("swe-rex docker session", session, in_session=True),
        DockerAgent(),
        Embedded("namespaces"),
        Embedded("landlock"),
    ]


def chosen(everybody: Sequence[Contestant], names: Sequence[str] | None) -> list[Contestant]:
    known = [who.name for who in everybody]
    if unknown := set(names or ()) - set(known):
        raise SystemExit(f"--only names {sorted(unknown)}; the contestants are {known}")
    return [who for who in everybody if names is None or who.name in names]


async def soak(who: Contestant, executions: int) -> dict[str, float]:
    result = await turn(who, MAX_IN_FLIGHT, executions=executions)
    because = f", for one: {result.why:.200}" if result.lost else ""
    print(f"{who.name}: {executions} executions, {MAX_IN_FLIGHT} in flight: {result.lost} lost{because}")
    return {"soak": executions, "soak_lost": result.lost, "soak_per_s": result.per_s}


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turn-s", type=float, default=1.0, help="seconds in which a turn starts executions")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 8, 32, MAX_IN_FLIGHT])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="contestants, as the table names them")
    parser.add_argument(
        "--soak", type=int, default=0, metavar="N", help=f"executions of {SOAKED}, {MAX_IN_FLIGHT} in flight"
    )
    parser.add_argument("--json", type=Path, help="write ratios, bars and conditions here")
    return parser.parse_args()


if __name__ == "__main__":
    options = read_options()
    report = asyncio.run(measure(options))
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(report), indent=2) + "\n")
