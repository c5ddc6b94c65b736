"""The collector: bounded, retried, resumable, and never silent."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from palaestra.agents.collector import Collector, GroupRequest
from palaestra.agents.engine import PolicyVersion
from palaestra.agents.errors import LedgerError
from palaestra.agents.ledger import Ledger
from palaestra.agents.tokengraph import TokenGraph
from palaestra.agents.trajectory import EpisodeKey, Trajectory
from palaestra.envs import Episode, Failed, Outcome, Scored, StopReason, Task

V0 = PolicyVersion(0)
WEATHER = Failed(stage="policy", cause="EngineError", retryable=True)
BUG = Failed(stage="step", cause="TypeError", retryable=False)


def requests(tasks: int, samples: int) -> list[GroupRequest]:
    return [
        GroupRequest(split="train", epoch=0, task=Task(id=f"t{n}"), num_samples=samples, version=V0)
        for n in range(tasks)
    ]


class Arena:
    """Stands in for environment and engine: an outcome for every key, and a count of who is inside."""

    def __init__(self, judge: Callable[[EpisodeKey], Outcome] = lambda key: Scored(reward=1.0)) -> None:
        self.judge, self.played = judge, list[EpisodeKey]()
        self.inside = self.most_inside = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.three_inside = asyncio.Event()

    async def __call__(self, key: EpisodeKey, task: Task, version: PolicyVersion) -> Trajectory:
        self.played.append(key)
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        if self.inside == 3:
            self.three_inside.set()
        try:
            await asyncio.sleep(0)
            await self.gate.wait()
        finally:
            self.inside -= 1
        outcome = self.judge(key)
        failure = outcome if isinstance(outcome, Failed) else None
        episode = Episode(
            task_id=task.id,
            seed=key.seed(0),
            messages=(),
            stop=StopReason.FAILED if failure else StopReason.DONE,
            failure=failure,
        )
        return Trajectory(key=key, version=version, episode=episode, graph=TokenGraph(), outcome=outcome)


def test_groups_come_back_in_the_order_of_the_requests_and_within_the_bound(tmp_path: Path) -> None:
    async def main() -> None:
        arena = Arena()
        with Ledger(tmp_path) as ledger:
            groups = await Collector(arena, ledger, max_in_flight=5).collect(requests(6, 4))
        assert [group.task_id for group in groups] == [f"t{n}" for n in range(6)]
        assert [[member.key.sample for member in group.members] for group in groups] == [[0, 1, 2, 3]] * 6
        assert arena.most_inside == 5

    asyncio.run(main())


def test_a_retryable_failure_is_tried_again_and_every_try_is_on_record(tmp_path: Path) -> None:
    async def main() -> None:
        arena = Arena(lambda key: WEATHER if key.attempt < 2 else Scored(reward=1.0))
        with Ledger(tmp_path) as ledger:
            (group,) = await Collector(arena, ledger, max_attempts=3, retry_s=0.0).collect(requests(1, 2))
            assert [member.reward for member in group.members] == [1.0, 1.0]
            assert ledger.counts("train") == {"failed": 4, "scored": 2}
        assert len({key.seed(7) for key in arena.played if key.sample == 0}) == 1

    asyncio.run(main())


class Clock:
    """Time that passes only in pauses."""

    def __init__(self) -> None:
        self.now_s, self.pauses = 0.0, list[float]()

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_s += seconds
        await asyncio.sleep(0)


def test_a_short_outage_is_waited_for_with_a_longer_pause_each_time(tmp_path: Path) -> None:
    async def main() -> None:
        clock, told = Clock(), list[int]()
        arena = Arena(lambda key: WEATHER if clock.now_s < 1.5 else Scored(reward=1.0))
        with Ledger(tmp_path) as ledger:
            collector = Collector(
                arena, ledger, max_in_flight=1, retry_s=1.0, sleep=clock.sleep, on_pause=told.append
            )
            groups = await collector.collect(requests(20, 2))
        assert [member.reward for group in groups for member in group.members] == [1.0] * 40
        first, second = clock.pauses
        assert 0.5 <= first <= 1.0 <= second <= 2.0
        assert told == [1, 0, 1, 0]

    asyncio.run(main())


def test_what_was_given_up_gets_new_tries_on_a_later_start_and_every_try_is_counted(tmp_path: Path) -> None:
    async def main() -> None:
        away, back = Arena(lambda key: WEATHER if key.sample else BUG), Arena()
        with Ledger(tmp_path) as ledger:
            await Collector(away, ledger, max_attempts=2, retry_s=0.0).collect(requests(2, 2))
            assert ledger.counts("train") == {"failed": 6}
            groups = await Collector(back, ledger, max_attempts=2, retry_s=0.0).collect(requests(2, 2))
            assert ledger.counts("train") == {"failed": 6, "scored": 2}
        assert [[member.reward for member in group.members] for group in groups] == [[None, 1.0]] * 2
        assert [(key.sample, key.attempt) for key in back.played] == [(1, 2)] * 2

    asyncio.run(main())


def test_what_a_policy_was_trained_on_stands_with_its_failures(tmp_path: Path) -> None:
    async def main() -> None:
        arena = Arena(lambda key: WEATHER if key.sample else Scored(reward=1.0))
        settled = [replace(request, is_settled=True) for request in requests(2, 2)]
        with Ledger(tmp_path) as ledger:
            before = await Collector(arena, ledger, retry_s=0.0).collect(requests(2, 2))
            again = Arena()
            assert await Collector(again, ledger).collect(settled) == before
        assert not again.played

    asyncio.run(main())


def test_attempts_are_bounded_and_bugs_are_not_retried(tmp_path: Path) -> None:
    async def main() -> None:
        arena = Arena(lambda key: WEATHER if key.sample == 0 else BUG)
        with Ledger(tmp_path) as ledger:
            (group,) = await Collector(arena, ledger, max_attempts=2, retry_s=0.0).collect(requests(1, 2))
        assert [member.outcome for member in group.members] == [WEATHER, BUG]
        assert len(arena.played) == 3

    asyncio.run(main())


def test_what_the_run_file_holds_is_not_played_again(tmp_path: Path) -> None:
    async def main() -> None:
        first, second = Arena(), Arena()
        with Ledger(tmp_path) as ledger:
            one = await Collector(first, ledger).collect(requests(2, 2))
            ledger.issue(EpisodeKey(epoch=0, task_id="t2", sample=0), V0)  # in flight when the run died
            two = await Collector(second, ledger).collect(requests(3, 2))
        assert two[:2] == one
        assert sorted(key.task_id for key in second.played) == ["t2", "t2"]

    asyncio.run(main())


def test_leaving_early_cancels_what_is_in_flight(tmp_path: Path) -> None:
    async def main() -> None:
        arena = Arena()
        with Ledger(tmp_path) as ledger:
            async with aclosing(Collector(arena, ledger, max_in_flight=4).stream(requests(50, 2))) as groups:
                async for _ in groups:
                    arena.gate.clear()
                    break
            assert arena.inside == 0
            assert ledger.counts("train")["issued"] <= 8
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_cancelling_the_collector_cancels_its_episodes(tmp_path: Path) -> None:
    async def main() -> None:
        arena = Arena()
        arena.gate.clear()
        with Ledger(tmp_path) as ledger:
            collecting = asyncio.create_task(
                Collector(arena, ledger, max_in_flight=3).collect(requests(9, 1))
            )
            await arena.three_inside.wait()
            collecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await collecting
        assert arena.inside == 0
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


class Panic(BaseException):
    """No `Exception`: whoever catches only those never hears of it."""


@pytest.mark.parametrize(
    ("crash", "kind", "said"),
    [
        (ZeroDivisionError("ours"), ZeroDivisionError, "ours"),
        (Panic("ours"), Panic, "ours"),
        (KeyboardInterrupt("ours"), KeyboardInterrupt, "ours"),
        (asyncio.CancelledError(), RuntimeError, "ended with CancelledError"),
        (GeneratorExit(), RuntimeError, "ended with GeneratorExit"),
    ],
)
def test_a_crash_of_the_collector_itself_is_raised_not_swallowed(
    crash: BaseException, kind: type[BaseException], said: str, tmp_path: Path
) -> None:
    def judge(key: EpisodeKey) -> Outcome:
        raise crash

    async def main() -> None:
        with Ledger(tmp_path) as ledger:
            async with asyncio.timeout(10):
                with pytest.raises(kind, match=said):
                    await Collector(Arena(judge), ledger).collect(requests(3, 2))
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_a_crash_where_samples_are_issued_is_raised_not_waited_for(tmp_path: Path) -> None:
    async def main() -> None:
        with Ledger(tmp_path) as ledger:
            collector = Collector(Arena(), ledger)
        async with asyncio.timeout(10):
            with pytest.raises(LedgerError, match="closed database"):
                await collector.collect(requests(3, 2))

    asyncio.run(main())
