"""What a validation costs beside reading and parsing alone: the same 100,000 rows, in one run.

    python benchmarks/dataset_validation.py [--rows N] [--rounds N] [--max-ratio X] [--max-bytes N]
        [--json PATH]

The rows have the form of those for reinforcement fine-tuning: a system and a user message, a reference, an
id, metadata, and in the second dataset two tools. In the third they are a prompt and an answer, in the fourth
verl's. "Against" has a test set as large, of which no row stands in it; a row is then a row of training.
Reading and parsing is `Row.model_validate_json` of a line. The two take turns, each in a process of its own;
a ratio is that of the processor times of their fastest rounds. Memory is the peak of the resident set: its
growth from a tenth of the rows to all of them, by row.
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
from collections.abc import Callable
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
FIRST = ("A", "If", "In", "Nina", "The")
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A form of dataset."""

    form: Callable[[str, int, str], dict[str, Any]]
    """Of the question, the row's number and the answer."""
    against: bool = False
    """Against a test set as large."""


def chat(question: str, number: int, answer: str) -> dict[str, Any]:
    return {
        "id": f"shop-{number:06}",
        "messages": [
            {"role": "system", "content": "Solve the problem. End with the number alone on a line."},
            {"role": "user", "content": question},
        ],
        "reference_answer": {"answer": answer},
        "data_source": "shop",
        "difficulty": number % 5,
    }


def with_tools(question: str, number: int, answer: str) -> dict[str, Any]:
    return chat(question, number, answer) | {"tools": TOOLS}


def prompt(question: str, number: int, answer: str) -> dict[str, Any]:
    return {"prompt": question, "answer": answer}


def verl(question: str, number: int, answer: str) -> dict[str, Any]:
    return {
        "data_source": "shop",
        "prompt": [{"role": "user", "content": question}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": answer},
        "extra_info": {"split": "train", "index": number},
    }


DATASETS = {
    "questions": Kind(form=chat),
    "with tools": Kind(form=with_tools),
    "prompts": Kind(form=prompt),
    "verl": Kind(form=verl),
    "questions against": Kind(form=chat, against=True),
    "prompts against": Kind(form=prompt, against=True),
    "verl against": Kind(form=verl, against=True),
}


def write(path: Path, kind: Kind, numbers: range) -> None:
    pick = random.Random(numbers.start)
    with path.open("w", encoding="utf-8") as file:
        for number in numbers:
            question = f"{pick.choice(FIRST)} {' '.join(pick.choices(WORDS, k=45))} {number}?"
            file.write(json.dumps(kind.form(question, number, str(pick.randrange(1000)))) + "\n")


def parse(path: str, against: str | None) -> None:
    for each in filter(None, (path, against)):
        with open(each, "rb") as file:
            for line in file:
                Row.model_validate_json(line)


def check(path: str, against: str | None) -> None:
    report = validate(open_source(path), path, against=open_source(against) if against else None)
    assert report.passed, report.problems[:3]


WAYS = {"parse": parse, "validate": check}


def cost(way: str, path: Path, against: Path | None) -> Cost:
    """In a process of its own, started afresh: a peak never sinks."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_cost, (way, str(path), str(against) if against else None))


def _cost(way: str, path: str, against: str | None) -> Cost:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    WAYS[way](path, against)
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    return Cost(cpu_s=cpu_s, wall_s=wall_s, peak_bytes=_peak_bytes())


def _peak_bytes() -> int:
    """VmHWM, not `ru_maxrss`: that one begins with the peak of the parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(found.split()[1]) * 1024


def measure(folder: Path, kind: Kind, rows: int, rounds: int) -> dict[str, Any]:
    large, small = (_written(folder, kind, count) for count in (rows, rows // 10))
    found: dict[str, list[Cost]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, costs in found.items():
            costs.append(cost(way, *large))
    least = {way: min(costs, key=lambda each: each.cpu_s) for way, costs in found.items()}
    small_peak = min(cost("validate", *small).peak_bytes for _ in range(min(2, rounds)))
    large_peak = min(each.peak_bytes for each in found["validate"])
    return {
        "rows": rows,
        **{way: asdict(each) for way, each in least.items()},
        "ratio": least["validate"].cpu_s / least["parse"].cpu_s,
        "bytes_per_row": (large_peak - small_peak) / (rows - rows // 10),
    }


def _written(folder: Path, kind: Kind, rows: int) -> tuple[Path, Path | None]:
    train, test = folder / f"train-{rows}.jsonl", folder / f"test-{rows}.jsonl"
    write(train, kind, range(rows))
    if not kind.against:
        return train, None
    write(test, kind, range(rows, 2 * rows))
    return train, test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--max-ratio", type=float, default=MAX_RATIO)
    parser.add_argument("--max-bytes", type=float, default=MAX_BYTES)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    datasets: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, kind in DATASETS.items():
            found = measure(Path(scratch), kind, options.rows, options.rounds)
            datasets[name] = found
            print(
                f"{name:18} parse {found['parse']['cpu_s']:6.2f} s"
                f"   validate {found['validate']['cpu_s']:6.2f} s"
                f"   ratio {found['ratio']:.2f} (at most {options.max_ratio:.0f})"
                f"   {found['bytes_per_row']:.0f} bytes a row (at most {options.max_bytes:.0f})"
            )
    conditions = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    if options.json:
        options.json.write_text(json.dumps({"conditions": conditions, "datasets": datasets}, indent=2))
    bars = {"ratio": options.max_ratio, "bytes_per_row": options.max_bytes}
    sys.exit(any(each[name] > bar for each in datasets.values() for name, bar in bars.items()))


if __name__ == "__main__":
    main()
