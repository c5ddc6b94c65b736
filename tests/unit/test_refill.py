"""Refilling: a member without a number is rolled out anew, once each, whatever is killed on the way."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from graded_rooms import RANGE, played, until
from graded_rooms import Counter as Grader
from support import run_async

from palaestra.agents.collector import Collector, GroupRequest
from palaestra.agents.engine import PolicyVersion
from palaestra.agents.grading.job import Answer, GradeLimits, GradeRequest, Running, Verdicts
from palaestra.agents.grading.regrade import groups_of
from palaestra.agents.grading.stage import Grading
from palaestra.agents.ledger import Ledger
from palaestra.agents.tokengraph import TokenGraph
from palaestra.agents.trajectory import EpisodeKey, Group, Played, Trajectory
from palaestra.envs import Episode, Failed, Outcome, Score, Scored, StopReason, Task, Ungraded
from palaestra.trainer.advantages import GroupPolicy, Reason, credit
from palaestra.trainer.judge import judge
from palaestra.trainer.recipe import GrpoSection
from palaestra.trainer.reporting.metrics import bias_metrics, episode_metrics

V0 = PolicyVersion(0)
BUG = Failed(stage="step", cause="TypeError", retryable=False)
WEATHER = Failed(stage="policy", cause="EngineError", retryable=True)
NO_GRADE = Ungraded(reason="no idea")
QUICK = GradeLimits(poll_s=0.01, retry_s=0.0)


def request(refill: int = 2, *, task: str = "t0", samples: int = 3) -> GroupRequest:
    return GroupRequest(
        split="train", epoch=0, task=Task(id=task), num_samples=samples, version=V0, refill=refill
    )


class Killed(BaseException):
    """The process is gone."""


class Room:
    """Plays an outcome by sample and attempt; `dies_at`: the number of the play in which it is killed."""

    def __init__(self, judge: Callable[[EpisodeKey], Outcome], dies_at: int | None = None) -> None:
        self.judge, self.dies_at, self.played = judge, dies_at, list[EpisodeKey]()

    async def __call__(self, key: EpisodeKey, task: Task, version: PolicyVersion) -> Trajectory:
        self.played.append(key)
        if len(self.played) == self.dies_at:
            raise Killed
        await asyncio.sleep(0)
        outcome = self.judge(key)
        failure = outcome if isinstance(outcome, Failed) else None
        stop = StopReason.FAILED if failure else StopReason.DONE
        episode = Episode(task_id=task.id, seed=key.seed(0), messages=(), stop=stop, failure=failure)
        return Trajectory(key=key, version=version, episode=episode, graph=TokenGraph(), outcome=outcome)


def collect(folder: Path, room: Room, *requests: GroupRequest, max_attempts: int = 2) -> list[Group]:
    async def main() -> list[Group]:
        with Ledger(folder) as ledger:
            collector = Collector(room, ledger, max_in_flight=3, max_attempts=max_attempts, retry_s=0.0)
            return await collector.collect(requests)

    return run_async(main())


def samples(group: Group) -> tuple[list[int], list[int]]:
    """Those that stand in it, and those that were replaced."""
    return [m.key.sample for m in group.members], [m.key.sample for m in group.replaced]


def test_a_member_without_a_number_is_replaced_by_another_sample_with_another_seed(tmp_path: Path) -> None:
    lost: dict[int, Outcome] = {1: NO_GRADE, 4: BUG}
    room = Room(lambda key: lost.get(key.sample, Scored(reward=float(key.sample))))
    (group,) = collect(tmp_path, room, request())
    assert samples(group) == ([0, 2, 7], [1, 4])
    assert [member.reward for member in group.members] == [0.0, 2.0, 7.0]
    assert [member.outcome for member in group.replaced] == [NO_GRADE, BUG]
    assert len({key.seed(0) for key in room.played}) == len(room.played) == 5


def test_tries_are_bounded_and_the_last_one_stands_for_the_next_rule(tmp_path: Path) -> None:
    room = Room(lambda key: NO_GRADE if key.sample % 3 == 1 else Scored(reward=float(key.sample == 0)))
    (group,) = collect(tmp_path, room, request())
    assert samples(group) == ([0, 2, 7], [1, 4])
    for policy, accepted, reasons in (
        (GroupPolicy(refill=2), [0, 2], ["ungraded"]),
        (GroupPolicy(refill=2, lost="group"), [], ["ungraded", "lost_sibling", "lost_sibling"]),
        (GroupPolicy(refill=2, min_size=3), [], ["ungraded", "small_group", "small_group"]),
    ):
        found = credit(group, policy=policy)
        assert [each.trajectory.key.sample for each in found.accepted] == accepted
        assert sorted(each.reason.value for each in found.rejected) == sorted([*reasons, *["replaced"] * 2])


def test_a_group_that_could_be_refilled_has_lost_nobody(tmp_path: Path) -> None:
    room = Room(lambda key: BUG if key.sample == 1 else Scored(reward=float(key.sample == 0)))
    (group,) = collect(tmp_path, room, request())
    found = credit(group, policy=GroupPolicy(refill=2, lost="group", min_size=3))
    assert [each.trajectory.key.sample for each in found.accepted] == [0, 2, 4]
    assert [(each.key.sample, each.reason, each.detail) for each in found.rejected] == [
        (1, Reason.REPLACED, "failed: step: TypeError")
    ]


def test_without_refill_nobody_is_replaced(tmp_path: Path) -> None:
    room = Room(lambda key: NO_GRADE)
    (group,) = collect(tmp_path, room, request(refill=0))
    assert samples(group) == ([0, 1, 2], [])
    with pytest.raises(ValueError, match=r"GroupPolicy\.refill is -1"):
        GroupPolicy(refill=-1)


def unlucky(key: EpisodeKey) -> Outcome:
    """A third of the samples has no number, whatever the order of events."""
    draw = key.seed(5) % 9
    return BUG if draw == 0 else NO_GRADE if draw < 3 else Scored(reward=draw / 9)


def test_killed_at_any_play_the_groups_are_the_same_and_every_rollout_ends_once(tmp_path: Path) -> None:
    wanted = [request(3, task=f"t{n}") for n in range(3)]
    whole_room = Room(unlucky)
    (tmp_path / "whole").mkdir()
    whole = collect(tmp_path / "whole", whole_room, *wanted)
    assert sum(len(group.replaced) for group in whole) >= 3
    for dies_at in range(1, len(whole_room.played) + 1):
        folder, ended = tmp_path / str(dies_at), Counter[EpisodeKey]()
        folder.mkdir()
        with pytest.raises(Killed):
            collect(folder, Room(unlucky, dies_at), *wanted)
        with Ledger(folder, read_only=True) as ledger:
            ended.update(each.key for each in ledger.trajectories("train"))
        again = Room(unlucky)
        assert collect(folder, again, *wanted) == whole
        assert not set(again.played) & ended.keys() and max(Counter(again.played).values(), default=1) == 1
        with Ledger(folder, read_only=True) as ledger:
            assert ledger.counts("train").total() == len(whole_room.played)


def test_a_passing_failure_is_tried_again_first_and_replaced_for_good_then(tmp_path: Path) -> None:
    away = Room(lambda key: WEATHER if key.sample == 1 else Scored(reward=1.0))
    (group,) = collect(tmp_path, away, request())
    assert samples(group) == ([0, 2, 4], [1])
    assert [(key.sample, key.attempt) for key in away.played if key.sample in (1, 4)] == [
        (1, 0),
        (1, 1),
        (4, 0),
    ]
    back = Room(lambda key: Scored(reward=0.0))
    assert collect(tmp_path, back, request()) == [group]
    assert back.played == []


def test_after_an_outage_that_used_up_every_rollout_the_last_one_gets_new_tries(tmp_path: Path) -> None:
    away = Room(lambda key: WEATHER if key.sample % 3 == 1 else Scored(reward=1.0))
    (group,) = collect(tmp_path, away, request(1))
    assert samples(group) == ([0, 2, 4], [1]) and group.members[2].outcome == WEATHER
    back = Room(lambda key: Scored(reward=0.0))
    (group,) = collect(tmp_path, back, request(1))
    assert [(key.sample, key.attempt) for key in back.played] == [(4, 2)]
    assert group.members[2].reward == 0.0 and samples(group) == ([0, 2, 4], [1])


def test_what_a_policy_was_trained_on_is_not_refilled_later(tmp_path: Path) -> None:
    (group,) = collect(
        tmp_path, Room(lambda key: NO_GRADE if key.sample == 1 else Scored(reward=1.0)), request(0)
    )
    settled, room = replace(request(2), is_settled=True), Room(lambda key: Scored(reward=1.0))
    assert collect(tmp_path, room, settled) == [group]
    assert room.played == []
    (refilled,) = collect(tmp_path, room, request(2))
    assert samples(refilled) == ([0, 2, 4], [1])
    assert collect(tmp_path, room, settled) == [refilled]


def test_a_request_for_named_samples_is_not_refilled() -> None:
    with pytest.raises(ValueError, match="2 samples, refilled 1 times"):
        replace(request(1), num_samples=2, samples=(0, 7))


# --- grades that come later ---


def collect_graded(
    folder: Path, adapter: Grader, *, limits: GradeLimits = QUICK, is_of_groups: bool = False, refill: int = 2
) -> tuple[Group, list[int]]:
    plays = list[int]()

    async def play(key: EpisodeKey, task: Task, version: PolicyVersion) -> Trajectory | Played:
        plays.append(key.sample)
        done = played(key)
        return done.judged(BUG) if key.sample == 2 else done

    async def main() -> Group:
        with Ledger(folder) as ledger:
            async with Grading(
                ledger, adapter, limits, reward_range=RANGE, is_of_groups=is_of_groups
            ) as grading:
                collector = Collector(play, ledger, grading=grading, max_in_flight=2)
                (group,) = await collector.collect([request(refill)])
                return group

    return run_async(main()), plays


def answer(samples: set[int]) -> Callable[[GradeRequest, int], Answer]:
    """A grade for each episode but those of these samples."""

    def graded(asked: GradeRequest, polls: int) -> Answer:
        each = [sample_of(episode) for episode in asked.episodes]
        return Verdicts(
            each=tuple(Ungraded(reason="no idea") if n in samples else Score(reward=n / 10) for n in each)
        )

    return graded


def sample_of(episode: Episode) -> int:
    assert episode.workspace is not None
    return int(dict(episode.workspace.files)["sample"])


def test_an_episode_that_the_grader_gives_up_is_replaced_when_that_is_known(tmp_path: Path) -> None:
    group, plays = collect_graded(tmp_path, Grader(answer({0, 3})))
    assert samples(group) == ([1, 5, 6], [2, 0, 3])
    assert sorted(plays) == [0, 1, 2, 3, 5, 6]


def test_a_restart_in_the_middle_of_refilling_plays_nothing_twice(tmp_path: Path) -> None:
    first = Grader(
        lambda asked, polls: Running() if sample_of(asked.episodes[0]) == 3 else answer({0})(asked, 0)
    )
    plays = list[int]()

    async def play(key: EpisodeKey, task: Task, version: PolicyVersion) -> Played:
        plays.append(key.sample)
        return played(key)

    async def main() -> Group:
        with Ledger(tmp_path) as ledger:
            async with Grading(ledger, first, QUICK, reward_range=RANGE) as grading:
                collecting = asyncio.create_task(
                    Collector(play, ledger, grading=grading).collect([request()])
                )
                await until(lambda: any(sample_of(each.episodes[0]) == 3 for each in first.taken))
                collecting.cancel()
                with suppress(asyncio.CancelledError):
                    await collecting
        second = Grader(answer({0}), taken=first.taken)
        with Ledger(tmp_path) as ledger:
            async with Grading(ledger, second, QUICK, reward_range=RANGE) as grading:
                (group,) = await Collector(play, ledger, grading=grading).collect([request()])
                return group

    group = run_async(main())
    assert samples(group) == ([1, 2, 3], [0])
    assert sorted(plays) == [0, 1, 2, 3]


def test_a_grade_that_is_late_leaves_its_place_empty(tmp_path: Path) -> None:
    late = Grader(
        lambda asked, polls: Running() if sample_of(asked.episodes[0]) == 0 else answer(set())(asked, 0)
    )
    group, plays = collect_graded(tmp_path, late, limits=replace(QUICK, close_after_s=0.1))
    assert samples(group) == ([0, 1, 5], [2])
    assert isinstance(group.members[0].outcome, Ungraded) and group.members[0].outcome.is_late
    assert sorted(plays) == [0, 1, 2, 5]


def test_the_time_of_a_group_begins_anew_with_its_last_episode(tmp_path: Path) -> None:
    asked_at = list[float]()

    def slowly(asked: GradeRequest, polls: int) -> Answer:
        """The first one is given up at once; whoever replaces it takes most of the group's time."""
        if sample_of(asked.episodes[0]) != 3:
            return answer({0})(asked, 0)
        asked_at.append(asyncio.get_running_loop().time())
        return answer(set())(asked, 0) if asked_at[-1] - asked_at[0] > 0.2 else Running()

    group, _ = collect_graded(tmp_path, Grader(slowly), limits=replace(QUICK, close_after_s=0.4))
    assert samples(group) == ([1, 3, 5], [0, 2]) or samples(group) == ([1, 3, 5], [2, 0])
    assert [member.reward for member in group.members] == [0.1, 0.3, 0.5]


def test_a_grader_of_groups_sees_who_replaced_what_failed_and_its_word_stands(tmp_path: Path) -> None:
    grader = Grader(answer({1}))
    group, plays = collect_graded(tmp_path, grader, is_of_groups=True)
    assert samples(group) == ([0, 1, 5], [2])
    assert [[sample_of(each) for each in asked.episodes] for asked in grader.taken] == [[0, 1, 5]]
    assert group.members[1].outcome == Ungraded(reason="no idea") and sorted(plays) == [0, 1, 2, 5]


def test_stored_groups_hold_what_replaced_and_what_was_replaced(tmp_path: Path) -> None:
    collect(tmp_path, Room(lambda key: NO_GRADE if key.sample == 1 else Scored(reward=1.0)), request())
    with Ledger(tmp_path, read_only=True) as ledger:
        (stored,) = groups_of(ledger, "train").values()
    assert [member.key.sample for member in stored.members] == [0, 1, 2, 4]


# --- what it does to the mean ---


def test_the_bias_of_refilling_is_reported(tmp_path: Path) -> None:
    outcomes: dict[int, Outcome] = {0: Scored(reward=1.0), 1: NO_GRADE, 2: BUG, 3: Scored(reward=0.0)}
    later: dict[int, Outcome] = {5: Scored(reward=0.0), 6: BUG, 10: Scored(reward=0.0)}
    groups = collect(tmp_path, Room(lambda key: (outcomes | later)[key.sample]), request(samples=4))
    assert samples(groups[0]) == ([0, 3, 5, 10], [1, 2, 6])
    section = GrpoSection(group_size=4, refill=2)
    found = bias_metrics(groups, judge(groups, section, seed=0, step=0), RANGE)
    assert found == pytest.approx(
        {
            "lost_share": 3 / 7,
            "reward_kept": 1 / 4,
            "reward_lower": 1 / 7,
            "reward_upper": 4 / 7,
            "replaced": 3,
            "refilled": 2,
            "refill_shift": 1 / 4 - 1 / 2,
        }
    )
    counted = episode_metrics(groups, maximum=1.0)
    assert (counted["episodes"], counted["ungraded"], counted["failed"]) == (7, 1, 2)
