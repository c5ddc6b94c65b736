"""The rows, one after the other: each bounded in time, and afterwards nothing may be left."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from . import (
    archives,
    clock,
    disk,
    files,
    kernel,
    lifecycle,
    memory,
    network,
    output,
    processes,
    sessions,
    sight,
)
from .matrix import refusal
from .row import Broken, Row, Verdict
from .target import Target, View

ROWS: Mapping[int, Row] = MappingProxyType(
    {
        row.number: row
        for row in (
            *(processes.fork_bombs, processes.thread_bomb),
            *(memory.one_process, memory.ten_processes, memory.beside_processes),
            *(disk.disk_bombs, disk.entries),
            *(output.floods, output.whole_outputs, output.odd_outputs),
            *(clock.endless_loops, clock.endless_sleeps),
            *(processes.daemons, processes.orphans),
            *(output.no_stdin, output.unread_stdin),
            *(sight.proc, sight.secrets_outside, sight.descriptors),
            *(network.ways_out, network.sockets),
            *(kernel.mounts, kernel.namespaces),
            processes.against_the_supervisor,
            *(kernel.calls, kernel.terminals, kernel.privileges),
            *(clock.clocks, clock.processors),
            *(files.traps, archives.archives, files.names),
            *(sessions.forgeries, sessions.hardships),
            sight.residue,
            *(lifecycle.killed_drivers, lifecycle.engine_faults, lifecycle.crowds),
        )
    }
)
"""Every row by its number in the list of attacks."""

FULL_LIMIT = 30
"""How many times as long as its quick form a row's full form may take."""
BUSY_SETTLE = 5
"""How many times as long as on a quiet machine it may take until nothing is left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of one row on one backend."""

    row: int
    title: str
    tier: str
    verdict: Verdict
    detail: str
    """What was tried in vain; of a broken row, what got through."""
    seconds: float
    settled_s: float
    """Seconds after the row until nothing of it was left."""

    @property
    def passed(self) -> bool:
        return self.verdict is not Verdict.BROKEN


async def run_suite(target: Target, numbers: Iterable[int] | None = None) -> AsyncGenerator[Outcome, None]:
    """The outcomes of these rows, or of all, as they come.

    >>> async for outcome in run_suite(Target("namespaces", view_of("namespaces"))): ...
    """
    for number in ROWS if numbers is None else numbers:
        yield await run_row(target, number)


async def run_row(target: Target, number: int) -> Outcome:
    """Attack one backend with one row, and look at what is left."""
    row, started = ROWS[number], time.monotonic()
    why = refusal(number, target.backend)
    before = await asyncio.to_thread(target.view.everything)
    verdict, detail = await _attempt(target, row, why)
    seconds = time.monotonic() - started
    left, settled_s = await _settle(target.view, before)
    if left:
        verdict, detail = Verdict.BROKEN, f"left behind: {', '.join(sorted(left))} (and before: {detail})"
    return Outcome(
        row=number,
        title=row.title,
        tier=target.backend,
        verdict=verdict,
        detail=detail,
        seconds=seconds,
        settled_s=settled_s,
    )


async def _attempt(target: Target, row: Row, why: str | None) -> tuple[Verdict, str]:
    if why is None:
        attack, good, said = row.attack, Verdict.HELD, ""
    else:
        assert row.refusal is not None, f"row {row.number} has nothing to try where it is refused"
        attack, good, said = row.refusal, Verdict.REFUSED, f"{why}. Tried instead: "
    limit_s = row.limit_s * (FULL_LIMIT if target.is_full else 1)
    limit = asyncio.timeout(limit_s)
    try:
        async with limit:
            return good, said + await attack(target)
    except Broken as broken:
        return Verdict.BROKEN, str(broken)
    except Exception as error:  # every kind: the backend is foreign, and whatever it raises is a finding
        late = f"it did not end in {limit_s:g} s"
        return Verdict.BROKEN, late if limit.expired() else f"{type(error).__name__}: {error}"


async def _settle(view: View, before: frozenset[str]) -> tuple[frozenset[str], float]:
    """(what is left, how long it took until nothing was)."""
    started = time.monotonic()
    while True:
        left = await asyncio.to_thread(view.everything) - before
        waited = time.monotonic() - started
        if not left or waited > BUSY_SETTLE * view.settles_s:
            return left, waited
        await asyncio.sleep(0.01)
