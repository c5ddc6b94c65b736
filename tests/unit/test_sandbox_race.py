"""The figures of benchmarks/sandboxes.py: what counts as an output, and what a ratio is."""

import asyncio
import subprocess
import sys

import pytest
from sandbox_contestants import Contestant, answer
from sandbox_cpu import tree_cpu_s
from sandbox_race import Race, turn
from support import run_async

pytestmark = pytest.mark.alone


class Careless(Contestant):
    """Gives every third caller the output of another, and every fifth none."""

    name = "careless"

    async def once(self, number: int) -> bytes:
        if number % 5 == 0:
            raise ConnectionError("gone")
        return answer(number + (number % 3 == 0))


class Slow(Contestant):
    def __init__(self, name: str, seconds: float) -> None:
        self.name = name
        self._seconds = seconds

    async def once(self, number: int) -> bytes:
        await asyncio.sleep(self._seconds)
        return answer(number)


def test_a_wrong_output_and_an_exception_are_lost_and_no_others() -> None:
    result = run_async(turn(Careless(), 4, executions=30))
    wrong = [number for number in range(1, 31) if number % 5 == 0 or number % 3 == 0]
    assert result.lost == len(wrong)
    assert len(result.latencies_s) == 30 - len(wrong)
    assert result.why


def test_a_turn_starts_as_many_as_may_be_in_flight_and_waits_for_the_last() -> None:
    result = run_async(turn(Slow("slow", 0.05), 7, seconds=0.01))
    assert len(result.latencies_s) == 7
    assert min(result.latencies_s) >= 0.05


def test_a_ratio_compares_turns_of_the_same_round() -> None:
    fast, slow = Slow("fast", 0.01), Slow("slow", 0.2)

    async def play() -> Race:
        race = Race([fast, slow], [1, 8])
        for _ in range(3):
            await race.run_round(0.1)
        return race

    race = run_async(play())
    found = race.ratios("fast", "slow")
    assert found["fast p50 / slow p50"] < 0.6
    assert found["fast per_s_at_8 / slow per_s_at_8"] > 1.5
    assert [len(turns) for turns in race.turns["fast"].values()] == [3, 3]
    assert race.row("fast")["lost"] == 0


def test_a_contestant_takes_no_turn_with_more_in_flight_than_it_can_have() -> None:
    few, many = Slow("few", 0.001), Slow("many", 0.001)
    few.max_in_flight = 2
    race = Race([few, many], [1, 4])
    run_async(race.run_round(0.01))
    assert list(race.turns["few"]) == [1] and list(race.turns["many"]) == [1, 4]
    for base, name in (("few", "many"), ("many", "few")):
        assert set(race.ratios(name, base)) >= {f"{name} p50 / {base} p50"}
        assert f"{name} per_s_at_4 / {base} per_s_at_4" not in race.ratios(name, base)


def test_who_lost_every_output_has_a_rate_of_nothing_and_no_latency() -> None:
    class Broken(Contestant):
        name = "broken"

        async def once(self, number: int) -> bytes:
            return b""

    race = Race([Broken()], [1])
    run_async(race.run_round(0.01))
    row = race.row("broken")
    assert row["per_s_at_1"] == 0 and row["lost"] > 0 and "p50" not in row


def test_processor_time_counts_children_that_live_and_those_that_have_ended() -> None:
    busy = (
        "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\nimport sys; sys.stdin.read()"
    )
    before = tree_cpu_s()
    command = [sys.executable, "-S", "-c", busy]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        living = tree_cpu_s() - before
        child.communicate()
    assert living >= 0.28
    assert tree_cpu_s() - before == pytest.approx(living, abs=0.2)
