"""Who is trained on, and with which advantage."""

from pathlib import Path

import pytest

from palaestra.agents.engine import PolicyVersion
from palaestra.agents.tokengraph import TokenGraph
from palaestra.agents.trajectory import EpisodeKey, Group, Trajectory
from palaestra.envs import Episode, Failed, Outcome, Scored, StopReason, Ungraded
from palaestra.trainer.judge import judge
from palaestra.trainer.recipe import GrpoSection
from palaestra.trainer.reporting.metrics import MetricsFile, episode_metrics, judgement_metrics, troubles


def group(task_id: str, *outcomes: Outcome) -> Group:
    return Group(
        task_id=task_id,
        members=tuple(
            Trajectory(
                key=EpisodeKey(epoch=0, task_id=task_id, sample=sample),
                version=PolicyVersion(0),
                episode=Episode(task_id=task_id, seed=0, messages=(), stop=StopReason.DONE),
                graph=TokenGraph(),
                outcome=outcome,
            )
            for sample, outcome in enumerate(outcomes)
        ),
    )


def scored(*rewards: float) -> list[Outcome]:
    return [Scored(reward=reward) for reward in rewards]


NO_GRADE, BROKEN = Ungraded(reason="timeout"), Failed(stage="step", cause="X", retryable=True)
GROUPS = [
    group("a", *scored(1, 0), NO_GRADE, BROKEN),
    group("b", *scored(1, 1, 1, 1)),
    group("c", *scored(0, 1, 0, 0)),
]


def test_each_episode_is_on_exactly_one_side_with_a_reason() -> None:
    found = judge(GROUPS, GrpoSection(steps=1), seed=0, step=0)
    assert len(found.accepted) == 6
    reasons = [(task, sample, reason) for task, _, sample, reason, _ in found.rejected_rows]
    whole_group = [("b", sample, "zero_variance") for sample in range(4)]
    assert reasons == [("a", 2, "ungraded"), ("a", 3, "failed"), *whole_group]


def test_a_member_without_a_number_is_in_no_mean_and_no_baseline() -> None:
    metrics = episode_metrics(GROUPS, maximum=1.0)
    assert metrics["reward"] == pytest.approx(6 / 10)
    assert (metrics["ungraded"], metrics["failed"], metrics["episodes"]) == (1, 1, 12)
    advantages = [each.advantage for each in judge(GROUPS[:1], GrpoSection(steps=1), seed=0, step=0).accepted]
    alone = judge([group("a", *scored(1, 0))], GrpoSection(steps=1), seed=0, step=0)
    assert advantages == [each.advantage for each in alone.accepted]


def test_a_step_without_a_grade_has_no_mean() -> None:
    metrics = episode_metrics([group("a", NO_GRADE, BROKEN)], maximum=1.0)
    assert "reward" not in metrics and "pass_rate" not in metrics


def test_shuffled_rewards_keep_their_number_and_lose_their_place() -> None:
    groups = [group(f"t{n}", *scored(1, 0, 0, 0)) for n in range(20)]
    section = GrpoSection(steps=1, shuffle_rewards=True)
    found = judge(groups, section, seed=0, step=3)
    again = judge(groups, section, seed=0, step=3)
    assert found == again
    assert found != judge(groups, section, seed=0, step=4)
    rewards = [each.trajectory.reward for each in found.accepted]
    samples = [each.trajectory.key.sample for each in found.accepted if each.trajectory.reward == 1]
    assert sum(1 for reward in rewards if reward == 1) == len(samples) > 0
    assert set(samples) != {0}


def test_rejections_are_counted_by_reason() -> None:
    metrics = judgement_metrics(judge(GROUPS, GrpoSection(steps=1), seed=0, step=0))
    assert metrics == {
        "accepted": 6,
        "zero_variance_share": pytest.approx(1 / 3),
        "rejected_failed": 1,
        "rejected_ungraded": 1,
        "rejected_zero_variance": 4,
    }


@pytest.mark.parametrize("damage", [b'{"step": 4, "rew', b"\x00" * 512, b"\xff\n", b'{"stap": 1}\n', b"[]\n"])
def test_metrics_are_made_anew_whatever_became_of_the_file(tmp_path: Path, damage: bytes) -> None:
    file, path = MetricsFile(tmp_path / "metrics.jsonl"), tmp_path / "metrics.jsonl"
    file.write({"step": 1})
    path.write_bytes(path.read_bytes() + damage)
    file.rewrite([{"step": 1}, {"step": 2, "loss": float("nan")}])
    file.write({"step": 3})
    assert path.read_text() == '{"step": 1}\n{"step": 2, "loss": null}\n{"step": 3}\n'


def test_what_has_no_number_is_counted_by_its_reason() -> None:
    members = group("a", NO_GRADE, BROKEN, BROKEN, *scored(1)).members
    ((worst, twice), (other, once)) = troubles(members).items()
    assert (twice, once) == (2, 1) and worst.startswith(f"{BROKEN.stage}: {BROKEN.cause}")
    assert other == NO_GRADE.reason


def test_rewards_whose_sum_would_overflow_have_a_mean() -> None:
    assert episode_metrics([group("a", *scored(1.7e308, 1.7e308))], maximum=1.0)["reward"] == 1.7e308


def test_a_metric_that_is_no_number_is_null_in_the_file(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.write({"step": 1, "loss": float("nan"), "ratio_max": float("inf"), "reward": 0.5})
    assert (tmp_path / "metrics.jsonl").read_text() == (
        '{"step": 1, "loss": null, "ratio_max": null, "reward": 0.5}\n'
    )
