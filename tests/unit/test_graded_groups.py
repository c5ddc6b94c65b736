"""Grades of groups: who sees whom, which grade is too late, and what a group keeps of its turns."""

from collections.abc import Sequence
from pathlib import Path

from graded_rooms import (
    QUICK,
    RANGE,
    TASK,
    Counter,
    Held,
    fates,
    key_of,
    play_at_once,
    played,
    requests,
    sample_of,
    score,
)
from support import run_async

from palaestra.agents.collector import Collector
from palaestra.agents.evaluation import summarize
from palaestra.agents.grading.inline import Inline
from palaestra.agents.grading.job import Answer, GradeLimits, GradeRequest, Running
from palaestra.agents.grading.stage import Grading
from palaestra.agents.ledger import Ledger
from palaestra.agents.trajectory import EpisodeKey, Group, Played, Trajectory
from palaestra.envs import Episode, Failed, Score, Scored, Task, Ungraded, Workspace
from palaestra.envs.graders import grade_episode
from palaestra.trainer.advantages import Reason
from palaestra.trainer.judge import judge
from palaestra.trainer.recipe import GrpoSection


def late_groups(folder: Path, close_after_s: float | None) -> tuple[Group, Ledger]:
    """A group of four in which one grade never comes by itself."""

    def answers(request: GradeRequest, polls: int) -> Answer:
        number = sample_of(request.episodes[0])
        return Running() if number == 3 and polls < 20 else score(number / 4)

    async def main() -> tuple[Group, Ledger]:
        ledger = Ledger(folder)
        limits = GradeLimits(poll_s=0.01, close_after_s=close_after_s)
        async with Grading(ledger, Counter(answers), limits, reward_range=RANGE) as grading:
            (group,) = await Collector(play_at_once, ledger, grading=grading).collect(requests(1, 4))
        return group, ledger

    return run_async(main())


def test_a_group_that_waits_has_every_grade(tmp_path: Path) -> None:
    group, ledger = late_groups(tmp_path, None)
    assert [member.reward for member in group.members] == [0.0, 0.25, 0.5, 0.75]
    ledger.close()


def test_a_group_that_is_closed_goes_on_without_the_late_grade_or_not_at_all(tmp_path: Path) -> None:
    group, ledger = late_groups(tmp_path, 0.05)
    assert [member.reward for member in group.members] == [0.0, 0.25, 0.5, None]
    last = group.members[-1].outcome
    assert isinstance(last, Ungraded) and last.is_late and "late: not there 0.05 s after" in last.reason
    section = GrpoSection(steps=1)
    partial = judge([group], section, seed=0, step=0)
    assert len(partial.accepted) == 3
    assert [each.reason for each in partial.rejected] == [Reason.UNGRADED]
    dropped = judge([group], section, seed=0, step=0, late="drop")
    assert not dropped.accepted and {each.reason for each in dropped.rejected} == {
        Reason.UNGRADED,
        Reason.LATE_GROUP,
    }
    assert fates(ledger) == {"kept": 3, "given up": 1}
    ledger.close()


class Ranks:
    """The best of the siblings earns 1; it must see all of them."""

    def __init__(self) -> None:
        self.seen = list[list[int]]()

    async def grade_group(self, task: Task, episodes: Sequence[Episode]) -> Sequence[Score]:
        numbers = [sample_of(episode) for episode in episodes]
        self.seen.append(numbers)
        return [Score(reward=float(number == max(numbers))) for number in numbers]


def test_a_group_grader_sees_the_siblings_together_but_those_that_failed(tmp_path: Path) -> None:
    async def play(key: EpisodeKey, task: Task, version: int) -> Trajectory | Played:
        broken = Failed(stage="step", cause="TypeError", retryable=False)
        return played(key).judged(broken) if key.sample == 2 else played(key)

    async def main() -> None:
        ranks = Ranks()
        with Ledger(tmp_path) as ledger:
            stage = Grading(ledger, Inline(ranks), reward_range=RANGE, is_of_groups=True)
            async with stage as grading:
                groups = await Collector(play, ledger, grading=grading).collect(requests(2, 4))
            assert ranks.seen == [[0, 1, 3]] * 2
            assert [[m.reward for m in group.members] for group in groups] == [[0.0, 0.0, None, 1.0]] * 2
            assert ledger.counts("train") == {"scored": 6, "failed": 2}

    run_async(main())


def test_a_group_grader_that_forgets_one_gives_no_grade_to_any(tmp_path: Path) -> None:
    class Forgetful(Ranks):
        async def grade_group(self, task: Task, episodes: Sequence[Episode]) -> Sequence[Score]:
            return (await super().grade_group(task, episodes))[:-1]

    async def main() -> None:
        with Ledger(tmp_path) as ledger:
            stage = Grading(ledger, Inline(Forgetful()), QUICK, reward_range=RANGE, is_of_groups=True)
            async with stage as grading:
                (group,) = await Collector(play_at_once, ledger, grading=grading).collect(requests(1, 3))
        reasons = {m.outcome.reason for m in group.members if isinstance(m.outcome, Ungraded)}
        assert reasons == {"crash: TypeError: the grader returned 2 scores for 3 episodes"}

    run_async(main())


def test_a_group_grader_alone_with_an_episode_grades_a_group_of_one() -> None:
    outcome = run_async(grade_episode(Ranks(), TASK, played(key_of()).episode, reward_range=RANGE))
    assert outcome == Scored(reward=1.0)


def test_turns_and_components_are_kept_up_to_the_report(tmp_path: Path) -> None:
    async def main() -> None:
        judge = Held()
        judge.gate.set()
        with Ledger(tmp_path) as ledger:
            async with Grading(ledger, Inline(judge), reward_range=RANGE) as grading:
                await Collector(play_at_once, ledger, grading=grading).collect(requests(1, 2))
        with Ledger(tmp_path, read_only=True) as ledger:
            found = tuple(ledger.trajectories("train"))
        assert [m.outcome.turns for m in found if isinstance(m.outcome, Scored)] == [(0.0, 1.0)] * 2
        report = summarize("train", [Group(task_id="t0", members=found)], RANGE)
        assert report.turn_rewards == (0.0, 1.0) and report.components == {"even": 0.5}

    run_async(main())


def test_a_grader_without_a_number_for_a_turn_has_none_at_all(tmp_path: Path) -> None:
    class Odd:
        async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
            return Score(reward=1.0, turns=(0.5, None))  # type: ignore[arg-type]  # that is the point

    outcome = run_async(grade_episode(Odd(), TASK, played(key_of()).episode))
    assert isinstance(outcome, Ungraded) and "Score.turns[1] is None" in outcome.reason
