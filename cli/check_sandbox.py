"""The tiers of sandboxes on this machine: which walls hold, who enforces which limit, how fast they are."""

import asyncio
import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

from ..envs.check import Check
from ..sandboxes import SandboxLost, SandboxSpec, open_sandbox
from ..sandboxes.backends import EMBEDDED_TIERS, UNSAFE, backends
from ..sandboxes.conformance import ROWS, Outcome, Target, Verdict, run_suite, view_of
from ..sandboxes.enforcement import enforcements
from ..sandboxes.selftest import self_test
from ..trainer.recipe_file import RecipeError
from .progress import TerminalProgress

NUM_EMBEDDED, NUM_OTHERS = 24, 4
"""Sandboxes that are opened for the figures, one after the other and then all at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TierReport:
    """What was found."""

    tier: str | None
    """The tier that programs would run in; None: there is none."""
    checks: Sequence[Check]
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """p50_s, p95_s: seconds to open a sandbox, run /bin/true in it and close it; per_s: of those, at once;
    limits: who enforces which; rows: the outcomes of the conformance suite."""

    @property
    def passed(self) -> bool:
        """Whether every check of the tier passed. Of "auto", stronger tiers may have failed."""
        ours = [check for check in self.checks if check.name.startswith(f"{self.tier}: ")]
        return self.tier is not None and all(check.passed for check in ours)


async def check_tiers(backend: str, progress: TerminalProgress | None = None) -> TierReport:
    """Try the walls of a tier; of "auto", tiers from the strongest down until one holds.

    With `progress`, which shows it, the whole conformance suite too.
    """
    known = [name for name in backends() if name != UNSAFE]  # which has no walls, and would take the attacks
    if backend not in known:
        raise RecipeError(f"--backend {backend}: no such tier to check; use one of {', '.join(known)}")
    checks: list[Check] = []
    for tier in EMBEDDED_TIERS if backend == "auto" else (backend,):
        try:
            test = await self_test(tier)
        except SandboxLost as error:
            checks.append(Check(name=f"{tier}: start", passed=False, detail=str(error)))
            continue
        for wall, problem in test.walls.items():
            detail = problem or test.proofs[wall]
            checks.append(Check(name=f"{tier}: {wall}", passed=problem is None, detail=detail))
        if test.ok:
            more, facts = await _look_closer(tier, progress)
            return TierReport(tier=tier, checks=[*checks, *more], facts=facts)
    return TierReport(tier=None, checks=checks)


async def _look_closer(
    tier: str, progress: TerminalProgress | None
) -> tuple[Sequence[Check], Mapping[str, Any]]:
    """(limits, speed and rows as checks, the same for machines)."""
    limits = await enforcements(tier)
    checks = [
        Check(
            name=f"{tier}: limit on {each.limit}",
            passed=bool(each.by),
            detail=f"{each.detail}; enforced by {' and '.join(each.by) or 'nobody'}",
        )
        for each in limits
    ]
    speed = await _measure(tier)
    checks.append(_speed_row(tier, speed))
    facts = {**speed, "limits": {each.limit: list(each.by) for each in limits}}
    if progress is not None:
        outcomes = await _suite(tier, progress)
        checks += map(_suite_row, outcomes)
        facts["rows"] = [dataclasses.asdict(outcome) for outcome in outcomes]
    return checks, facts


async def _measure(tier: str) -> dict[str, Any]:
    async def one() -> float:
        started = time.perf_counter()
        async with open_sandbox(SandboxSpec(backend=tier)) as box:
            await box.run(["/bin/true"])
        return time.perf_counter() - started

    number = NUM_EMBEDDED if tier in EMBEDDED_TIERS else NUM_OTHERS
    alone = [await one() for _ in range(number)]
    started = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(number)))
    cuts = quantiles(alone, n=20, method="inclusive")
    return {"p50_s": cuts[9], "p95_s": cuts[18], "per_s": number / (time.perf_counter() - started)}


def _speed_row(tier: str, speed: Mapping[str, float]) -> Check:
    p50_ms, p95_ms = 1000 * speed["p50_s"], 1000 * speed["p95_s"]
    detail = f"open, run, close: p50 {p50_ms:.1f} ms, p95 {p95_ms:.1f} ms; {speed['per_s']:.0f}/s at once"
    return Check(name=f"{tier}: speed", passed=True, detail=detail)


async def _suite(tier: str, progress: TerminalProgress) -> list[Outcome]:
    """Every row in its full size, which takes minutes."""
    outcomes: list[Outcome] = []
    progress.phase(f"{tier} rows", len(ROWS))
    numbers = iter(ROWS)
    progress.waiting(_title(next(numbers)))
    async for outcome in run_suite(Target(tier, view_of(tier), is_full=True)):
        outcomes.append(outcome)
        progress.note(
            f"row {outcome.row:2} {outcome.verdict.value} in {outcome.seconds:.1f} s: {outcome.title}"
        )
        progress.advance()
        progress.waiting(_title(next(numbers, None)))
    return outcomes


def _title(number: int | None) -> str:
    return "" if number is None else f"row {number}: {ROWS[number].title}"


def _suite_row(outcome: Outcome) -> Check:
    refused = "refused: " if outcome.verdict is Verdict.REFUSED else ""
    return Check(
        name=f"{outcome.tier}: row {outcome.row}",
        passed=outcome.passed,
        detail=f"{outcome.title}. {refused}{outcome.detail}",
    )
