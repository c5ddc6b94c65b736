"""Contestants taking turns in rounds, so that what else the machine does hits them all alike."""

import asyncio
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from sandbox_contestants import Contestant, answer

LOST_AFTER_S = 120.0
"""When an output that has not come is given up."""


REST_S = 2.0
"""The longest rest between two turns."""
LOOK_S = 0.05
IDLE = 0.2
"""Of one processor. Who takes no more has nothing left to work off: looking takes some of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One contestant for a short while, with so many in flight."""

    latencies_s: Sequence[float]
    """Of the executions whose output was right."""
    seconds: float
    cpu_s: float
    lost: int
    """Executions whose output was wrong or did not come."""
    why: str
    """What became of the last one that was lost."""

    @property
    def per_s(self) -> float:
        return len(self.latencies_s) / self.seconds

    def percentile_ms(self, percent: int) -> float:
        ordered = sorted(self.latencies_s)
        return ordered[len(ordered) * percent // 100] * 1e3 if ordered else math.nan


async def turn(
    who: Contestant, in_flight: int, *, seconds: float = math.inf, executions: float = math.inf
) -> Turn:
    """Keep `in_flight` executions running until time or number is used up, then wait for the last."""
    latencies_s: list[float] = []
    failures: list[str] = []
    numbers = count(1)
    cpu_s, started = who.cpu_s(), time.perf_counter()

    async def worker() -> None:
        while (number := next(numbers)) <= executions:
            began = time.perf_counter()
            failure = await _failure(who, number)
            now = time.perf_counter()
            if failure:
                failures.append(failure)
            else:
                latencies_s.append(now - began)
            if now - started >= seconds:
                return

    await asyncio.gather(*(worker() for _ in range(in_flight)))
    return Turn(
        latencies_s=latencies_s,
        seconds=time.perf_counter() - started,
        cpu_s=who.cpu_s() - cpu_s,
        lost=len(failures),
        why=failures[-1] if failures else "",
    )


async def _failure(who: Contestant, number: int) -> str:
    """Execute once: "" if the output is right, else what came instead."""
    try:
        async with asyncio.timeout(LOST_AFTER_S):
            output = await who.once(number)
    except Exception as error:  # whatever a contestant raises, its caller has no output
        return f"{type(error).__name__}: {error}"
    return "" if output == answer(number) else f"{output!r:.80} in place of {answer(number)!r}"


class Race:
    """All turns, and what they say."""

    def __init__(self, contestants: Sequence[Contestant], in_flight: Sequence[int]) -> None:
        self._contestants = contestants
        self._in_flight = in_flight
        self.turns = {
            who.name: {flight: list[Turn]() for flight in in_flight if flight <= who.max_in_flight}
            for who in contestants
        }
        """By contestant, then by how many are in flight, then by round."""

    async def run_round(self, turn_s: float) -> None:
        for flight in self._in_flight:
            for who in self._contestants:
                if flight in self.turns[who.name]:
                    self.turns[who.name][flight].append(await turn(who, flight, seconds=turn_s))
                    await _rest(who)

    def row(self, name: str) -> dict[str, float]:
        """Figure -> its median over the rounds. Latencies and processor time are in ms."""
        medians = {figure: _median(values) for figure, values in self._by_round(name).items()}
        known = {figure: value for figure, value in medians.items() if not math.isnan(value)}
        return known | {"lost": float(sum(one.lost for one in self._all(name)))}

    def why_lost(self, name: str) -> str:
        return next((one.why for one in self._all(name) if one.why), "")

    def ratios(self, name: str, base: str) -> dict[str, float]:
        """Each figure of `name` over that of `base`: the median of the rounds' ratios."""
        found: dict[str, float] = {}
        measure = self._by_round(base)
        for figure, values in self._by_round(name).items():
            if figure not in measure:
                continue
            pairs = zip(values, measure[figure], strict=True)
            ratio = _median([mine / theirs for mine, theirs in pairs if theirs > 0])
            if not math.isnan(ratio):
                found[f"{name} {figure} / {base} {figure}"] = ratio
        return found

    def _all(self, name: str) -> Iterator[Turn]:
        return (one for several in self.turns[name].values() for one in several)

    def _by_round(self, name: str) -> dict[str, list[float]]:
        """Figure -> one value a round."""
        turns = self.turns[name]
        figures: dict[str, list[float]] = {}
        if 1 in turns:
            figures["p50"] = [one.percentile_ms(50) for one in turns[1]]
            figures["p95"] = [one.percentile_ms(95) for one in turns[1]]
        for flight, several in turns.items():
            figures[f"per_s_at_{flight}"] = [one.per_s for one in several]
        # Of a whole round: the clock of another process ticks 100 times a second.
        figures["cpu"] = [_cpu_ms(one_round) for one_round in zip(*turns.values(), strict=True)]
        return figures


async def _rest(who: Contestant) -> None:
    """What a contestant still works off after its last answer is not to slow the next one."""
    until = time.perf_counter() + REST_S
    before = -math.inf
    while (now := who.cpu_s()) - before > IDLE * LOOK_S and time.perf_counter() < until:
        before = now
        await asyncio.sleep(LOOK_S)


def _cpu_ms(turns: Sequence[Turn]) -> float:
    done = sum(len(one.latencies_s) + one.lost for one in turns)
    return sum(one.cpu_s for one in turns) / done * 1e3


def _median(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else math.nan
