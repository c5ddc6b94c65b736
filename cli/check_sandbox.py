"""The tiers of sandboxes on this machine: which walls hold, and how fast they are."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import quantiles

from ..envs.check import Check
from ..sandboxes import SandboxSpec, SandboxUnavailable, open_sandbox
from ..sandboxes.backends import EMBEDDED_TIERS
from ..sandboxes.selftest import self_test
from ..trainer.recipe_file import RecipeError

NUM_EMBEDDED, NUM_DOCKER = 24, 4
"""Sandboxes that are opened for the figures, one after the other and then all at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TierReport:
    """What was found."""

    tier: str | None
    """The tier that programs would run in; None: there is none."""
    checks: Sequence[Check]
    speed: Mapping[str, float] = field(default_factory=dict[str, float])
    """p50_s, p95_s: seconds to open a sandbox, run /bin/true in it and close it; per_s: of those, at once."""


async def check_tiers(backend: str) -> TierReport:
    """Try the walls of a tier; of "auto", tiers from the strongest down until one holds."""
    if backend == "docker":
        return await _check_docker()
    if backend not in ("auto", *EMBEDDED_TIERS):
        known = ", ".join(("auto", *EMBEDDED_TIERS, "docker"))
        raise RecipeError(f"--backend {backend}: there is no such tier; use one of {known}")
    checks: list[Check] = []
    for tier in EMBEDDED_TIERS if backend == "auto" else (backend,):
        test = await self_test(tier)
        for wall, problem in test.walls.items():
            detail = problem or test.proofs[wall]
            checks.append(Check(name=f"{tier}: {wall}", passed=problem is None, detail=detail))
        if test.ok:
            speed = await _measure(SandboxSpec(backend=tier), NUM_EMBEDDED)
            return TierReport(tier=tier, checks=[*checks, _speed_row(speed)], speed=speed)
    return TierReport(tier=None, checks=checks)


async def _check_docker() -> TierReport:
    """Its walls are Docker's own; here it is seen to work."""
    try:
        speed = await _measure(SandboxSpec(backend="docker"), NUM_DOCKER)
    except SandboxUnavailable as error:
        return TierReport(tier=None, checks=[Check(name="docker: start", passed=False, detail=str(error))])
    started = Check(name="docker: start", passed=True, detail="containers start, run and go")
    return TierReport(tier="docker", checks=[started, _speed_row(speed)], speed=speed)


async def _measure(spec: SandboxSpec, number: int) -> dict[str, float]:
    async def one() -> float:
        started = time.perf_counter()
        async with open_sandbox(spec) as box:
            await box.run(["/bin/true"])
        return time.perf_counter() - started

    alone = [await one() for _ in range(number)]
    started = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(number)))
    cuts = quantiles(alone, n=20, method="inclusive")
    return {"p50_s": cuts[9], "p95_s": cuts[18], "per_s": number / (time.perf_counter() - started)}


def _speed_row(speed: Mapping[str, float]) -> Check:
    p50_ms, p95_ms = 1000 * speed["p50_s"], 1000 * speed["p95_s"]
    detail = f"open, run, close: p50 {p50_ms:.1f} ms, p95 {p95_ms:.1f} ms; {speed['per_s']:.0f}/s at once"
    return Check(name="speed", passed=True, detail=detail)
