"""Numbers of a step under the names that training jobs on AWS give them, beside our own.

    trackers: [{kind: mlflow, aliases: [sagemaker]}]

`sagemaker` are the names in the logs of reinforcement fine-tuning of Amazon Nova as a SageMaker training job,
which are verl's; `hyperpod` those on HyperPod; `bedrock` the columns of step_wise_training_metrics.csv. They
are as aws/nova-forge-sdk on GitHub reads them (its log monitor and the tests of that, release of 2026-05-13).
A name is here only where it means the same number: what we do not measure, or otherwise, has none.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from ..sections.grpo import GrpoSection
from . import Tracker

SAGEMAKER = {
    "training/global_step": "step",
    "training/epoch": "epoch",
    "critic/score/mean": "reward",
    "critic/score/max": "reward_max",
    "critic/score/min": "reward_min",
    "critic/rewards/mean": "reward_shaped",
    "critic/rewards/max": "reward_shaped_max",
    "critic/rewards/min": "reward_shaped_min",
    "critic/advantages/mean": "advantage",
    "critic/advantages/max": "advantage_max",
    "critic/advantages/min": "advantage_min",
    "response_length/mean": "length",
    "response_length/max": "length_max",
    "response_length/min": "length_min",
    "response_length/clip_ratio": "cut_share",
    "prompt_length/mean": "prompt_length",
    "prompt_length/max": "prompt_length_max",
    "actor/entropy": "entropy",
    "actor/pg_loss": "loss",
    "actor/pg_clipfrac": "clip_fraction",
    "actor/ppo_kl": "approx_kl",
    "actor/grad_norm": "grad_norm",
    "actor/lr": "lr",
    "perf/mfu/actor": "mfu",
}
HYPERPOD = {
    "global_step": "step",
    "reduced_train_loss": "loss",
    "train_rm_score": "reward",
    "adv": "advantage",
    "kl": "kl",
    "ent": "entropy",
    "clipfrac": "clip_fraction",
    "lr": "lr",
    "prompt_length": "prompt_length",
    "completion_length": "length",
    "train_step_timing in s": "step_s",
}
BEDROCK = {"step_number": "step", "epoch_number": "epoch", "training_loss": "loss"}
FAMILIES: Mapping[str, Mapping[str, str]] = {
    "bedrock": BEDROCK,
    "hyperpod": HYPERPOD,
    "sagemaker": SAGEMAKER,
}
UNSHAPED = {name.replace("reward", "reward_shaped"): name for name in ("reward", "reward_max", "reward_min")}
"""Without shaping, the reward that is trained on is the grader's."""


def other_numbers(section: GrpoSection) -> set[str]:
    """The aliases that would mean something else under a recipe: verl has a KL penalty of the reward in
    `critic/rewards`, and none of the loss in `actor/pg_loss`, nor an entropy bonus."""
    found: set[str] = set()
    if section.kl_coefficient and section.kl_kind == "k1":
        found |= {name for name in SAGEMAKER if name.startswith("critic/rewards/")}
    if section.entropy_coefficient or (section.kl_coefficient and section.kl_kind != "k1"):
        found.add("actor/pg_loss")
    return found


def with_aliases(
    metrics: Mapping[str, float], families: Sequence[str], omit: Collection[str] = ()
) -> dict[str, float]:
    """The metrics, and those of them that have another name, under that too, but for those in `omit`.

    >>> with_aliases({"reward": 0.5}, ["hyperpod"])
    {'reward': 0.5, 'train_rm_score': 0.5}
    """
    found = dict(metrics)
    for family in families:
        for alias, name in FAMILIES[family].items():
            own = name if name in metrics else UNSHAPED.get(name, name)
            if own in metrics and alias not in omit:
                found.setdefault(alias, metrics[own])
    return found


class Aliased:
    """A tracker that is told both names."""

    def __init__(self, tracker: Tracker, families: Sequence[str], omit: Collection[str] = ()) -> None:
        self._tracker, self._families, self._omit = tracker, families, omit

    def resume(self, rows: Iterable[Mapping[str, float]]) -> None:
        self._tracker.resume([with_aliases(row, self._families, self._omit) for row in rows])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._tracker.log(step, with_aliases(metrics, self._families, self._omit))

    def close(self) -> None:
        self._tracker.close()
