"""An optimizer step of ours beside TRL's `GRPOTrainer` and beside the least torch that does it.

    python benchmarks/trainer.py [--rounds 3] [--minutes 8] [--json PATH]
    python benchmarks/trainer.py --device cuda [--json PATH]

Same model (24 M parameters, 151,936 tokens), same multi-turn episodes, same loss. Each contestant is a
process of its own and they take turns, step by step, so that a busy machine is busy for all; a ratio is the
median of the rounds' ratios. Memory is a process's peak less what it held before it made the model. That the
work is the same is checked: the loss and the gradient norm of everybody's first step agree, and are shown. A
run that began at a load over its threads says that it was `busy`.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH leaves it out
from trainer_contestants import CHUNK, MICRO_BATCH_TOKENS, VOCAB, make_model, make_rows

OURS, SHARED, BARE, TRL, LEAN = "palaestra", "palaestra, shared", "bare", "trl", "trl, one by one"
RACES = {"turns": (OURS, "palaestra, checkpointed", BARE, TRL, LEAN), "prefix": (OURS, SHARED)}
"""Contestants by what they train on."""
ONCE = (LEAN,)
"""Looked at for its memory, in the first round alone: it computes what "trl" does, in more passes."""
BARS = {
    "turns: tokens/s, palaestra / trl": (4.0, math.inf),
    "turns: peak memory, palaestra / trl": (0.0, 0.3),
    "turns: tokens/s, palaestra / bare": (0.9, math.inf),
}
"""(at least, at most)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What is asked for on the command line."""

    rounds: int = 3
    minutes: float = 8.0
    """No round begins after about so many."""
    only: Sequence[str] = ()
    """Roles of a shorter race; none: all."""
    episodes: int = 8
    """Of the group that a step trains on."""
    threads: int = 2


@dataclass(kw_only=True, slots=True)
class Contestant:
    """A process that takes a step when told to."""

    role: str
    process: "subprocess.Popen[str]"
    first: dict[str, float] | None = None
    """The first step of all, timed or not."""
    steps: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    """Those that are timed."""

    @classmethod
    def start(cls, role: str, workload: str, settings: Settings) -> "Contestant":
        program = Path(__file__).with_name("trainer_contestants.py")
        sizes = ("--threads", str(settings.threads), "--episodes", str(settings.episodes))
        command = [sys.executable, "-P", str(program), role, workload, *sizes]
        environment = {**os.environ, "OMP_NUM_THREADS": str(settings.threads)}
        return cls(
            role=role,
            process=subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
            ),
        )

    def step(self) -> None:
        sent, answers = self.process.stdin, self.process.stdout
        assert sent is not None and answers is not None
        sent.write("\n")
        sent.flush()
        for line in answers:
            if line.startswith("step "):
                self.steps.append(json.loads(line.removeprefix("step ")))
                self.first = self.first or self.steps[0]
                return
        raise SystemExit(
            f"{self.role} ended with {self.process.wait()}; run trainer_contestants.py to see why"
        )

    def stop(self) -> None:
        self.process.communicate()

    @property
    def seconds(self) -> float:
        return statistics.median(step["seconds"] for step in self.steps)

    @property
    def peak_mb(self) -> float:
        return max(step["peak_mb"] for step in self.steps)


def race(workload: str, roles: Sequence[str], ends: float, settings: Settings) -> list[Contestant]:
    """Everybody steps in turn, at least once, until the rounds or the time are over."""
    with ExitStack() as stack:
        field_: list[Contestant] = []
        for role in roles:
            field_.append(Contestant.start(role, workload, settings))
            stack.callback(field_[-1].stop)
        for who in field_:
            if not who.role.startswith("trl"):  # its own step is long enough to be warm
                who.step()
                who.steps.clear()
        for number in range(settings.rounds):
            if number and time.monotonic() > ends:
                break
            print(f"{workload}: round {number + 1} of {settings.rounds}", file=sys.stderr, flush=True)
            for who in field_:
                if number == 0 or who.role not in ONCE:
                    who.step()
    for who in field_:
        _expect_same_work(who, field_[0])
    return field_


def _expect_same_work(who: Contestant, first: Contestant) -> None:
    assert who.first is not None and first.first is not None
    for name in ("loss", "grad_norm"):
        mine, theirs = who.first[name], first.first[name]
        if not math.isclose(mine, theirs, rel_tol=1e-3):
            raise SystemExit(f"{who.role} and {first.role} do other work: {name} is {mine} and {theirs}")


def measure(settings: Settings) -> dict[str, Any]:
    load = os.getloadavg()
    rows: dict[str, dict[str, dict[str, float]]] = {}
    ratios: dict[str, float] = {}
    started = time.monotonic()
    for workload, share in (("turns", 0.8), ("prefix", 1.0)):
        roles = [role for role in RACES[workload] if not settings.only or role in settings.only]
        ends = started + 60 * settings.minutes * share
        if len(roles) < 2:
            continue
        found = {w.role: w for w in race(workload, roles, ends, settings)}
        trained = sum(sum(row.tokens.mask) for row in make_rows(workload, settings.episodes))
        rows[workload] = {role: _row(who, trained) for role, who in found.items()}
        pairs = [(OURS, TRL), (OURS, BARE), (OURS, LEAN)] if workload == "turns" else [(SHARED, OURS)]
        for left, right in pairs:
            if left in found and right in found:
                ratios |= _ratios(workload, found[left], found[right])
    return {
        "busy": load[0] > settings.threads,
        "ratios": ratios,
        "bars": {name: _verdict(ratios.get(name), *limits) for name, limits in BARS.items()},
        "conditions": conditions(settings) | {"load": [load, os.getloadavg()], "rows": rows},
    }


def _row(who: Contestant, trained: int) -> dict[str, float]:
    assert who.first is not None
    return {
        "trained_tokens_per_s": round(trained / who.seconds, 1),
        "step_s": round(who.seconds, 3),
        "steps": len(who.steps),
        "peak_mb": round(who.peak_mb),
        "first_loss": who.first["loss"],
        "first_grad_norm": who.first["grad_norm"],
    }


def _ratios(workload: str, left: Contestant, right: Contestant) -> dict[str, float]:
    rates = [
        theirs["seconds"] / mine["seconds"] for mine, theirs in zip(left.steps, right.steps, strict=False)
    ]
    pair = f"{left.role} / {right.role}"
    return {
        f"{workload}: tokens/s, {pair}": round(statistics.median(rates), 3),
        f"{workload}: peak memory, {pair}": round(left.peak_mb / right.peak_mb, 3),
    }


def _verdict(value: float | None, least: float, most: float) -> str:
    if value is None:
        return "not measured"
    return "pass" if least <= value <= most else "FAIL"


def conditions(settings: Settings) -> dict[str, Any]:
    return {
        "processors": len(os.sched_getaffinity(0)),
        "threads": settings.threads,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "transformers", "trl")},
        "model": {"parameters": sum(p.numel() for p in make_model().parameters()), "vocabulary": VOCAB},
        "palaestra": {"micro_batch_tokens": MICRO_BATCH_TOKENS, "logit_chunk": CHUNK},
        "bare": {"micro_batch_tokens": MICRO_BATCH_TOKENS, "logit_chunk": CHUNK, "dtype": "float32"},
        "trl": {
            "loss_type": "dapo",
            "beta": 0.0,
            "bf16": False,
            "gradient_checkpointing": False,
            "per_device_train_batch_size": {TRL: settings.episodes, LEAN: 1},
            "step": "_compute_loss, backward, clip_grad_norm_, optimizer.step; nothing else is timed",
        },
        "episodes": {workload: _shape(workload, settings.episodes) for workload in RACES},
    }


def _shape(workload: str, episodes: int) -> dict[str, Any]:
    rows = make_rows(workload, episodes)
    lengths = [len(row.tokens.ids) for row in rows]
    first = [row.trained[0] for row in rows]
    width = max(first) + max(length - at for length, at in zip(lengths, first, strict=True))
    trained = sum(sum(row.tokens.mask) for row in rows)
    return {
        "lengths": lengths,
        "trained_tokens": trained,
        "trained_share": round(trained / sum(lengths), 3),
        "padding_of_trl": round(1 - sum(lengths) / (width * len(rows)), 3),
    }


def print_table(found: dict[str, Any]) -> None:
    for workload, contestants in found["conditions"]["rows"].items():
        print(
            f"{workload:32}{'trained tokens/s':>18}{'peak MB':>10}{'steps':>8}{'first loss':>13}{'norm':>10}"
        )
        for role, row in contestants.items():
            work = f"{row['first_loss']:13.6f}{row['first_grad_norm']:10.5f}"
            print(f"  {role:30}{row['trained_tokens_per_s']:18}{row['peak_mb']:10}{row['steps']:8}{work}")
    for name, ratio in found["ratios"].items():
        print(f"{found['bars'].get(name, ''):6}{name}: {ratio}")
    if found["busy"]:
        print("busy: the load was over the threads when it began; measure again on a quiet machine")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usual = Settings()
    parser.add_argument("--rounds", type=int, default=usual.rounds)
    parser.add_argument("--minutes", type=float, default=usual.minutes, help="no round begins after so many")
    parser.add_argument("--only", nargs="+", default=usual.only, metavar="ROLE", help="a shorter race")
    parser.add_argument("--episodes", type=int, default=usual.episodes, help="of the group of a step")
    parser.add_argument("--threads", type=int, default=usual.threads)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="write ratios, bars and conditions here")
    asked = parser.parse_args(arguments)
    if asked.device == "cuda":
        from trainer_gpu import measure_gpu

        found = measure_gpu()
        print(json.dumps(found, indent=2))
    else:
        names = [each.name for each in fields(Settings)]
        found = measure(Settings(**{name: getattr(asked, name) for name in names}))
        print_table(found)
    if asked.json is not None:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
