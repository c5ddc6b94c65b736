"""What a validation costs beside reading and parsing alone: the same 100,000 rows, in one run.

    python benchmarks/dataset_validation.py [--rows N] [--rounds N] [--json PATH]

The rows have the form of those for reinforcement fine-tuning: a system and a user message, a reference, an
id, metadata, and in the second dataset two tools. Reading and parsing is `Row.model_validate_json` of a line.
The two take turns, each in a process of its own; a ratio is that of the processor times of their fastest
rounds. Memory is the peak of the resident set: its growth from a tenth of the rows to all of them, by row.
"""

import argparse
import json
import multiprocessing
import os
import platform
import random
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from palaestra.envs.datasets.row import Row
from palaestra.envs.datasets.source import open_source
from palaestra.envs.datasets.validate import validate

ROWS, ROUNDS = 100_000, 3
MAX_RATIO, MAX_BYTES = 3.0, 64
WORDS = (
    "apples",
    "boxes",
    "cakes",
    "days",
    "each",
    "four",
    "gave",
    "half",
    "into",
    "jars",
    "keeps",
    "left",
    "more",
    "now",
    "of",
    "pays",
    "quarter",
    "rest",
)
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"{name} of the shop's records.",
            "parameters": {
                "type": "object",
                "properties": {"key": {"type": "string"}, "limit": {"type": "integer", "minimum": 1}},
                "required": ["key"],
            },
        },
    }
    for name in ("lookup", "total")
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Of one way through a file."""

    cpu_s: float
    wall_s: float
    peak_bytes: int


def write(path: Path, rows: int, *, with_tools: bool) -> None:
    pick = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            question = " ".join(pick.choices(WORDS, k=45))
            row: dict[str, Any] = {
                "id": f"shop-{number:06}",
                "messages": [
                    {"role": "system", "content": "Solve the problem. End with the number alone on a line."},
                    {"role": "user", "content": f"{question} {number}?"},
                ],
                "reference_answer": {"answer": str(pick.randrange(1000))},
                "data_source": "shop",
                "difficulty": pick.randrange(5),
            }
            file.write(json.dumps(row | ({"tools": TOOLS} if with_tools else {})) + "\n")


def parse(path: str) -> None:
    with open(path, "rb") as file:
        for line in file:
            Row.model_validate_json(line)


def check(path: str) -> None:
    report = validate(open_source(path), path)
    assert report.passed, report.problems[:3]


WAYS = {"parse": parse, "validate": check}


def cost(way: str, path: Path) -> Cost:
    """In a process of its own, started afresh: a peak never sinks."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_cost, (way, str(path)))


def _cost(way: str, path: str) -> Cost:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    WAYS[way](path)
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    return Cost(cpu_s=cpu_s, wall_s=wall_s, peak_bytes=_peak_bytes())


def _peak_bytes() -> int:
    """VmHWM, not `ru_maxrss`: that one begins with the peak of the parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(found.split()[1]) * 1024


def measure(folder: Path, name: str, rows: int, rounds: int, *, with_tools: bool) -> dict[str, Any]:
    large, small = folder / f"{name}.jsonl", folder / f"{name}-tenth.jsonl"
    write(large, rows, with_tools=with_tools)
    write(small, rows // 10, with_tools=with_tools)
    found: dict[str, list[Cost]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, costs in found.items():
            costs.append(cost(way, large))
    least = {way: min(costs, key=lambda each: each.cpu_s) for way, costs in found.items()}
    peaks = [min(cost("validate", path).peak_bytes for _ in range(2)) for path in (small, large)]
    return {
        "rows": rows,
        **{way: asdict(each) for way, each in least.items()},
        "ratio": least["validate"].cpu_s / least["parse"].cpu_s,
        "bytes_per_row": (peaks[1] - peaks[0]) / (rows - rows // 10),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    datasets: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, with_tools in {"questions": False, "with tools": True}.items():
            found = measure(Path(scratch), name, options.rows, options.rounds, with_tools=with_tools)
            datasets[name] = found
            print(
                f"{name:12} parse {found['parse']['cpu_s']:6.2f} s"
                f"   validate {found['validate']['cpu_s']:6.2f} s"
                f"   ratio {found['ratio']:.2f} (at most {MAX_RATIO:.0f})"
                f"   {found['bytes_per_row']:.0f} bytes a row (at most {MAX_BYTES})"
            )
    conditions = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    if options.json:
        options.json.write_text(json.dumps({"conditions": conditions, "datasets": datasets}, indent=2))
    bars = [each["ratio"] <= MAX_RATIO and each["bytes_per_row"] <= MAX_BYTES for each in datasets.values()]
    sys.exit(0 if all(bars) else 1)


if __name__ == "__main__":
    main()
